"""One after the other; but whoever takes long holds up the others for a while only.

Rule 1: they begin in the order in which they came.
Rule 2: the next one begins when nobody has the turn, or when all who have it have had it for a while already; and never
        more than `most` have it at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from time import monotonic

ALONE = 10.0
"""Seconds that one has the turn alone: most have ended by then, and two at once take the machine twice."""
MOST = 4


def left(since: Collection[float], now: float, alone: float, most: int) -> float | None:
    """Seconds until the first in line may begin; None: not before somebody ends. `since`: when those began who have the
    turn."""
    if not since:
        return 0.0
    return None if len(since) >= most else max(0.0, max(since) + alone - now)


class OneByOne:
    def __init__(self, alone: float = ALONE, most: int = MOST) -> None:
        self._alone, self._most = alone, most
        self._lock = threading.Lock()
        self._line: deque[threading.Condition] = deque()
        self._since: dict[threading.Condition, float] = {}
        """Of those who have the turn."""

    @contextmanager
    def turn(self) -> Iterator[None]:
        mine = threading.Condition(self._lock)
        with self._lock:
            self._line.append(mine)
            try:
                while (wait := self._left(mine)) != 0:
                    mine.wait(wait)
                self._since[mine] = monotonic()
            finally:
                self._line.remove(mine)  # whoever is interrupted while it waits stands in the middle
                self._tell_the_first()
        try:
            yield
        finally:
            with self._lock:
                del self._since[mine]
                self._tell_the_first()

    def _left(self, mine: threading.Condition) -> float | None:
        if self._line[0] is not mine:
            return None
        return left(self._since.values(), monotonic(), self._alone, self._most)

    def _tell_the_first(self) -> None:
        if self._line:
            self._line[0].notify()
