"""What is looked at though a worker's process says nothing: whether it hangs, was stopped, or goes on with what was
cancelled. On the worker's thread."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from headrace.engine.remote import RemoteStream, hand_back
from headrace.errors import HeadraceError, ResponseTimeout, WorkerDied
from headrace.workers.in_hand import InHand
from headrace.workers.process import STACK, Process
from headrace.workers.window import Window

if TYPE_CHECKING:
    from headrace.workers.pool import Pool

IDLE = 1.0
"""Seconds a worker sleeps that has nothing in hand."""
LOOK = 0.25
"""Seconds without an answer after which it is looked at whether a process was stopped."""
STUCK = 0.02
"""Seconds without an answer after which what was sent ahead is taken back."""
STOPPED = 1.0
"""Seconds a stopped process may stay so while it has work."""


class Watch:
    """Over one process."""

    def __init__(self, pool: Pool, stream: RemoteStream, process: Process, hand: InHand, window: Window) -> None:
        self._pool, self._stream, self._process, self._hand, self._window = pool, stream, process, hand, window
        self.since = 0.0
        """When it last said something."""
        self._seen_stopped = False
        self._idle_look = 0.0  # when the next one at an idle process is due
        self.cancelled: deque[int] = deque()
        """Ids of runs that are not wanted any more, and that it was not told of."""

    def patience(self) -> float:
        """Seconds until then."""
        alarm = self._stream.alarm
        if not self._hand.sent:  # somebody else may send something meanwhile, which is to be watched
            return IDLE if alarm is None else min(IDLE, max(0.0, alarm - self._pool.engine.clock.now()))
        now = time.monotonic()
        first = next(iter(self._hand.sent.values()))
        look = STUCK if len(self._hand.sent) > 1 else LOOK
        left = min(look, max(first.began, self.since) + self._pool.options.response_timeout - now)
        if first.stop_at is not None:
            left = min(left, first.stop_at - now)
        if alarm is not None:
            left = min(left, alarm - self._pool.engine.clock.now())
        return max(0.0, left)

    def overdue(self) -> HeadraceError | None:
        """Why the process must not go on, if that is so: it hangs, was stopped, or does not leave a run it was told to.
        What waits behind a run that turns out long is taken back before that, where another worker could do it."""
        pool = self._pool
        first = next(iter(self._hand.sent.values()))
        now = time.monotonic()
        silent = now - max(first.began, self.since)
        self._take_back_what_is_stuck(silent)
        if first.stop_at is not None and now >= first.stop_at:
            return self._does_not_leave()
        if silent >= pool.options.response_timeout:
            return self._hangs(ResponseTimeout(pool.name, pool.options.response_timeout))
        return self._was_stopped(silent)

    def idle(self) -> HeadraceError | None:
        """The same, where it has nothing to do: whether it was stopped all the same, at two looks in a row."""
        now = time.monotonic()
        if now < self._idle_look:  # the thread was woken for something else: a look opens a file
            return None
        self._idle_look = now + IDLE / 2
        before, self._seen_stopped = self._seen_stopped, self._process.is_stopped()
        return self._was_stopped(STOPPED) if before and self._seen_stopped else None

    def _take_back_what_is_stuck(self, silent: float) -> None:
        """`silent`: seconds since anything was heard."""
        hand, pool = self._hand, self._pool
        if len(hand.sent) > 1 and silent >= STUCK and pool.options.idempotent and pool.ready > 1:
            taken = hand.withdraw()
            if taken:
                self._window.forget()
                hand_back(pool.engine, self._stream, [(each.work, each.taken_at) for each in taken])

    def _does_not_leave(self) -> HeadraceError:
        return WorkerDied(self._pool.name, "ran what was cancelled, did not leave it in time, and was ended")

    def _hangs(self, error: ResponseTimeout) -> HeadraceError:
        stopped = self._was_stopped(STOPPED)  # then it is no fault of the callable's, and there is nobody to ask
        if stopped is not None:
            return stopped
        self._process.show_stack()
        time.sleep(STACK)
        return error

    def _was_stopped(self, silent: float) -> HeadraceError | None:
        if silent >= STOPPED and self._process.is_stopped():
            return WorkerDied(self._pool.name, "was stopped by a signal (SIGSTOP, or a debugger), and was ended")
        return None

    def tell_all(self) -> None:
        """That nobody wants what it runs."""
        self.cancelled.extend(each.id for each in self._hand.sent.values() if each.stop_at is None)
        self.cancel()

    def cancel(self) -> None:
        while self.cancelled:
            each = self._hand.sent.get(self.cancelled.popleft())
            if each is not None and each.stop_at is None:
                self._hand.arena.mark(each.id)
                each.stop_at = time.monotonic() + self._pool.options.cancel_grace
