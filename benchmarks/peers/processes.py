"""A server under measurement: its whole process tree, and nothing else.

Rule 1: a process belongs to the server when its environment carries the run's id. That also finds what was
        daemonised or has lost its parent (ray, JVM workers).
Rule 2: only such processes are signalled, each through a pidfd: never a stranger that was given the same number.
Rule 3: `stop()` leaves none behind.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ID = "PEERS_RUN_ID"
TICK = os.sysconf("SC_CLK_TCK")


class Memory(NamedTuple):
    """What a process tree holds, in MiB. PSS counts a page shared by n processes as 1/n."""

    rss: float
    pss: float
    processes: int


class Server:
    """A process tree that was started for a measurement."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> None:
        run_id = uuid.uuid4().hex
        self._mark = f"{ID}={run_id}".encode()
        self.log = log
        # A server is measured with the options of its command line, not with those of whoever measures.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")}
        with log.open("wb") as output:
            self.started_at = time.perf_counter()
            self.process = subprocess.Popen(
                argv,
                env={**inherited, **env, ID: run_id},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def pids(self) -> list[int]:
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and self._ours(int(entry))]

    def exited(self) -> bool:
        return self.process.poll() is not None and not self.pids()

    def cpu_seconds(self) -> float:
        """CPU time so far. Children that have ended are in their parent's account, so it does not run backwards."""
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(int(field) for field in fields[11:15])  # utime, stime, and both of the children
        return ticks / TICK

    def memory(self) -> Memory:
        rss = pss = processes = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                kib = {line.split()[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
                rss, pss, processes = rss + kib["Rss:"], pss + kib["Pss:"], processes + 1
        return Memory(round(rss / 1024, 1), round(pss / 1024, 1), processes)

    def wait_until(self, ready: Callable[[], bool], within: float) -> float:
        """Seconds from the start of the process until `ready()`. RuntimeError with the end of its log otherwise."""
        while not ready():
            if self.exited():
                raise RuntimeError(f"ended with {self.process.returncode} before it answered: {self.log_tail()}")
            if time.perf_counter() - self.started_at > within:
                raise RuntimeError(f"gave no answer within {within:.0f} s: {self.log_tail()}")
            time.sleep(0.02)
        return time.perf_counter() - self.started_at

    def log_tail(self, lines: int = 20) -> str:
        return "\n".join(["", *self.log.read_text(errors="replace").splitlines()[-lines:]])

    def stop(self, grace: float) -> None:
        """Ask the first process, then all of them, then insist."""
        if self.process.poll() is None:
            self.process.terminate()
        if not self._gone(within=grace):
            self._signal(signal.SIGTERM)
            if not self._gone(within=1.0):
                self._signal(signal.SIGKILL)
        if not self._gone(within=5.0):
            raise RuntimeError(f"processes {self.pids()} survived SIGKILL")

    def _gone(self, within: float) -> bool:
        end = time.perf_counter() + within
        while not self.exited():
            if time.perf_counter() > end:
                return False
            time.sleep(0.05)
        return True

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids():
            with contextlib.suppress(OSError):
                handle = os.pidfd_open(pid)
                try:
                    if self._ours(pid):  # once more: the handle may be of the number's next owner
                        signal.pidfd_send_signal(handle, number)
                finally:
                    os.close(handle)

    def _ours(self, pid: int) -> bool:
        try:
            return self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # gone meanwhile, or someone else's
            return False


def machine_cpu_seconds() -> tuple[float, float]:
    """(busy, stolen by the hypervisor), of all cores together."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq) / TICK, steal / TICK


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    while True:
        port = random.randrange(12000, 30000)  # some servers refuse ports above 49151
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
