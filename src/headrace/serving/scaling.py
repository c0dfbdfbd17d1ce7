"""How many workers a model should have, between its bounds, by what is inside it. Pure.

Rule 1: wanted are as many as would be busy TARGET of the time with the requests that were inside on average.
Rule 2: more come as soon as a short look says so, many at once; fewer only when a long look says so, one at a time:
        what is started for nothing costs seconds, what is missing costs requests.
Rule 3: the bounds hold at every moment, whatever was seen. By itself it never goes below one: from none no load would
        bring it back, since a model without workers takes no requests.

The two looks are those of Knative's autoscaler.
"""

from __future__ import annotations

import math
from collections import deque

TARGET = 0.7
"""Of its time that a worker should be busy: the rest is for what comes all at once."""
SHORT, LONG = 6.0, 60.0
"""Seconds that are looked at: to have more, to have fewer."""
FEW = 3
"""Looks before anything is made of them."""
EVERY = 1.0
"""Seconds between two looks."""


def pause_after(failures: int) -> float:
    """Seconds until a step is tried again, after so many that failed one after the other."""
    return float(min(2**failures, LONG))


class Scaling:
    """Of one model. `capacity`: requests one worker has in hand at once, its largest batch."""

    def __init__(self, low: int, high: int, capacity: int, now: float) -> None:
        self.low, self.high, self.capacity = low, high, max(1, capacity)
        self._seen: deque[tuple[float, int]] = deque()
        self._changed = now

    def wanted(self, now: float, inside: int, have: int) -> int:
        """`inside`: requests in the model now, waiting ones too; `have`: workers."""
        self.see(now, inside)
        bounded = min(max(have, self.low, 1), self.high)
        if bounded != have:
            return self._change(now, bounded)
        soon, later = self._workers_for(now - SHORT), self._workers_for(now - LONG)
        if soon > have and len(self._seen) >= FEW:
            return self._change(now, min(soon, self.high))
        if max(soon, later) < have and now - self._changed >= LONG:
            return self._change(now, max(have - 1, self.low, 1))
        return have

    def see(self, now: float, inside: int) -> None:
        """While nothing may be changed."""
        self._seen.append((now, inside))
        while self._seen[0][0] < now - LONG:
            self._seen.popleft()

    def _workers_for(self, since: float) -> int:
        seen = [inside for at, inside in self._seen if at >= since]
        return math.ceil(sum(seen) / len(seen) / (TARGET * self.capacity))

    def _change(self, now: float, workers: int) -> int:
        self._changed = now
        return workers
