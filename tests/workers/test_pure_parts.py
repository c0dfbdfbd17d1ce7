"""The parts of a worker that only decide: window, extents, supervision, retry, shares."""

import random

import pytest

from headrace.engine.topology import made_up
from headrace.workers.extents import PAGE, Extents
from headrace.workers.process import said_of_memory
from headrace.workers.retry import Fate, fate, has_begun
from headrace.workers.sharing import THREADS, Share, environment, plan, shares
from headrace.workers.supervision import CALM, LONGEST, RETRY, TOO_OFTEN, State, Supervision
from headrace.workers.window import AHEAD, MOST, Window

# ---- window


def test_nothing_is_sent_ahead_before_anything_is_known() -> None:
    assert Window().size == 1


@pytest.mark.parametrize(("seconds", "size"), [(1e-6, MOST), (100e-6, 11), (AHEAD, 2), (3 * AHEAD, 1), (1.0, 1)])
def test_about_a_millisecond_of_work_lies_ahead(seconds: float, size: int) -> None:
    window = Window()
    for _ in range(50):
        window.learn(seconds)
    assert window.size == size


def test_a_worker_whose_runs_become_long_is_sent_less_at_once() -> None:
    window = Window()
    for _ in range(50):
        window.learn(1e-6)
    window.learn(1.0)
    assert window.size == 1
    window.forget()
    assert window.size == 1


# ---- extents, beside a map of bytes


