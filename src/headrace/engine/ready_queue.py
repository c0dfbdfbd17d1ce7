"""Operations that may start, best first: larger priority first, then first come, first served. Pure.

Cancelled and late operations stay where they are until they reach the head: taking one out of the middle of a heap
costs more than skipping it once.
"""

from __future__ import annotations

from heapq import heappop, heappush
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
