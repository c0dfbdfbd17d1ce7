"""A worker's process: started by executing its environment's Python, watched by its pidfd, killed with its children."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from headrace.workers.arena import Arena
from headrace.workers.gently import apart
from headrace.workers.memory import passable
from headrace.workers.offspring import Offspring

CHILD = Path(__file__).with_name("child.py")
SOCKET_BUFFER = 1 << 20
"""Bytes asked for: a turn's frames fit."""
STACK = 0.2
"""Seconds a process has to write where it hangs."""


class Process:
    """Started by the constructor, on the thread that is to own it: the kernel kills it when that thread ends."""

    def __init__(
        self, python: Sequence[str], env: Mapping[str, str], arena: Arena, generation: int, fds: Sequence[int] = ()
    ) -> None:
        """OSError if it cannot be started. `python`: an interpreter and its flags. `fds`: files it is given as well."""
        self.generation = generation
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        theirs = socket.socket(fileno=passable(theirs.detach()))
        try:
            for end in (self.sock, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
            command = [
                *python,
                str(CHILD),
                theirs.fileno(),
                arena.fd,
                arena.size,
                generation,
                os.getpid(),
            ]
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(), arena.fd, *fds),
                env=dict(env),
                bufsize=0,
                **apart(),  # Ctrl-C at the terminal is for its owner, who drains
            )
        except BaseException:
            self.sock.close()
            raise
        finally:
            theirs.close()
        self.was_late = False
        """It had not ended in time, and was killed."""
        self.shows_stack = threading.Event()
        """What it writes from then on says where it hangs."""
        self.sock.setblocking(False)
        self.pid = self._process.pid
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except OSError:
            self.kill()
            self._process.wait()
            self.sock.close()
            raise

    @property
    def outputs(self) -> tuple[IO[bytes], IO[bytes]]:
        """Its stdout and stderr."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        return self._process.stdout, self._process.stderr

    def is_stopped(self) -> bool:
        """Whether a signal has stopped it (SIGSTOP, a debugger). A pidfd does not tell."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] in ("T", "t")

    def show_stack(self) -> None:
        """Have it write the stacks of its threads to its stderr, whatever it does."""
        self.shows_stack.set()
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGUSR2)

    def kill(self) -> None:
        """It and all it has started."""
        offspring = Offspring(self.pid)
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self._process.kill()
        offspring.kill()

    def end(self, timeout: float) -> str:
        """Wait until it has ended, kill it if it has not after `timeout` seconds, and let go of all there is of it. How
        it ended."""
        offspring = Offspring(self.pid)
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)  # others may have its descriptor as well
        self.sock.close()
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.was_late = True
            self.kill()
            code = self._process.wait()
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)  # what it has started
        offspring.kill()
        os.close(self.pidfd)
        return ending(code)


def ending(code: int) -> str:
    """What an exit status says, in words."""
    if code >= 0:
        return f"ended by itself with exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "; if nobody did that on purpose, it was the kernel, for memory" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


def said_of_memory(how: str, limit: int | None, was_over: bool) -> str:
    """What is to be added to how a process ended that may have `limit` bytes. `was_over`: the kernel says it was."""
    if limit is None or "SIGKILL" not in how:
        return ""
    return f"; it {'was over' if was_over else 'may have'} its memory_limit of {limit:,} bytes"


def resident_bytes(pid: int) -> int | None:
    """What is resident of a process; None if it has gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
