"""Who makes room when an engine is full and may shed: what matters least. Pure.

Rule 1: lowest priority first; among equals the latest deadline (none is the latest of all), then the newest.
Rule 2: a newcomer that would itself be the first to go sheds nobody.
Rule 3: what has begun or ended meanwhile stays where it is until it is reached, or until it is half of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")
FOREVER = float("inf")


class Shedding(Generic[T]):
    def __init__(self, is_queued: Callable[[T], bool]) -> None:
        """`is_queued`: whether it has neither begun nor ended, so that it can still be shed."""
        self._is_queued = is_queued
        self._heap: list[tuple[float, float, int, T]] = []
        self._count = 0
        self._sweep_at = 1024

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, item: T, priority: float, deadline: float | None) -> None:
        self._count += 1
        heappush(self._heap, (priority, -(FOREVER if deadline is None else deadline), -self._count, item))
        if len(self._heap) > self._sweep_at:
            self._heap = [entry for entry in self._heap if self._is_queued(entry[3])]
            heapify(self._heap)
            self._sweep_at = max(1024, 2 * len(self._heap))

    def below(self, priority: float, deadline: float | None) -> Iterator[T]:
        """All that could go for a newcomer of this priority and deadline."""
        limit = (priority, -(FOREVER if deadline is None else deadline))
        return (entry[3] for entry in self._heap if entry[:2] < limit and self._is_queued(entry[3]))

    def victim(self, priority: float, deadline: float | None) -> T | None:
        """Takes out what must go for a newcomer of this priority and deadline. None: nothing matters less than it."""
        heap = self._heap
        while heap and not self._is_queued(heap[0][3]):
            heappop(heap)
        if not heap or heap[0][:2] >= (priority, -(FOREVER if deadline is None else deadline)):
            return None
        return heappop(heap)[3]
