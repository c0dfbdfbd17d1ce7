"""One request of the library: its own permit, and a Future that answers in the form the request came in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.model.forms import Read
from headrace.model.pending import Pending

if TYPE_CHECKING:
    from headrace.model.model import Model


class Call(Pending):
    """A request of the library: remembers the form it came in, and answers in that form."""

    __slots__ = ("form", "heard_by", "who")
    who: object  # where bytes are bounded: the thread or task that submitted it
    model: Model

    def __init__(self, model: Model, read: Read, priority: float, deadline: float | None) -> None:
        # As Pending.__init__, without the call: this is the hot path.
        self._guard = model.guard
        self._done = self._begun = self._seen = self.requested = self.held = False
        self._error = self._callbacks = self.alike = self.failure = self.joined = self.instance = self.handle = None
        self.inputs, self.names, self.form = read
        self.model = model
        self.rows = 1
        self.priority, self.deadline = priority, deadline
        self.unread = self.nbytes = self.heard_by = 0

    def answer(self, outputs: Any) -> Any:
        return self.model._forms.write(outputs, self.form)

    def leave(self) -> None:
        budget = self.model._budget
        if self.nbytes or budget.crowded or budget.max_bytes is not None:
            budget.leave(self, self.unread if self._error is None else 0)
        elif self.held:  # as `leave`, without the call
            self.held = False
            budget.inside -= 1

    def let_go(self) -> None:
        self.inputs = ()
        self.model._budget.release(self)

    def forsake(self) -> None:
        """Nobody will read it: if it has an outcome, that is charged no more."""
        if self._done and not self._seen:
            self._seen = True
            self._look()
