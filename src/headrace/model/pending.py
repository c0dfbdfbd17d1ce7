"""A request inside a model: what it brought, and the Future of its answer. One record, from submit to answer."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from headrace.engine.admission import Permit
from headrace.engine.future import Future


class Pending(Future[Any]):
    """One request. `rows` counts against `max_batch_size`; requests are joined only if their `alike` is equal."""

    __slots__ = ("alike", "deadline", "inputs", "model", "names", "permit", "queued_at", "rows", "started_at")

    def __init__(self, model: Owner, inputs: tuple[Any, ...], permit: Permit) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.permit = permit
        self.names: tuple[str, ...] | None = None
        self.rows = 1
        self.alike: Hashable = None
        self.deadline: float | None = None
        self.queued_at = self.started_at = 0.0

    def let_go(self) -> None:
        """Nobody needs the inputs any more: drop them, and give the permit back."""
        self.inputs = ()
        self.permit.release()

    def _settled(self) -> None:
        if not self._begun:  # else the run still reads the inputs, and lets go of them when it has ended
            self.let_go()
        if self._error is not None:
            self.model.on_error(self)


class Owner:
    """What a Pending belongs to: told when one of its requests ends with an error."""

    def on_error(self, pending: Pending) -> None:
        raise NotImplementedError
