"""From how late a thread wakes beside a run to whether the run holds the interpreter lock."""

from __future__ import annotations

import random

import pytest

from headrace.model.gil import (
    ENOUGH_RUNS,
    ENOUGH_SECONDS,
    SHORTEST,
    SLACK,
    SLEEP,
    TOO_MUCH,
    Look,
    Wake,
    is_enough,
    is_noisy,
    judged,
    look,
    warning,
    without,
)

MS = 1e-3


def beside(run: float, *lates: float, start: float = 0.0) -> list[Wake]:
    """The wakes of a sleeper that is so late, each time, until the run has ended."""
    wakes, now, i = [], start, 0
    while now < run:
        late = lates[min(i, len(lates) - 1)]
        wakes.append(Wake(now + SLEEP, now + SLEEP + late))
        now, i = wakes[-1].woke, i + 1
    return wakes


def usual(late: float) -> list[Wake]:
    return [Wake(-1.0, -1.0 + late)] * 4


@pytest.mark.parametrize(
    ("run", "lates", "before", "queued", "holds"),
    [
        # one call in C that holds it from beginning to end
        (12 * MS, [11.5 * MS], 0.07 * MS, 0.0, True),
        (3 * MS, [2.5 * MS], 0.07 * MS, 0.0, True),
        # pure Python: the lock is handed over every 5 ms, and so the sleeper is late by that again and again
        (20 * MS, [5 * MS], 0.07 * MS, 0.0, True),
        (500 * MS, [5 * MS], 0.07 * MS, 0.0, True),
        # a third of the run
        (30 * MS, [0.1 * MS] * 30 + [10 * MS], 0.07 * MS, 0.0, True),
        # released: the timer's slack alone
        (12 * MS, [0.07 * MS], 0.07 * MS, 0.0, False),
        (12 * MS, [0.19 * MS], 0.07 * MS, 0.0, False),
        # held now and then
        (50 * MS, [0.1 * MS] * 20 + [5 * MS] + [0.1 * MS], 0.07 * MS, 0.0, False),
        # others in the process hold it now and then: as late without the run
        (20 * MS, [0.9 * MS], 0.9 * MS, 0.0, False),
        (50 * MS, [49 * MS], 0.9 * MS, 0.0, True),
        # the CPUs are taken: late, but in the queue for one of them
        (20 * MS, [5 * MS], 0.07 * MS, 18 * MS, False),
        (50 * MS, [49 * MS], 0.07 * MS, 20 * MS, True),
    ],
)  # fmt: skip
def test_what_was_seen_and_what_is_said(
    run: float, lates: list[float], before: float, queued: float, holds: bool
) -> None:
    gil = judged([look(0.0, run, beside(run, *lates), usual(before), queued)] * 3)
    assert gil is not None
    assert gil.holds is holds
    assert gil.run == run
    assert 0 <= gil.share <= 1


def test_the_figures_are_those_of_a_neighbour() -> None:
    gil = judged([look(0.0, 12 * MS, [Wake(0.5 * MS, 13 * MS)], [])] * 3)
    assert gil is not None
    assert gil.lag == pytest.approx(11.5 * MS)  # what came after the run was not its doing
    assert gil.share == pytest.approx((11.5 * MS - SLACK) / (12 * MS))


def test_what_was_late_before_the_run_or_after_it_is_not_its_doing() -> None:
    early = look(10.0, 10.02, [Wake(9.0, 10.001), Wake(10.5, 11.0)], [])
    assert (early.held, early.lag) == (pytest.approx(0.001 - SLACK), pytest.approx(0.001))


@pytest.mark.parametrize(
    ("lates", "noisy"),
    [
        ([], False),
        ([0.07 * MS] * 4, False),
        ([0.07 * MS, 0.1 * MS, 0.1 * MS, 30 * MS], False),
        ([0.07 * MS, 0.1 * MS, 5 * MS, 5 * MS], True),
        ([5 * MS] * 4, True),
    ],
)
def test_where_others_hold_the_lock_the_model_is_not_looked_at(lates: list[float], noisy: bool) -> None:
    assert is_noisy([Wake(1.0, 1.0 + late) for late in lates]) is noisy


