"""A thread that waits for its own answer and hears it itself: fewer switches of threads than by way of the worker's."""

from __future__ import annotations

import contextlib
import os
import select
import threading

from headrace.engine.future import Waiter


class Caller(Waiter):
    """Of one thread, and used by it alone. As a callback of what it waits for it wakes it, where another thread has the
    answer: it came another way, or was cancelled."""

    __slots__ = ("_fd", "_poll")

    def __init__(self) -> None:
        self.who = threading.get_ident()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    @classmethod
    def here(cls) -> Caller:
        """This thread's. OSError where there are no descriptors left."""
        found = _local.caller
        if found is None:
            found = _local.caller = cls()
        return found

    def __call__(self, _: object) -> None:
        if threading.get_ident() != self.who:
            os.eventfd_write(self._fd, 1)

    def listen(self, fd: int, seconds: float | None) -> None:
        """Until there is something to read at `fd`, somebody woke it, or the time is up."""
        poll = self._poll
        poll.register(fd, select.POLLIN)
        try:
            heard = poll.poll(None if seconds is None else min(seconds, 1e6) * 1000 + 0.5)
        finally:
            poll.unregister(fd)
        if len(heard) > 1 or (heard and heard[0][0] == self._fd):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._fd)

    def __del__(self) -> None:
        os.close(self._fd)


class _Local(threading.local):
    caller: Caller | None = None


_local = _Local()
