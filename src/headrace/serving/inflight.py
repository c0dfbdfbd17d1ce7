"""A request inside the server: the one record, from its headers to its reply."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from headrace.counters import SECONDS
from headrace.engine.permit import Permit, release_all
from headrace.model.pending import Owner, Pending

if TYPE_CHECKING:
    from headrace.serving.served import Served


_log = logging.getLogger("headrace.serving")


class Listener(Protocol):
    """Who takes an answer that comes in parts."""

    def deliver_part(self, part: Any, nbytes: int, read: Callable[[int], object]) -> None:
        """On the thread that heard it. `read` is to be called when so many bytes of it have been read: the worker waits
        while too many are not."""


class _Door(Owner):
    """Who owns a request of the server: not its model, which would have the engine remember a failed one for `waitall`,
    and with it, through the traceback, the body it came with."""

    name = "the server"

    def on_error(self, pending: Pending) -> None:
        pass


_door = _Door()


class InFlight(Pending):
    """Holds the model it is pinned to and its permit. `receiver` is called once, on the thread that settles it;
    `listener` before that, of each part of an answer that comes in parts."""

    __slots__ = ("_ran", "listener", "parted", "permit", "receiver", "served")

    listener: Listener | None
    receiver: Callable[[InFlight], object] | None

    def __init__(self, served: Served, permit: Permit) -> None:
        # As Pending.__init__, without the call and several to a statement: this is the hot path.
        self._guard = served.model.guard
        self._done = self._begun = self._seen = self.requested = self.held = self.parted = False
        self._error = self._callbacks = self.names = self.alike = self.deadline = self.failure = self.joined = None
        self.instance = self.handle = self.receiver = self.listener = None
        self.model = _door
        self.inputs = ()
        self.rows = 1
        self.priority = self.unread = self.nbytes = 0
        self.served, self.permit = served, permit

    def depart(self) -> None:
        """Nobody waits for the answer any more. Work that has not begun is never run; the permit goes back as soon as
        nothing reads the request's bytes."""
        if not self.can_read():
            self.receiver = self.listener = None
            self.cancel()

    def take_part(self, part: Any, nbytes: int, read: Callable[[int], object]) -> bool:
        listener = self.listener
        if listener is None or self._done:
            return False
        self.parted = True
        listener.deliver_part(part, nbytes, read)
        return True

    def take_failure(self) -> BaseException | None:
        """What it failed with, if it did: to be told, once. Kept here it would keep itself, through the frames of its
        traceback, and with them the body the request came with."""
        failure, self._error = self._error, None
        if failure is not None:
            self._traceback = None
        return failure

    def complete(self, now: float) -> None:
        if self._done or self.failure is not None or self._guard.finished is not None or self.rows != 1:
            super().complete(now)
            return
        # What happens most, as `Pending.complete` and `finish`, without their calls: this is the hot path.
        counts = self.counts
        counts.completed += 1
        meter = counts.meter
        if meter is not None:
            meter.alone += 1
            queue = meter.queue_seconds
            queue.counts[bisect_left(SECONDS, self.waited)] += 1
            queue.total += self.waited
        self._ended_at = now
        self._value = self.outcome
        self._done = self._ran = True

    def run(self) -> None:
        """As `Pending.run`; the outputs are given as they are."""
        instance = self.instance
        assert instance is not None, "it was pulled"
        if not self._done:  # else it was cancelled while its stream had it in hand
            instance.run_one(self, self if instance.stoppable else None)  # type: ignore[arg-type]

    def finish(self, now: float) -> None:
        self._ran = not self._done  # else it was cancelled meanwhile, and whoever did that replied
        super().finish(now)

    def deliver(self) -> None:
        self.joined = self.instance = self.handle = self.outcome = self.failure = None  # as `drop`
        self.inputs = ()
        self.permit.release()
        if self._ran:
            self._reply()

    @staticmethod
    def deliver_all(requests: Sequence[InFlight]) -> None:
        """As `deliver`, of each; their permits go back in one step, where they are of one budget."""
        for request in requests:
            request.joined = request.instance = request.handle = request.outcome = request.failure = None
            request.inputs = ()
        release_all([request.permit for request in requests])
        for request in requests:
            if request._ran:
                try:
                    request._reply()
                except BaseException:  # the stream must outlive it, and the others are to hear
                    _log.exception("an outcome could not be delivered")

    def let_go(self) -> None:
        super().let_go()
        self.permit.release()

    def _settled(self) -> None:
        super()._settled()
        self._reply()

    def _reply(self) -> None:
        self._seen = True  # whoever delivers it looks at it
        receiver = self.receiver  # read once: `depart` may take it away between a look and a call
        if receiver is not None:
            receiver(self)
        if self._callbacks is not None:
            self._tell()
