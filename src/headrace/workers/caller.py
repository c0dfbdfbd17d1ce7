"""A thread that waits for its own answer and hears it itself: fewer switches of threads than by way of the worker's."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from headrace.engine.uninterrupted import uninterrupted
from headrace.engine.waiters import Waiter
from headrace.model.pending import Pending

if TYPE_CHECKING:
    from headrace.workers.serving import Serving


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
    def here(cls) -> Caller | None:
        """This thread's. None where there are no descriptors left."""
        found = _local.caller
        if found is None:
            with contextlib.suppress(OSError):
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
        with contextlib.suppress(AttributeError):  # it could not be made
            os.close(self._fd)


def hear(serving: Serving, request: Pending, until: float | None) -> None:
    """The thread waits for `request`, at most until then. Where nothing else is with the process, it hears the answer
    itself. It may return before that has come, and is to wait as usual then."""
    caller = Caller.here()
    if caller is None:
        return
    try:
        if not serving.is_lent_to(caller):
            uninterrupted(partial(serving.lend_to, caller, request))
        if not serving.is_lent_to(caller):
            return
        request.add_done_callback(caller)
        hears = True
        while hears and not request._done:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                break
            caller.listen(serving.fd, left)
            hears = uninterrupted(partial(serving.hear_for, caller, request))
    finally:
        if serving.is_lent_to(caller):
            uninterrupted(serving.caller_has_left)
        if not request._done:
            request.remove_done_callback(caller)


class _Local(threading.local):
    caller: Caller | None = None


_local = _Local()
