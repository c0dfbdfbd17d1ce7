"""Lines to a file, a pipe or a terminal, written by a thread of their own: who has one waits for no disk and no reader.

Rule 1: `put` never blocks. What does not fit is dropped and counted, and said once there is room again.
Rule 2: the thread begins with the first line. It sleeps while there is nothing, and gathers for a moment before it
        writes, so that who puts line after line does not wake it for each. Clear the flag, then drain: what is put
        meanwhile is either taken now or wakes it again.
Rule 3: it writes only where there is room (`poll`), and never more than a pipe takes at once: so it is never stuck in
        a write to somebody who does not read, and `close` is heard.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
CAPACITY = 8192
"""Lines that may wait to be written."""
GATHER = 0.05
"""Seconds."""
SAY = 1.0
"""Seconds between two times it is said that lines are being lost."""
LOOK = 0.25
"""Seconds between two looks at whether it is to end, while there is no room."""


class Lines(Generic[T]):
    """`put` is called by one thread at a time. What is put is rendered on the writer's thread."""

    def __init__(
        self,
        render: Callable[[T], str],
        *,
        fd: int | None = None,
        path: str | None = None,
        gather: float = GATHER,
        capacity: int = CAPACITY,
        say: Callable[[str], object] | None = None,
    ) -> None:
        """To an open file that stays open, or to a path: opened here, for an OSError to be told at once; `reopen`.

        `say` is told what went wrong with the file, and how much was lost, on the writer's thread.
        """
        self.dropped = 0
        """Lines that did not fit, or could not be written."""
        self.written = 0
        self._render, self._path, self._gather, self._capacity = render, path, gather, capacity
        self._say = say or (lambda _: None)
        self._fd = fd if fd is not None else _opened(path or "")
        self._lines: deque[T] = deque()
        self._awake = False  # the writer has been rung for
        self._bell = threading.Event()
        self._hurry = threading.Event()  # do not gather
        self._ended = False
        self._reopen = False
        self._thread: threading.Thread | None = None
        self._refused = 0  # of `dropped`, those that did not fit: counted by `put`, the others by the writer
        self._failed = 0
        self._said = 0  # of `dropped`, those that were told of
        self._said_at = 0.0
        self._is_failing = False
        self._notes: list[T] = []  # the writer's own
        self._writing = False
        self._quiet = threading.Condition()  # told when there is nothing left to write

    def put(self, line: T) -> None:
        if len(self._lines) >= self._capacity or self._ended:
            self._refused += 1
            self.dropped = self._refused + self._failed
            return
        self._lines.append(line)
        if not self._awake:
            self._awake = True
            if self._thread is None:
                self._start()
            self._bell.set()

    def note(self, line: T) -> None:
        """For `say` alone, which is called by the writer: the next line."""
        self._notes.append(line)

    def reopen(self) -> None:
        """Its file was moved away: go on in a new one of its name, with the next line."""
        self._reopen = True

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until what was put before is written. False if it could not be, in that time."""
        self._hurry.set()
        try:
            with self._quiet:
                return self._quiet.wait_for(lambda: not self._lines and not self._writing, timeout)
        finally:
            self._hurry.clear()

    def close(self, timeout: float = 1.0) -> bool:
        """Write what is left, for at most `timeout` seconds; then end."""
        flushed = self.flush(timeout)
        self._ended = True
        self._bell.set()
        if self._thread is not None:
            self._thread.join(2 * LOOK)
        if self._path is not None and (self._thread is None or not self._thread.is_alive()):
            os.close(self._fd)
        return flushed

    # ---- the writer's

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._loop, name="headrace-lines", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._ended:
            self._bell.wait()
            self._bell.clear()
            if self._gather:
                self._hurry.wait(self._gather)
            self._awake = False
            self._writing = True
            self._drain()
            with self._quiet:
                self._writing = False
                self._quiet.notify_all()

    def _drain(self) -> None:
        lines, notes = self._lines, self._notes
        while (lines or notes) and not self._ended:
            if self._reopen:
                self._open_again()
            chunk, count = bytearray(), 0
            while notes:
                chunk += self._rendered(notes.pop(0))
            while lines and len(chunk) < select.PIPE_BUF // 2:
                chunk += self._rendered(lines.popleft())
                count += 1
            self._write(bytes(chunk), count)

    def _rendered(self, line: T) -> bytes:
        try:
            return self._render(line).encode(errors="backslashreplace") + b"\n"
        except Exception as error:  # one bad line must not end the writer
            return f"a line could not be written: {type(error).__name__}: {error}\n".encode(errors="backslashreplace")

    def _write(self, data: bytes, count: int) -> None:
        while data:
            if not self._has_room():
                break
            try:
                data = data[os.write(self._fd, data[: select.PIPE_BUF]) :]
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EINTR):
                    self._fails(error)
                    break
        if data:
            self._failed += count
            self.dropped = self._refused + self._failed
        else:
            self.written += count
            self._works()

    def _has_room(self) -> bool:
        """Waits for it. False: it is to end."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while not self._ended:
            if poll.poll(LOOK * 1000):
                return True
        return False

    def _fails(self, error: OSError) -> None:
        if not self._is_failing:
            self._is_failing = True
            self._say(f"{self._path or 'a line'} cannot be written: {error.strerror}")

    def _works(self) -> None:
        self._is_failing = False
        lost = self.dropped - self._said
        if lost and (not self._lines or time.monotonic() - self._said_at > SAY):  # a flood is not said line by line
            self._said += lost
            self._said_at = time.monotonic()
            self._say(
                f"{lost:,} lines for {self._path or 'the log'} were lost: they came faster than they were written"
            )

    def _open_again(self) -> None:
        self._reopen = False
        try:
            fd = _opened(self._path or "")
        except OSError as error:  # the old one is better than none
            self._say(f"{self._path} cannot be opened again: {error.strerror}")
            return
        os.close(self._fd)
        self._fd = fd


def _opened(path: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):
            flags = (
                os.O_RDWR | os.O_CLOEXEC
            )  # else opening it would wait for a reader, and one that leaves would end us
    except FileNotFoundError:
        pass
    return os.open(path, flags, 0o640)
