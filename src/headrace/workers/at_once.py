"""What is different of a worker whose callable is a coroutine function: several of its runs go on at once.

Rule 1: it is sent no more than go on at once, so what was sent has begun, unless its event loop is blocked.
Rule 2: each run has its own time. One that takes too long is cancelled alone, and fails with ResponseTimeout; only if
        it does not leave within the grace, or its loop is blocked, does its process end. The others begin once more.
Rule 3: where it is not known which of several runs ended a process, those that had begun are run one at a time before
        anything else is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sized
from typing import TYPE_CHECKING

from headrace.engine.remote import RemoteStream
from headrace.errors import HeadraceError, ResponseTimeout
from headrace.workers import frames
from headrace.workers.connection import Connection
from headrace.workers.in_hand import InHand, Sent
from headrace.workers.process import Process
from headrace.workers.watch import LOOK, Watch
from headrace.workers.window import Window

if TYPE_CHECKING:
    from headrace.workers.pool import Pool

MOST = 256
"""Runs at once: `arena.MARKS`."""


class AtOnce(Window):
    """`tried`: what is to run alone."""

    def __init__(self, runs: int, tried: Sized) -> None:
        super().__init__()
        self._runs, self._tried = runs, tried

    @property
    def size(self) -> int:
        return 1 if len(self._tried) else self._runs

    @size.setter
    def size(self, _: int) -> None:
        """How long runs take says nothing about it."""


class WatchAtOnce(Watch):
    def __init__(
        self, pool: Pool, stream: RemoteStream, process: Process, hand: InHand, window: Window, connection: Connection
    ) -> None:
        super().__init__(pool, stream, process, hand, window)
        self._connection = connection
        self._leaving: deque[Sent] = deque()  # told to leave, in the order of their `stop_at`

    def patience(self) -> float:
        sent = self._hand.sent
        if not sent:
            return super().patience()
        now, first, left = time.monotonic(), self._first_to_be_late(), LOOK
        if first is not None:
            left = min(left, first.began + self._pool.options.response_timeout - now)
        if self._leaving:
            left = min(left, self._leaving[0].stop_at - now)  # type: ignore[operator]
        alarm = self._stream.alarm
        if alarm is not None:
            left = min(left, alarm - self._pool.engine.clock.now())
        return max(0.0, left)

    def overdue(self) -> HeadraceError | None:
        now, sent, options = time.monotonic(), self._hand.sent, self._pool.options
        while (late := self._first_to_be_late()) is not None and now - late.began >= options.response_timeout:
            late.overdue = ResponseTimeout(self._pool.name, options.response_timeout)
            self._ask_to_leave(late, frames.OVERDUE)
        while self._leaving and self._leaving[0].id not in sent:
            self._leaving.popleft()
        if self._leaving and now >= self._leaving[0].stop_at:  # type: ignore[operator]
            each = self._leaving[0]
            self._hand.is_known = True
            if each.overdue is not None:
                return self._hangs(each.overdue)
            if each.id <= self._hand.arena.begun():
                return self._does_not_leave()
            self._hand.is_known = False
            each.stop_at = now + options.cancel_grace  # it has not even begun: its loop is blocked
            self._leaving.rotate(-1)
        self._take_back_what_is_stuck(now - self.since)
        return self._was_stopped(now - self.since)

    def _first_to_be_late(self) -> Sent | None:
        """Those that were told so lie before all others."""
        return next((each for each in self._hand.sent.values() if each.overdue is None), None)

    def _ask_to_leave(self, each: Sent, flags: int) -> None:
        self._hand.arena.mark(each.id)
        if each.stop_at is None:
            each.stop_at = time.monotonic() + self._pool.options.cancel_grace
            self._leaving.append(each)
        self._connection.send(frames.encode(frames.CANCEL, id=each.id, generation=self._hand.generation, flags=flags))

    def cancel(self) -> None:
        while self.cancelled:
            each = self._hand.sent.get(self.cancelled.popleft())
            if each is not None and each.stop_at is None:
                self._ask_to_leave(each, 0)
