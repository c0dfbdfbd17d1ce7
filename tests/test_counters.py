"""Counters and histograms, beside a twin that keeps every value."""

from __future__ import annotations

import random
import threading

import pytest

from headrace.counters import ROWS, SECONDS, Histogram


class Twin:
    """Keeps every value; counts when asked."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.values: list[int] = []

    def cumulative(self) -> list[int]:
        return [*(sum(value <= bound for value in self.values) for bound in self.bounds), len(self.values)]


@pytest.mark.parametrize("seed", range(20))
def test_a_histogram_agrees_with_one_that_keeps_every_value(seed: int) -> None:
    rng = random.Random(seed)
    bounds = tuple(sorted({rng.randint(0, 20) for _ in range(rng.randint(1, 8))}))
    histogram, twin = Histogram(bounds), Twin(bounds)
    for _ in range(200):
        value, times = rng.randint(0, 22), rng.choice([1, 1, 1, 0, 5])  # often on a bound
        if times == 1:
            histogram.observe(value)
        else:
            histogram.observe_many(value, times)
        twin.values += [value] * times
    read = histogram.read()
    assert read.cumulative() == twin.cumulative(), f"seed {seed}"
    assert (read.total, read.count, read.bounds) == (sum(twin.values), len(twin.values), bounds)


def test_what_was_read_does_not_change_any_more() -> None:
    histogram = Histogram((1, 2))
    histogram.observe(1)
    before = histogram.read()
    histogram.observe(5)
    assert (before.counts, before.total) == ((1, 0, 0), 1)
    assert (histogram.read().counts, histogram.read().total) == ((1, 0, 1), 6)


@pytest.mark.parametrize("bounds", [(), (1, 1), (2, 1), (1, 3, 2)])
def test_bounds_that_do_not_rise_are_refused(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="bounds"):
        Histogram(bounds)


def test_the_usual_bounds_can_be_used() -> None:
    for bounds in SECONDS, ROWS:
        assert Histogram(bounds).read().count == 0


def test_who_reads_while_another_thread_counts_sees_numbers_that_only_rise() -> None:
    histogram, stop = Histogram((1, 2, 3)), threading.Event()

    def count() -> None:
        while not stop.is_set():
            for value in range(5):
                histogram.observe(value)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        last = histogram.read()
        for _ in range(2000):
            read = histogram.read()
            assert all(before <= after for before, after in zip(last.counts, read.counts))
            assert read.total >= last.total
            last = read
    finally:
        stop.set()
        thread.join()
    assert histogram.read().count * 2 == histogram.read().total  # 0 to 4, as often each
