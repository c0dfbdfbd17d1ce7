"""The number of workers follows the load, between its bounds. Pure: the test is the clock."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest

from headrace.serving.scaling import EVERY, FEW, LONG, SHORT, TARGET, Scaling


def run(scaling: Scaling, inside: Callable[[float], int], seconds: float, have: int, now: float = 0.0) -> list[int]:
    """What it wanted at each look; it is given what it wants at once."""
    history = []
    for _ in range(int(seconds / EVERY)):
        now += EVERY
        have = scaling.wanted(now, inside(now), have)
        history.append(have)
    return history


@pytest.mark.parametrize(("inside", "capacity", "workers"), [(0, 1, 1), (1, 1, 2), (4, 1, 6), (14, 4, 5), (1000, 1, 8)])
def test_a_steady_load_has_the_workers_it_keeps_busy_and_they_stay(inside: int, capacity: int, workers: int) -> None:
    history = run(Scaling(1, 8, capacity, 0.0), lambda _: inside, 300, 1)
    assert history[FEW - 1] == history[-1] == workers == min(8, max(1, math.ceil(inside / capacity / TARGET)))
    assert set(history[FEW:]) == {workers}


def test_more_come_within_a_short_look_and_go_one_by_one_after_a_long_one() -> None:
    scaling = Scaling(1, 10, 1, 0.0)
    history = run(scaling, lambda now: 7 if now <= 100 else 0, 500, 1)
    assert history[int(SHORT)] == 10
    assert history[99] == 10
    fewer = [i for i in range(1, len(history)) if history[i] < history[i - 1]]
    assert fewer[0] > 100 + FEW, "not as soon as it is quiet"
    assert all(history[i - 1] - history[i] == 1 for i in fewer)
    assert all(after - before >= LONG for before, after in itertools.pairwise(fewer))


def test_a_moment_without_load_costs_no_worker_and_a_moment_of_it_starts_none() -> None:
    steady = run(Scaling(1, 8, 1, 0.0), lambda now: 0 if now % 30 == 0 else 2, 300, 1)
    assert set(steady[FEW:]) == {3}
    assert set(run(Scaling(1, 8, 1, 0.0), lambda now: 2 if now % 30 == 10 else 0, 300, 1)) == {1}


@pytest.mark.parametrize("seed", range(30))
def test_the_bounds_hold_at_every_moment(seed: int) -> None:
    random_ = random.Random(seed)
    low = random_.randrange(1, 5)
    high = low + random_.randrange(6)
    scaling = Scaling(low, high, random_.randrange(1, 4), 0.0)
    history = run(scaling, lambda _: random_.choice((0, 1, 5, 50)), 400, random_.randrange(12))
    assert all(low <= each <= high for each in history)
    if low == high:
        assert set(history) == {low}


def test_other_bounds_hold_from_the_next_look_on() -> None:
    scaling = Scaling(1, 4, 1, 0.0)
    run(scaling, lambda _: 10, 20, 1)
    scaling.low, scaling.high = 6, 9
    assert scaling.wanted(21.0, 10, 4) == 6
    scaling.low, scaling.high = 0, 2
    assert scaling.wanted(22.0, 10, 6) == 2


def test_by_itself_it_never_goes_to_none() -> None:
    assert run(Scaling(0, 3, 1, 0.0), lambda _: 0, 300, 2)[-1] == 1
