"""Operations that may start, best first: larger priority first, then first come, first served. Pure.

Cancelled and late operations stay where they are until they reach the head, or until there are many: taking one out of
the middle of a heap costs more than skipping it once.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")


class ReadyQueue(Generic[T]):
    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._count = 0  # breaks ties: first come, first served

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, item: T, priority: float) -> None:
        heappush(self._heap, (-priority, self._count, item))
        self._count += 1

    def pop(self) -> T:
        """The best one. IndexError if there is none."""
        return heappop(self._heap)[2]

    def sweep(self, is_gone: Callable[[T], bool]) -> list[T]:
        """Take out all that `is_gone` says, wherever they are."""
        gone = [entry[2] for entry in self._heap if is_gone(entry[2])]
        if gone:
            self._heap = [entry for entry in self._heap if not is_gone(entry[2])]
            heapify(self._heap)
        return gone
