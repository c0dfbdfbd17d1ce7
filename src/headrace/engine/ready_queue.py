"""What may start, best first. Pure.

Rule 1: equal priorities: first come, first served.
Rule 2: a step of priority is worth AGING seconds of waiting. So nothing waits for ever behind what matters more: p
        steps more overtake only what came less than p * AGING seconds before. All grow older at the same pace, so the
        order of two of them never changes, and a heap can hold it.
Rule 3: what was cancelled stays where it is until it reaches the head, or until there is much of it: taking one out of
        the middle costs more than skipping it once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar

AGING = 1.0
"""Seconds of waiting that weigh as much as one step of priority."""


class Queued(Protocol):
    priority: float
    queued_at: float


T = TypeVar("T", bound=Queued)


class ReadyQueue(Generic[T]):
    """Items of priority 0, which is what most have, stand in a plain line; the others in a heap beside it."""

    def __init__(self) -> None:
        self._line: deque[T] = deque()
        self._heap: list[tuple[float, int, T]] = []
        self._count = 0  # breaks ties: first come, first served
        self._front = 0  # the same for what is put back

    def __len__(self) -> int:
        return len(self._line) + len(self._heap)

    def __iter__(self) -> Iterator[T]:
        """All of them, in no order."""
        yield from self._line
        for entry in self._heap:
            yield entry[2]

    def copy(self) -> ReadyQueue[T]:
        """One with the same items, to be changed by itself."""
        other = ReadyQueue[T]()
        other._line, other._heap = self._line.copy(), self._heap.copy()
        other._count, other._front = self._count, self._front
        return other

    def add(self, item: T, now: float) -> None:
        """`now`: seconds, from which on it grows older. Never less than at the `add` before."""
        item.queued_at = now
        if item.priority:
            self._count += 1
            heappush(self._heap, (now - AGING * float(item.priority), self._count, item))
        else:
            self._line.append(item)

    def pop(self) -> T | None:
        """The best one. None if there is none."""
        line, heap = self._line, self._heap
        if not heap:
            return line.popleft() if line else None
        if line and line[0].queued_at <= heap[0][0]:
            return line.popleft()
        return heappop(heap)[2]

    def head(self) -> T | None:
        """What `pop` would give."""
        if self._heap and not (self._line and self._line[0].queued_at <= self._heap[0][0]):
            return self._heap[0][2]
        return self._line[0] if self._line else None

    def drop_heads(self, is_gone: Callable[[T], bool]) -> int:
        """Take out what `is_gone` says, as far as it stands at the head of the line or of the heap. How many."""
        before, line, heap = len(self), self._line, self._heap
        while line and is_gone(line[0]):
            line.popleft()
        while heap and is_gone(heap[0][2]):
            heappop(heap)
        return before - len(self)

    def oldest(self) -> Iterable[T]:
        """A few of which one came first of all: the head of the plain line, and the others."""
        if self._line:
            yield self._line[0]
        for entry in self._heap:
            yield entry[2]

    def put_back(self, items: Iterable[T]) -> None:
        """Items that were popped, in the order they came: to where they were."""
        for item in reversed(list(items)):
            if item.priority:
                self._front -= 1
                heappush(self._heap, (item.queued_at - AGING * float(item.priority), self._front, item))
            else:
                self._line.appendleft(item)

    def sweep(self, is_gone: Callable[[T], bool]) -> list[T]:
        """Take out all that `is_gone` says, wherever they are."""
        gone: list[T] = []
        line: deque[T] = deque()
        for item in self._line:  # each is asked once: the answer may change while others are asked
            (gone if is_gone(item) else line).append(item)
        heap: list[tuple[float, int, T]] = []
        for entry in self._heap:
            if is_gone(entry[2]):
                gone.append(entry[2])
            else:
                heap.append(entry)
        if gone:
            heapify(heap)
            self._line, self._heap = line, heap
        return gone
