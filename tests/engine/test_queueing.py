"""The queueing model against what is known exactly, published points, and a simulation of every single request."""

import heapq
import math
import random
from collections.abc import Callable

import pytest

from headrace.engine.queueing import Load, erlang_c
from headrace.errors import InvalidOption

REQUESTS = 200_000


def simulated(load: Load, seed: int, first: float | None = None) -> list[float]:
    """Seconds each request takes, in order of length: first come, first served, lognormal run times; `first` seconds
    on a stream that was idle."""
    chosen = random.Random(seed)
    now, taken = 0.0, []
    free = [0.0] * load.streams
    sigma = math.sqrt(math.log(1 + load.cv**2))
    middle = math.log(load.service) - sigma**2 / 2
    for number in range(REQUESTS):
        now += chosen.expovariate(load.rate)
        more = first - load.service if first is not None and free[0] <= now else 0.0
        ends = max(now, free[0]) + chosen.lognormvariate(middle, sigma) + more
        heapq.heapreplace(free, ends)
        if number >= REQUESTS // 20:
            taken.append(ends - now)
    return sorted(taken)


def run_in(cores: float) -> float:
    """The run time on so many cores that the published points are for: a tenth of it is serial."""
    return 0.1 + 0.9 / cores


# (streams, rate) of 8 cores and the mean, p50 and p99 of simulations with cv 0.1, as published with the design
POINTS = [
    (1, 2.0, 0.291, 0.232, 0.792),
    (1, 3.5, 0.522, 0.401, 1.94),
    (2, 4.0, 0.451, 0.366, 1.20),
    (4, 5.0, 0.643, 0.586, 1.30),
    (8, 6.0, 1.10, 1.05, 1.88),
]


@pytest.mark.parametrize(("streams", "rate", "mean", "p50", "p99"), POINTS)
def test_the_five_points(streams: int, rate: float, mean: float, p50: float, p99: float) -> None:
    load = Load(rate, streams, run_in(8 / streams), 0.1)
    assert load.mean == pytest.approx(mean, rel=0.03)
    assert load.quantile(0.5) == pytest.approx(p50, rel=0.06)
    assert load.quantile(0.99) == pytest.approx(p99, rel=0.06)


@pytest.mark.parametrize("streams", [1, 2, 4, 16])
@pytest.mark.parametrize("busy", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("cv", [0.0, 0.1, 0.3])
def test_it_says_what_a_simulation_finds(streams: int, busy: float, cv: float) -> None:
    load = Load(busy * streams / 0.01, streams, 0.01, cv)
    seed = streams * 1000 + int(busy * 100) + int(cv * 10)
    taken = simulated(load, seed)
    assert load.mean == pytest.approx(sum(taken) / len(taken), rel=0.05), seed
    for p in (0.5, 0.9, 0.99):
        assert load.quantile(p) == pytest.approx(taken[int(len(taken) * p)], rel=0.06), (p, seed)


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("busy", [0.2, 0.5, 0.8])
def test_runs_after_a_pause_take_longer(streams: int, busy: float) -> None:
    warm = Load(busy * streams / 0.01, streams, 0.01, 0.05)
    seed = streams * 100 + int(busy * 10)
    taken = simulated(warm, seed, first=0.012)
    load = Load(warm.rate, streams, 0.01, 0.05, first=0.012)
    assert load.mean == pytest.approx(sum(taken) / len(taken), rel=0.06), seed
    for p in (0.5, 0.99):
        assert load.quantile(p) == pytest.approx(taken[int(len(taken) * p)], rel=0.1), (p, seed)
    assert load.mean > 1.02 * warm.mean


def test_where_a_pause_costs_nothing_resting_is_the_plain_load() -> None:
    plain, resting = Load(100, 2, 0.01, 0.1), Load(100, 2, 0.01, 0.1, first=0.01)
    assert resting.mean == pytest.approx(plain.mean)
    assert resting.quantile(0.99) == pytest.approx(plain.quantile(0.99))


def test_the_mean_of_one_stream_is_exact() -> None:
    """Pollaczek and Khinchine: of equal runs, half the wait of exponential ones."""
    equal, spread = Load(80, 1, 0.01, 0.0), Load(80, 1, 0.01, 1.0)
    assert equal.mean_wait == pytest.approx(0.01 * 0.8 / (2 * (1 - 0.8)), rel=0.001)
    assert spread.mean_wait == pytest.approx(0.01 * 0.8 / (1 - 0.8), rel=0.001)


@pytest.mark.parametrize(
    ("streams", "erlangs", "expected"),
    [(1, 0.3, 0.3), (2, 1.0, 1 / 3), (3, 2.0, 4 / 9), (5, 0.0, 0.0), (2, 2.0, 1.0), (2, 9.0, 1.0)],
)
def test_erlangs_c(streams: int, erlangs: float, expected: float) -> None:
    assert erlang_c(streams, erlangs) == pytest.approx(expected)


def test_erlangs_c_of_many_streams_does_not_overflow() -> None:
    """Against its own sum, in whole numbers that cannot."""
    n, a = 200, 190
    last = a**n * n // (n - a)
    others = sum(a**k * math.factorial(n) // math.factorial(k) for k in range(n))
    assert erlang_c(n, a) == pytest.approx(last / (last + others))


def test_an_empty_machine_answers_in_the_time_of_a_run() -> None:
    load = Load(0, 2, 0.01)
    assert load.mean == load.service
    assert load.quantile(0.5) == pytest.approx(load.service, rel=0.001)
    assert load.quantile(0.99) == pytest.approx(load.service, rel=0.001)


@pytest.mark.parametrize("rate", [200, 300])
def test_what_is_too_much_never_ends(rate: float) -> None:
    load = Load(rate, 2, 0.01)
    assert load.mean == load.mean_wait == load.quantile(0.5) == math.inf


@pytest.mark.parametrize("streams", [1, 2, 8])
def test_just_below_capacity_the_tail_is_as_long_as_the_mean_says(streams: int) -> None:
    """Where waits are much longer than runs they are exponential: far beyond the points that are computed."""
    load = Load(0.998 * streams / 0.01, streams, 0.01, 0.1)
    assert load.quantile(0.99) == pytest.approx(load.mean * math.log(100), rel=0.03)


def test_more_load_never_makes_a_request_faster() -> None:
    for measure in (lambda load: load.mean, lambda load: load.quantile(0.5), lambda load: load.quantile(0.99)):
        measured = [measure(Load(rate, 2, 0.01, 0.1)) for rate in range(0, 200, 10)]
        assert measured == sorted(measured)


def test_in_milliseconds_it_is_the_same() -> None:
    seconds, milliseconds = Load(120, 2, 0.01, 0.2), Load(0.12, 2, 10, 0.2)
    assert milliseconds.mean == pytest.approx(seconds.mean * 1000)
    assert milliseconds.quantile(0.99) == pytest.approx(seconds.quantile(0.99) * 1000)
    assert milliseconds.utilisation == pytest.approx(seconds.utilisation)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Load(-1, 1, 1),
        lambda: Load(1, 0, 1),
        lambda: Load(1, 1, 0),
        lambda: Load(1, 1, 1, -0.1),
        lambda: Load(math.nan, 1, 1),
        lambda: Load(1, 1, 1, first=0),
        lambda: Load(1, 1, 1).quantile(1),
        lambda: Load(1, 1, 1).quantile(0),
    ],
)
def test_what_cannot_be_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(InvalidOption):
        wrong()
