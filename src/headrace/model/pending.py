"""A request inside a model: what it brought, and the Future of its answer. One record, from submit to answer."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from headrace.engine.admission import Permit
from headrace.engine.future import Future


class Pending(Future[Any]):
    """One request. `rows` counts against `max_batch_size`; requests are joined only if their `alike` is equal."""

    __slots__ = ("alike", "deadline", "ended", "inputs", "model", "names", "permit", "queued_at", "rows", "started_at")

    def __init__(self, model: Owner, inputs: tuple[Any, ...], permit: Permit) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.permit = permit
        self.names: tuple[str, ...] | None = None
        self.rows = 1
        self.alike: Hashable = None
        self.deadline: float | None = None
        self.ended = False  # its run has ended: nothing reads the inputs any more
        self.queued_at = self.started_at = 0.0

    def let_go(self) -> None:
        """Nobody needs the inputs any more: drop them, and give the permit back."""
        self.inputs = ()
        self.permit.release()

    def _settled(self) -> None:
        # First the error, then the permit: who waits until nobody is inside, and then looks for errors, must find it.
        if self._error is not None:
            self.model.on_error(self)
        # Before anybody hears of the outcome: who then submits the next one must find the room.
        if self.ended or not self._begun:  # else it was cancelled while it runs, and `Run.deliver` lets go
            self.let_go()


class Owner:
    """What a Pending belongs to: told when one of its requests ends with an error."""

    def on_error(self, pending: Pending) -> None:
        raise NotImplementedError