def test_without_enough_looks_or_with_short_ones_nothing_is_said() -> None:
    assert judged([]) is None
    assert judged([Look(0.01, 0.01, 0.01)] * (ENOUGH_RUNS - 1)) is None
    assert judged([Look(SHORTEST * 0.99, SHORTEST * 0.99, SHORTEST)] * 10) is None


def test_one_look_in_three_may_be_mistaken() -> None:
    guilty, innocent = Look(0.01, 0.009, 0.009), Look(0.01, 0.0, 0.0001)
    for looks, holds in (([guilty, innocent, innocent], False), ([guilty, guilty, innocent], True)):
        gil = judged(looks)
        assert gil is not None
        assert gil.holds is holds


def test_looks_that_were_spoilt_as_often_as_not_say_nothing() -> None:
    guilty = Look(0.01, 0.009, 0.009)
    assert judged([guilty] * 3, spoilt=2) is not None
    assert judged([guilty] * 3, spoilt=3) is None


def test_a_few_runs_or_a_long_one_are_enough() -> None:
    short, long = Look(0.01, 0.0, 0.0), Look(ENOUGH_SECONDS, 0.0, 0.0)
    assert not is_enough([])
    assert not is_enough([short] * (ENOUGH_RUNS - 1))
    assert is_enough([short] * ENOUGH_RUNS)
    assert is_enough([long])


@pytest.mark.parametrize("seed", range(30))
def test_a_made_up_run_is_judged_by_the_share_it_holds(seed: int) -> None:
    """A run that holds the lock in pieces; a sleeper that wakes late by what is left of a piece, and a bit."""
    rng = random.Random(seed)
    looks, true_shares = [], []
    for _ in range(5):
        share = rng.choice([0.0, 0.05, 0.6, 0.95]) if not true_shares else true_shares[0]
        now, pieces, held = 0.0, [], 0.0
        while now < 0.1:
            piece = rng.uniform(4, 8) * MS if share else 0.0
            pieces.append((now, now + piece))
            held += piece
            now += piece / share if share else 0.1
        run = now
        wakes, asleep = [], 0.0
        while asleep < run:
            due = asleep + SLEEP
            end = next((b for a, b in pieces if a <= due < b), due)
            wakes.append(Wake(due, end + rng.uniform(0.05, 0.15) * MS))
            asleep = wakes[-1].woke
        looks.append(look(0.0, run, wakes, usual(0.1 * MS)))
        true_shares.append(share)
    gil = judged(looks)
    assert gil is not None, seed
    assert gil.holds is (true_shares[0] > TOO_MUCH), (seed, true_shares[0], gil)
    assert gil.share <= true_shares[0] + 0.05, (seed, true_shares[0], gil)


def test_the_warning_has_the_figures_and_what_can_be_done() -> None:
    gil = judged([look(0.0, 12 * MS, [Wake(0.5 * MS, 12 * MS)], [])] * 3)
    assert gil is not None
    said = warning("resize", gil, 4)
    assert said.startswith(
        "resize holds the GIL: another thread waited 11.5 ms (median) beside runs of 12.0 ms, 94% of their time."
    )
    assert "its 4 streams take turns" in said
    assert "a library that releases the GIL, or serve this model from a process of its own" in said
    assert "streams" not in warning("resize", gil, 1)


@pytest.mark.parametrize(
    ("share", "others", "left"),
    [
        (0.9, 0.0, 0.9),  # nobody else computes
        (0.9, 0.5, 0.4),  # the rest is the model's own
        (0.9, 0.7, None),  # whose it is, cannot be told
        (0.9, 5.0, None),  # several threads together compute longer than the run takes
        (0.2, 0.7, 0.2),  # innocent anyway
    ],
)
def test_what_others_can_have_held_is_not_held_against_the_model(
    share: float, others: float, left: float | None
) -> None:
    seen = without(Look(1.0, share, 0.0), others)
    assert (seen is None) if left is None else (seen is not None and seen.share == pytest.approx(left))
