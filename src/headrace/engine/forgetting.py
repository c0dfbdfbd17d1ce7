"""Taking many cancelled operations out of everything at once, in two halves. Pure.

Rule 1: to make a `Forgetting` is only to look: whoever is interrupted meanwhile has changed nothing.
Rule 2: `carry_out` writes down what was found, whole numbers and whole queues, never one more or one less: so it may be
        done again from its start, after whatever interrupted it (docs/decisions/0008).
Rule 3: one lock is held from the first half to the end of the second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from headrace.engine.dependencies import Node, Var

N = TypeVar("N", bound=Node)


class _Then:
    """What a Var is to be."""

    __slots__ = ("queue", "readers", "writing")

    def __init__(self, queue: deque[tuple[Node, bool]], readers: int, writing: bool) -> None:
        self.queue, self.readers, self.writing = queue, readers, writing


class Forgetting(Generic[N]):
    """`cancelled`: have not begun. What they wait for they wait for no more, and what they hold others may have.

    This walks the queues of all Vars concerned, so it is for many at a time.
    """

    def __init__(self, cancelled: Iterable[N]) -> None:
        # Dictionaries, not sets: in what order operations start must not depend on addresses.
        gone = dict.fromkeys(cancelled)
        waited: set[tuple[Node, Var]] = set()
        self._vars: dict[Var, _Then] = {}
        for var in dict.fromkeys(var for op in gone for var in (*op.reads, *op.writes)):
            queue = var._queue or ()
            waited.update((op, var) for op, _ in queue if op in gone)
            left = deque(entry for entry in queue if entry[0] not in gone)
            self._vars[var] = _Then(left, var._readers, var._writing)
        self._waiting_for: dict[Node, int] = dict.fromkeys(gone, 0)
        for op in gone:
            for var in op.reads:
                self._vars[var].readers -= (op, var) not in waited  # what it did not wait for, it holds
            for var in op.writes:
                if (op, var) not in waited:
                    self._vars[var].writing = False
        self.ready: list[N] = []
        """What may start then, in the order it was pushed to each Var."""
        for then in self._vars.values():
            self._start(then)

    def carry_out(self) -> None:
        for var, then in self._vars.items():
            var._queue, var._readers, var._writing = then.queue or None, then.readers, then.writing
        for op, waiting_for in self._waiting_for.items():
            op.waiting_for = waiting_for

    def _start(self, then: _Then) -> None:
        """As `Dependencies._start`, of what is to be."""
        queue = then.queue
        while queue and not then.writing:
            op, write = queue[0]
            if write and then.readers:
                return
            queue.popleft()
            if write:
                then.writing = True
            else:
                then.readers += 1
            left = self._waiting_for[op] = self._waiting_for.get(op, op.waiting_for) - 1
            if not left:
                self.ready.append(op)  # type: ignore[arg-type]  # a Var's queue holds what `push` put there: N