@pytest.mark.parametrize("seed", range(20))
def test_extents_agree_with_a_map_of_pages(seed: int) -> None:
    rng = random.Random(seed)
    pages, extents, taken = 64, Extents(PAGE, 64 * PAGE), {}
    used: set[int] = set()
    for _ in range(300):
        if taken and rng.random() < 0.5:
            offset = rng.choice(list(taken))
            used -= set(taken.pop(offset))
            extents.give_back(offset)
        else:
            nbytes = rng.randint(1, 12 * PAGE)
            count = -(-nbytes // PAGE)
            fits = next((i for i in range(1, pages + 2 - count) if not used & set(range(i, i + count))), None)
            offset = extents.take(nbytes)
            assert offset == (None if fits is None else fits * PAGE)  # the lowest that fits
            if offset is not None:
                taken[offset] = range(offset // PAGE, offset // PAGE + count)
                used |= set(taken[offset])
                assert extents.holds(offset, nbytes)
                assert not extents.holds(offset, count * PAGE + 1)
        if taken and rng.random() < 0.2:
            offset = rng.choice(list(taken))
            count = rng.randint(1, len(taken[offset]))
            extents.shrink(offset, count * PAGE)
            used -= set(taken[offset][count:])
            taken[offset] = taken[offset][:count]
            assert extents.holds(offset, count * PAGE)
            assert not extents.holds(offset, count * PAGE + 1)
        assert extents.taken == len(used) * PAGE
        assert sum(nbytes for _, nbytes in extents.free()) == (pages - len(used)) * PAGE
    for offset in list(taken):
        extents.give_back(offset)
    assert extents.largest() == pages * PAGE


def test_what_is_not_taken_cannot_be_given_back() -> None:
    extents = Extents(0, 4 * PAGE)
    offset = extents.take(1)
    assert offset is not None
    extents.give_back(offset)
    with pytest.raises(KeyError):
        extents.give_back(offset)


# ---- supervision


def alive(now: float = 0.0) -> Supervision:
    made = Supervision()
    made.starting()
    made.ready(now)
    return made


def test_the_first_failure_is_mended_at_once_and_the_next_ones_later_each_time() -> None:
    worker, now, waits = alive(), 0.0, []
    for _ in range(TOO_OFTEN - 1):
        at = worker.failed(now, "died")
        assert worker.state is State.BACKING_OFF
        waits.append(at - now)
        now = at
        worker.starting()
        worker.ready(now)
    assert waits == pytest.approx([0, 0.1, 0.2, 0.4])
    assert max(waits) <= LONGEST


def test_too_many_failures_in_a_row_open_the_circuit_and_it_is_tried_again() -> None:
    worker = alive()
    for _ in range(TOO_OFTEN - 1):
        worker.failed(0.0, "died")
        assert not worker.is_broken
        worker.starting()
    worker.failed(0.0, "died")
    assert worker.state is State.BROKEN
    assert worker.start_at == RETRY
    worker.starting()
    assert worker.is_broken  # until it has shown that it works
    worker.ready(RETRY)
    assert not worker.is_broken
    worker.failed(RETRY, "died")
    assert worker.state is State.BROKEN
    worker.starting()
    worker.ready(0.0)
    worker.answered()
    worker.failed(0.0, "died")
    assert worker.state is State.BACKING_OFF


def test_what_has_lived_for_a_while_starts_afresh() -> None:
    worker = alive()
    for now in (0.0, 0.0, 0.0):
        worker.failed(now, "died")
        worker.starting()
        worker.ready(now)
    worker.failed(CALM, "died")
    assert worker.failures == 1


def test_a_worker_cannot_become_what_does_not_follow() -> None:
    with pytest.raises(AssertionError):
        Supervision().ready(0.0)


# ---- retry


@pytest.mark.parametrize(
    ("begun", "tried", "idempotent", "wanted", "its"),
    [
        (False, False, True, True, Fate.WAITS_AGAIN),
        (False, False, False, True, Fate.WAITS_AGAIN),
        (False, True, True, True, Fate.ALONE),
        (True, False, True, True, Fate.ALONE),
        (True, False, False, True, Fate.FAILS),
        (True, True, True, True, Fate.FAILS),
        (True, False, True, False, Fate.FAILS),
        (False, False, True, False, Fate.FAILS),
    ],
)
def test_what_becomes_of_a_request(begun: bool, tried: bool, idempotent: bool, wanted: bool, its: Fate) -> None:
    assert fate(begun=begun, tried=tried, idempotent=idempotent, wanted=wanted) is its


def test_runs_begin_in_order() -> None:
    assert [has_begun(id, 3) for id in (2, 3, 4)] == [True, True, False]


# ---- shares, output


def test_the_shares_of_workers_add_up_to_the_cores_and_nobody_has_none() -> None:
    assert shares(8, 3) == [3, 3, 2]
    assert shares(2, 4) == [1, 1, 1, 1]
    assert plan([[0, 1, 2, 3]], 3) == [Share(2), Share(1), Share(1)]  # one node: nobody is bound
    assert plan([], 1) == [Share(1)]


@pytest.mark.parametrize(("cores", "nodes"), [(4, 2), (8, 2), (6, 4), (12, 3), (7, 2), (64, 8)])
@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 9, 70])
def test_no_worker_straddles_a_numa_node_nor_has_more_threads_than_it(cores: int, nodes: int, workers: int) -> None:
    grouped = [[core.cpu for core in node] for node in made_up(cores, nodes=nodes).nodes]
    planned = plan(grouped, workers)
    assert len(planned) == workers
    for share in planned:
        assert share.cpus in [tuple(node) for node in grouped]
        assert 1 <= share.threads <= len(share.cpus)
    for node in grouped:
        threads = [share.threads for share in planned if share.cpus == tuple(node)]
        if (
            threads
        ):  # a node with workers is used whole, and only where there are more workers than cores more than that
            assert sum(threads) == max(len(node), len(threads))
            assert max(threads) - min(threads) <= 1
    if workers >= len(grouped) and len({len(node) for node in grouped}) == 1:
        assert {share.cpus for share in planned} == {tuple(node) for node in grouped}


def test_a_larger_node_gets_more_workers() -> None:
    homes = [share.cpus for share in plan([[0, 1, 2, 3, 4, 5], [6, 7]], 4)]
    assert homes.count((6, 7)) == 1


def test_how_a_worker_ended_names_its_memory_limit() -> None:
    assert said_of_memory("was killed by SIGKILL", 5_000, True) == "; it was over its memory_limit of 5,000 bytes"
    assert "may have its memory_limit of 5,000 bytes" in said_of_memory("was killed by SIGKILL", 5_000, False)
    assert said_of_memory("ended by itself with exit status 3", 5_000, False) == ""
    assert said_of_memory("was killed by SIGKILL", None, False) == ""


def test_what_somebody_has_set_himself_stays() -> None:
    made = environment({"OMP_NUM_THREADS": "7"}, 2)
    assert made["OMP_NUM_THREADS"] == "7"
    assert {made[name] for name in THREADS if name != "OMP_NUM_THREADS"} == {"2"}
