"""Counters and histograms: plain integers where things happen, read by whoever scrapes them.

Rule 1: no locks. One thread at a time writes each of them: it holds a lock anyway, or it is the only one. Any thread
        may read, and sees every observation at most once.
Rule 2: buckets are fixed when a histogram is made, so that observing is a bisection and two additions.
Rule 3: what is counted is never taken back: a counter that falls reads as a restart.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

SECONDS = (
    *(10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6),
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Bounds for what takes time: from a run that does nothing to one somebody waits for."""
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Bounds for sizes of batches."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """What a histogram had seen when it was asked."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    """How many were in each bucket: above the bound before, up to and with its own; the last one has no bound."""
    total: float
    """The sum of all values."""

    @property
    def count(self) -> int:
        return sum(self.counts)

    def cumulative(self) -> list[int]:
        """How many were at most each bound; the last one is `count`."""
        seen, sums = 0, []
        for count in self.counts:
            seen += count
            sums.append(seen)
        return sums


class Histogram:
    """How often values fell between bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        if not bounds or any(low >= high for low, high in pairwise(bounds)):
            raise ValueError(f"bounds of a histogram rise, and there is one at least: {bounds}")
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_many(self, value: float, times: int) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def read(self) -> Buckets:
        total = self.total  # first: what comes in between is in `counts` alone, and a mean errs to the low side
        return Buckets(self.bounds, tuple(self.counts), total)
