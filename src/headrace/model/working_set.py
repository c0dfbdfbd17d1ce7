"""What a run takes beside its inputs, learned from runs: memory of its own, and outputs. Only where bytes are bounded.

Rule 1: learned per kind of inputs (dtypes and shapes). A kind that was never seen is estimated from the most demanding
        one that was, by the bytes that go in.
Rule 2: of a model of which nothing is known yet one request runs alone: it is charged the whole bound.
Rule 3: what a run grew the process by is measured only while nothing else runs on the engine, and the most that was
        seen counts. Runtimes keep what they took for the next run, so a kind is measured when it first needs more than
        all before it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

KINDS = 256
"""How many kinds of inputs are remembered; the one that was not used for longest is forgotten first."""
NOISE = 1 << 20
"""Bytes a process grows by for reasons of its own: taken for what a run took, it would weigh most where inputs are
small, and be multiplied for larger ones."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


def kind_of(inputs: Sequence[Any]) -> Hashable:
    """Equal for inputs that are taken to need as much."""
    return tuple(
        (value.dtype.char, value.shape) if isinstance(value, np.ndarray) else type(value).__name__ for value in inputs
    )


class WorkingSet:
    """Of one model. Called with the engine's lock held."""

    def __init__(self, bound: int) -> None:
        """`bound`: bytes that may be inside; what a request is charged with of which nothing is known."""
        self._bound = bound
        self._known: OrderedDict[Hashable, int] = OrderedDict()  # bytes beside the inputs
        self._worst = 0.0  # bytes beside the inputs for each byte of them
        self._learned = False

    def charge(self, kind: Hashable, nbytes: int) -> int:
        """Bytes a request of this kind, with `nbytes` of inputs, is charged with while it is inside."""
        if not self._learned:
            return max(nbytes, self._bound)
        beside = self._known.get(kind)
        if beside is None:
            beside = round(self._worst * nbytes)
        else:
            self._known.move_to_end(kind)
        return nbytes + beside

    def learn(self, kind: Hashable, nbytes: int, grew: int, outputs: int) -> None:
        """A run of this kind took `grew` bytes of its own (0 where that could not be measured) and gave `outputs`."""
        beside = max(self._known.get(kind, 0), grew + outputs)
        self._known[kind] = beside
        self._known.move_to_end(kind)
        if len(self._known) > KINDS:
            self._known.popitem(last=False)
        self._worst = max(self._worst, beside / max(1, nbytes))
        self._learned = True


def resident_bytes() -> int:
    """What the process holds in memory now. 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0
