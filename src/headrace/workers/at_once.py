"""What is different of a worker whose callable is a coroutine function: several of its runs go on at once.

Rule 1: it is sent no more than go on at once, so what was sent has begun, unless its event loop is blocked.
Rule 2: each run has its own time. One that takes too long is cancelled alone, and fails with ResponseTimeout; only if
        it does not leave within the grace, or its loop is blocked, does its process end. The others begin once more.
Rule 3: one whose step has gone on for `response_timeout` blocks its loop: that one fails, and no other does, though
        others took too long as well, and could not leave.
Rule 4: where it is not known which of several runs ended a process, `retry` says what becomes of them.
"""

from __future__ import annotations

import time
from collections import deque
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
    from headrace.workers.worker import Worker

MOST = 256
"""Runs at once: `arena.MARKS`."""


class AtOnce(Window):
    """`hand`: what is with the process of `worker`."""

    def __init__(self, worker: Worker, hand: InHand) -> None:
        super().__init__()
        self._worker, self._hand, self._pool, self._runs = worker, hand, worker.pool, worker.pool.at_once

    @property
    def size(self) -> int:
        suspects, worker = self._pool.source.suspects, self._worker
        if suspects is None:
            return self._runs
        worker.inside = len(self._hand.sent) + len(self._hand.again)
        return suspects.room(worker, self._pool.ready <= 1)

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
        self._step, self._step_since = (0, 0), 0.0  # what the loop is at, and since when it is known to be

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
        step = self._hand.arena.step()
        if step != self._step:
            self._step, self._step_since = step, now
        blocks = sent.get(step[0])
        if blocks is not None and now - self._step_since >= options.response_timeout:
            return self._is_blocked(blocks)
        while (late := self._first_to_be_late()) is not None and now - late.began >= options.response_timeout:
            late.overdue = ResponseTimeout(self._pool.name, options.response_timeout)
            self._ask_to_leave(late, frames.OVERDUE)
        while self._leaving and self._leaving[0].id not in sent:
            self._leaving.popleft()
        if self._leaving and now >= self._leaving[0].stop_at:  # type: ignore[operator]
            each = self._leaving[0]
            is_blocked = blocks is not None and now - self._step_since >= options.cancel_grace / 2
            if (is_blocked and each is not blocks) or each.id > self._hand.arena.begun():
                each.stop_at = now + options.cancel_grace  # its loop is blocked: it may not even have begun
                self._leaving.rotate(-1)
            elif each.overdue is None:
                self._hand.is_known = True
                return self._does_not_leave()
            elif step == (0, each.steps) and len(sent) > 1:  # it was never told: something nobody knows blocks the loop
                return self._hangs(each.overdue)
            else:
                return self._is_to_blame(each)
        self._take_back_what_is_stuck(now - self.since)
        return self._was_stopped(now - self.since)

    def _is_blocked(self, each: Sent) -> HeadraceError:
        """By the step of this one."""
        if each.stop_at is not None and each.overdue is None:
            self._hand.is_known = True
            return self._does_not_leave()
        return self._is_to_blame(each)

    def _is_to_blame(self, late: Sent) -> HeadraceError:
        """The others cannot help it, however late they are; unless they do not leave a loop that is not blocked."""
        self._hand.is_known = True
        error = late.overdue or ResponseTimeout(self._pool.name, self._pool.options.response_timeout)
        late.overdue = error
        now = time.monotonic()
        for other in self._hand.sent.values():
            if other is not late and (self._step[0] or other.stop_at is None or other.stop_at > now):
                other.overdue = None
        return self._hangs(error)

    def _first_to_be_late(self) -> Sent | None:
        """Those that were told so lie before all others."""
        return next((each for each in self._hand.sent.values() if each.overdue is None), None)

    def _ask_to_leave(self, each: Sent, flags: int) -> None:
        self._hand.arena.mark(each.id)
        if each.stop_at is None:
            each.stop_at = time.monotonic() + self._pool.options.cancel_grace
            self._leaving.append(each)
            each.steps = self._step[1]
        self._connection.send(frames.encode(frames.CANCEL, id=each.id, generation=self._hand.generation, flags=flags))

    def cancel(self) -> None:
        while self.cancelled:
            each = self._hand.sent.get(self.cancelled.popleft())
            if each is not None and each.stop_at is None:
                self._ask_to_leave(each, 0)
