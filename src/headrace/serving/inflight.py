"""A request inside the server: the one record, from its headers to its reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from headrace.engine.admission import Permit
from headrace.model.pending import Owner, Pending

if TYPE_CHECKING:
    from headrace.serving.served import Served


class _Door(Owner):
    """Who owns a request of the server: not its model, which would have the engine remember a failed one for `waitall`,
    and with it, through the traceback, the body it came with."""

    name = "the server"

    def on_error(self, pending: Pending) -> None:
        pass


_door = _Door()


class InFlight(Pending):
    """Holds the model it is pinned to and its permit. `receiver` is called once, on the thread that settles it."""

    __slots__ = ("_ran", "permit", "receiver", "served")

    def __init__(self, served: Served, permit: Permit) -> None:
        super().__init__(_door, (), served.model.guard)
        self.served, self.permit = served, permit
        self.receiver: Callable[[InFlight], object] | None = None

    def depart(self) -> None:
        """Nobody waits for the answer any more. Work that has not begun is never run; the permit goes back as soon as
        nothing reads the request's bytes."""
        if not self.can_read():
            self.receiver = None
            self.cancel()

    def take_failure(self) -> BaseException | None:
        """What it failed with, if it did: to be told, once. Kept here it would keep itself, through the frames of its
        traceback, and with them the body the request came with."""
        failure, self._error = self._error, None
        if failure is not None:
            self._traceback = None
        return failure

    def finish(self, now: float) -> None:
        self._ran = not self._done  # else it was cancelled meanwhile, and whoever did that replied
        super().finish(now)

    def deliver(self) -> None:
        self.drop()
        self.let_go()
        if self._ran:
            self._reply()

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
