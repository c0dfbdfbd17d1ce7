"""What workers write to stdout and stderr, line by line into our log, with the model's name.

Rule 1: a worker never waits for our log for long: what comes is read as fast as it comes, and of a flood RATE lines a
        second are logged; the others are counted, and said. What is not logged is not looked at line by line either,
        and is fetched PAUSE seconds apart, by as much as the pipe holds: our interpreter is everybody's, and each
        read takes it from those who serve. A flood goes no faster than ROOM each PAUSE, some 200 MB/s.
Rule 2: a line is cut at LONGEST bytes, and what terminals obey in it is escaped. Nothing is kept but
        the last lines, for whoever asks why it died.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import select
import threading
import time
from collections import deque
from typing import IO

RATE = 100.0
BURST = 500.0
PAUSE = 0.005
ROOM = 1 << 20
"""Bytes a pipe is made to hold, where the system allows so much."""
LONGEST = 8192
KEPT = 40
MARKED = re.compile("\x1e([0-9a-zA-Z-]{1,64})\x1e")
"""What `archives/printed` begins a line with that belongs to a request."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_log = logging.getLogger("headrace.workers")


class Allowance:
    """How many lines may be logged: RATE a second, and BURST at once. Pure: told what time it is."""

    def __init__(self, now: float, rate: float = RATE, burst: float = BURST) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._at = burst, now
        self.lost = 0

    def take(self, lines: int, now: float) -> int:
        """How many of so many."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        allowed = min(lines, int(self._left))
        self._left -= allowed
        self.lost += lines - allowed
        return allowed

    @property
    def is_used_up(self) -> bool:
        return self._left < 1

    def take_lost(self) -> int:
        lost, self.lost = self.lost, 0
        return lost


class Output:
    """Reads one process's output until it ends, on a thread of its own."""

    def __init__(
        self, files: tuple[IO[bytes], IO[bytes]], model: str, who: str, shows_stack: threading.Event | None = None
    ) -> None:
        """`shows_stack`: what comes once that is set is kept, and told with why the process was ended: once."""
        self._files, self._model, self._who = files, model, who
        self._shows_stack = shows_stack or threading.Event()
        self.last: deque[str] = deque(maxlen=KEPT)
        """Lines of stderr."""
        self._thread = threading.Thread(target=self._loop, name=f"headrace-{who}-output", daemon=True)
        self._thread.start()

    @property
    def is_stack(self) -> bool:
        """Whether the last lines are where it hung."""
        return self._shows_stack.is_set()

    def close(self, timeout: float) -> None:
        """Its process has ended: read what is left, for so many seconds at most; others may have the pipe as well."""
        self._until = time.monotonic() + timeout
        self._thread.join(timeout + 1)

    _until: float | None = None

    def _loop(self) -> None:
        poll = select.poll()
        rest = {}
        for file in self._files:
            poll.register(file, select.POLLIN)
            rest[file.fileno()] = b""
            with contextlib.suppress(OSError):  # who may not have more pages keeps the 64 KiB there are
                fcntl.fcntl(file, fcntl.F_SETPIPE_SZ, ROOM)
        err = self._files[1].fileno()
        allowance = Allowance(time.monotonic())
        while rest:
            if self._until is not None and time.monotonic() > self._until:
                break
            ready = poll.poll(100)
            if not ready:  # a flood that has ended is told of now, not with the next line
                allowance.take(0, time.monotonic())
            for fd, _ in ready:
                data = os.read(fd, ROOM)
                if not data:
                    poll.unregister(fd)
                    self._say(rest.pop(fd), fd == err, allowance)
                    continue
                whole, newline, left = data.rpartition(b"\n")
                if newline:
                    self._say(rest[fd] + whole, fd == err, allowance)
                    rest[fd] = left[:LONGEST]
                else:
                    rest[fd] = (rest[fd] + data)[:LONGEST]
            if allowance.lost and (not rest or not allowance.is_used_up or allowance.lost > 100_000):
                self._log(f"{allowance.take_lost():,} lines of output were not logged: they came too fast")
            if allowance.is_used_up:
                time.sleep(PAUSE)
        lost = allowance.take_lost()
        if lost:
            self._log(f"{lost:,} lines of output were not logged: they came too fast")
        for file in self._files:
            file.close()

    def _say(self, text: bytes, err: bool, allowance: Allowance) -> None:
        """Whole lines."""
        if not text:
            return
        count = text.count(b"\n") + 1
        allowed = allowance.take(count, time.monotonic())
        if allowed and not (err and self.is_stack):
            for line in text.split(b"\n", allowed)[:allowed]:
                if line:
                    self._log(_readable(line))
        if err:
            self.last.extend(escaped(_split(_readable(line))[1]) for line in text.rsplit(b"\n", KEPT)[-KEPT:] if line)

    def _log(self, text: str) -> None:
        request_id, text = _split(text)
        _log.info("%s: %s", self._who, escaped(text), extra={"model": self._model, "request_id": request_id})


def _split(line: str) -> tuple[str | None, str]:
    """(the request it belongs to, what it says)."""
    marked = MARKED.match(line)
    return (None, line) if marked is None else (marked[1], line[marked.end() :])


def escaped(text: str) -> str:
    """`text` with its control characters, but tabs, as Python writes them: who reads the log reads it in a terminal,
    which would do what they say."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _readable(line: bytes) -> str:
    return line[:LONGEST].decode(errors="backslashreplace").rstrip("\r")
