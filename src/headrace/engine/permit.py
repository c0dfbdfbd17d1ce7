"""The right to be inside, as an object: a Permit, or a request that is its own (`Holder`).

Rule 1: it is given back once, however often that is tried.
Rule 2: several of one budget are given back in one step (`release_all`).
Rule 3: those inside may be counted together (`Group`), and somebody may wait until the last of them has left.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from headrace.engine.admission import Budget


class Holder(Protocol):
    """Who can be inside."""

    held: bool
    nbytes: int


class Group:
    """Those inside who are counted together, so that somebody can wait until the last of them has left."""

    __slots__ = ("closed", "gates", "inside", "limit")

    def __init__(self) -> None:
        self.inside = 0
        self.limit: int | None = None
        """The bound on `inside`; None: only the budget's own."""
        self.closed = False
        """Whether nobody is let in any more."""
        self.gates: list[threading.Lock] = []
        """Of those who wait for nobody to be inside."""


class Permit:
    """The right of one request to be inside. `group`: whom it is counted with there."""

    __slots__ = ("_budget", "group", "held", "nbytes")

    def __init__(self, budget: Budget, group: Group | None = None) -> None:
        self._budget, self.group, self.nbytes, self.held = budget, group, 0, False

    def release(self) -> None:
        """Give it back. Once is enough; more often does no harm."""
        budget = self._budget
        try:
            with budget.guard.lock:
                group = self.group
                if group is not None and self.held:
                    group.inside -= 1
                    if group.gates and not group.inside:
                        budget.woken += [partial(open_gate, gate) for gate in group.gates]
                if budget.crowded:
                    budget.leave(self)
                elif self.held:  # as `leave`, without the call: what happens most
                    self.held = False
                    budget.inside -= 1
                    budget.nbytes -= self.nbytes
                    self.nbytes = 0
            if budget.woken:
                budget.wake()
        except BaseException:
            budget.mend(self)
            raise

    def grow(self, nbytes: int) -> None:
        """Hold `nbytes` more, or Overloaded: for what comes in pieces and did not say how large it is.

        A permit that was given back holds nothing any more, and does not grow.
        """
        self._budget.grow(self, nbytes)


def release_all(permits: Sequence[Permit]) -> None:
    """Give them all back: in one step, where they are of one budget and nobody waits for room in it."""
    budget = permits[0]._budget
    with budget.guard.lock:
        if not budget.crowded and all(permit._budget is budget for permit in permits):
            count = nbytes = 0
            for permit in permits:
                if permit.held:
                    permit.held = False
                    count += 1
                    nbytes += permit.nbytes
                    permit.nbytes = 0
                    group = permit.group
                    if group is not None:
                        group.inside -= 1
                        if group.gates and not group.inside:
                            budget.woken += [partial(open_gate, gate) for gate in group.gates]
            budget.inside -= count
            budget.nbytes -= nbytes
            permits = ()
    for permit in permits:
        permit.release()
    if budget.woken:
        budget.wake()


def open_gate(gate: threading.Lock) -> None:
    """Let go who waits at it. Twice does no harm."""
    with contextlib.suppress(RuntimeError):
        gate.release()
