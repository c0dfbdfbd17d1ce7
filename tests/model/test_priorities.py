"""Larger priority first among what waits for a model. The batcher is told what time it is: nothing here waits."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Hashable
from fractions import Fraction
from typing import Any

import pytest

import headrace as hr
from headrace.engine.guard import Guard
from headrace.engine.source import Refused
from headrace.engine.topology import made_up
from headrace.model.batcher import LOOK_AHEAD, Batcher
from headrace.model.pending import Owner, Pending
from headrace.testing import FakeClock, Gate

PATIENCE = 30.0
GUARD = Guard()


class Nobody(Owner):
    def on_error(self, pending: Pending) -> None:
        pass


class Request(Pending):
    def __init__(self, name: str, priority: float, alike: Hashable, rows: int, deadline: float | None) -> None:
        super().__init__(Nobody(), (name,), GUARD)
        self.label, self.priority, self.alike, self.rows, self.deadline = name, priority, alike, rows, deadline


def add(
    batcher: Batcher, name: str, priority: float = 0, now: float = 0.0, *, alike: Hashable = "a", rows: int = 1,
    deadline: float | None = None,
) -> Request:  # fmt: skip
    one = Request(name, priority, alike, rows, deadline)
    batcher.add(one, now)
    return one


def pulled(batcher: Batcher, now: float = 0.0, busy: bool = False) -> list[str]:
    return [one.label for one in batcher.pull(now, busy, [])]  # type: ignore[attr-defined]


def order(batcher: Batcher, now: float = 0.0) -> str:
    """The names, in the order in which they are pulled."""
    names: list[str] = []
    while batch := pulled(batcher, now):
        names += batch
    return "".join(names)


# ---- the batcher


def test_larger_priority_is_pulled_first() -> None:
    batcher = Batcher()
    for name, priority in (("d", 0), ("e", -1), ("b", 2), ("a", 2.5), ("c", 1)):
        add(batcher, name, priority)
    assert order(batcher) == "abcde"


@pytest.mark.parametrize("priority", [0, 3, -3, 0.5])
def test_equal_ones_are_pulled_in_the_order_they_came(priority: float) -> None:
    batcher = Batcher()
    for name in "abcdefgh":
        add(batcher, name, priority)
    assert order(batcher) == "abcdefgh"


def test_a_step_of_priority_is_worth_a_second_of_waiting() -> None:
    batcher = Batcher()
    add(batcher, "b", 0, now=10.0)
    add(batcher, "a", 1, now=10.999)  # less than a second later: overtakes
    add(batcher, "c", 1, now=11.001)  # more: does not
    assert order(batcher, now=11.001) == "abc"


def test_nothing_waits_for_ever_behind_what_matters_more() -> None:
    """Under a load of important ones, faster than they are served, an unimportant one comes to its turn."""
    batcher = Batcher()
    add(batcher, "old", 0, now=0.0)
    now, served = 0.0, []
    while "old" not in served:
        for _ in range(2):
            add(batcher, "new", 5, now)
        served += pulled(batcher, now)
        now += 0.5
        assert now < 100
    assert len(served) == 21, "in front of it are those that came in its first five seconds, two each half second"


def test_time_changes_the_order_of_no_two_that_wait() -> None:
    rng = random.Random(7)
    many = [(str(i), rng.choice([0, 0, 1, -2, 0.3, 4]), i * 0.25) for i in range(40)]

    def names(now: float) -> list[str]:
        batcher, names = Batcher(), []
        for name, priority, came in many:
            add(batcher, name, priority, came)
        while batch := pulled(batcher, now):
            names += batch
        return names

    assert names(10.0) == names(1e6)
    assert sorted(names(10.0), key=int) == [name for name, _, _ in many]


def test_the_most_important_one_leads_the_batch_and_those_like_it_follow_in_their_order() -> None:
    batcher = Batcher(3)
    add(batcher, "d", 0, alike="x")
    add(batcher, "b", 2, alike="x")
    add(batcher, "c", 1, alike="y")
    add(batcher, "a", 9, alike="x")
    assert pulled(batcher) == ["a", "b", "d"]
    assert pulled(batcher) == ["c"]


def test_those_that_were_skipped_keep_their_places() -> None:
    """Unlike ones are taken out to look behind them; they are put back where they were, of either kind of place."""
    batcher = Batcher(2)
    add(batcher, "a", 9, alike="x")
    for name, priority in (("e", 0), ("b", 3), ("f", 0), ("c", 3), ("d", 3)):
        add(batcher, name, priority, alike="y")
    add(batcher, "z", -1, alike="x")
    assert pulled(batcher) == ["a", "z"]
    add(batcher, "g", 0, alike="y")
    batcher.max_batch_size = 1
    assert order(batcher) == "bcdefg"


def test_they_keep_their_places_however_often_they_are_skipped() -> None:
    batcher = Batcher(2)
    for name in "abcdef":
        add(batcher, name, 1, alike="y")
    for i in range(5):
        add(batcher, f"first{i}", 9, alike="x")
        assert pulled(batcher) == [f"first{i}"]
    batcher.max_batch_size = 1
    assert order(batcher) == "abcdef"


def test_what_does_not_fit_keeps_its_place() -> None:
    batcher = Batcher(4)
    add(batcher, "a", 5, rows=3)
    add(batcher, "c", 4, rows=2)
    add(batcher, "d", 4, rows=2)
    add(batcher, "b", 0, rows=1)
    assert pulled(batcher) == ["a", "b"]
    assert pulled(batcher) == ["c", "d"]


def test_company_is_looked_for_among_a_bounded_number_and_the_rest_is_left_in_order() -> None:
    batcher = Batcher(2)
    add(batcher, "a", 9, alike="x")
    for i in range(LOOK_AHEAD * 2):
        add(batcher, str(i), 5, alike="y")
    add(batcher, "z", 0, alike="x")
    assert pulled(batcher) == ["a"]
    assert order(batcher) == "01234567z"


def test_an_important_one_does_not_make_a_free_stream_wait_longer_for_company() -> None:
    """The delay counts from the oldest, which need not be the one in front."""
    batcher = Batcher(4, max_batch_delay=3.0)
    add(batcher, "old", 0, now=1.0)
    add(batcher, "new", 9, now=3.0)
    assert batcher.next_deadline() == 4.0
    assert pulled(batcher, now=3.999, busy=True) == []
    assert pulled(batcher, now=4.0, busy=True) == ["new", "old"]


def test_who_was_cancelled_behind_an_important_one_starts_no_run() -> None:
    batcher = Batcher(4, max_batch_delay=3.0)
    gone = add(batcher, "gone", 0, now=1.0)
    add(batcher, "b", 0, now=2.0)
    add(batcher, "a", 9, now=2.5)
    gone.cancel()
    assert batcher.next_deadline() == 5.0
    assert batcher.batches(4.5, busy=True) == 0
    assert pulled(batcher, now=5.0, busy=True) == ["a", "b"]


@pytest.mark.parametrize("priority", [0, 5, -5])
def test_the_cancelled_and_the_late_are_passed_over_whatever_their_priority(priority: float) -> None:
    batcher = Batcher()
    gone = add(batcher, "gone", priority)
    late = add(batcher, "late", priority, deadline=1.0)
    add(batcher, "b", 0)
    add(batcher, "a", 1)
    gone.cancel()
    refused: Refused = []
    assert batcher.pull(2.0, False, refused)[0].inputs == ("a",)
    assert batcher.pull(2.0, False, refused)[0].inputs == ("b",)
    assert batcher.pull(2.0, False, refused) == []
    assert [future for future, _ in refused] == [late]
    assert (batcher.counts.cancelled, batcher.counts.late) == (1, 1)
    assert batcher.is_empty()


@pytest.mark.parametrize("priority", [0, 5])
def test_cancelled_ones_of_any_priority_do_not_pile_up(priority: float) -> None:
    batcher = Batcher()
    add(batcher, "kept", -1)
    for i in range(3000):
        add(batcher, str(i), priority).cancel()
        assert len(batcher) <= 258
    assert pulled(batcher) == ["kept"]
    assert batcher.counts.cancelled == 3000


@pytest.mark.parametrize("seed", range(30))
def test_any_order_of_adding_and_pulling_agrees_with_a_sorted_list(seed: int) -> None:
    rng = random.Random(seed)
    batcher, now = Batcher(), 0.0
    twin: list[Request] = []
    for i in range(200):
        now += rng.choice([0.0, 0.0, 0.125, 1.0])
        if rng.random() < 0.55:
            twin.append(add(batcher, str(i), rng.choice([0, 0, 0.3, 2, -1]), now))
        elif rng.random() < 0.2 and twin:
            gone = rng.choice(twin)
            gone.cancel()
            twin.remove(gone)
        else:
            # Of the same merit, the one of priority 0 is first; of the same priority, the one that came first.
            best = min(twin, key=lambda one: (one.queued_at - one.priority, one.priority != 0), default=None)
            assert batcher.pull(now, False, []) == ([best] if best else [])
            if best:
                twin.remove(best)


# ---- models


def test_a_model_answers_the_most_important_request_that_waits_first() -> None:
    gate, ran = Gate(), []
    with (
        hr.Engine(topology=made_up(1), clock=FakeClock()) as engine,
        hr.compile_model(lambda x: ran.append(x) or gate(), engine=engine) as model,
    ):
        futures = [model.submit("running")]
        gate.wait()
        asked = (("d", 0), ("f", -1), ("b", 2), ("e", 0), ("c", 2), ("a", 7))
        futures += [model.submit(name, priority=priority) for name, priority in asked]
        gate.open()
        for future in futures:
            future.result(PATIENCE)
    assert ran == ["running", *"abcdef"]


def test_every_way_in_takes_a_priority(engine: hr.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, ran, entered = Gate(), [], threading.Semaphore(0)

    async def users(model: hr.Model) -> None:
        called = asyncio.create_task(asyncio.to_thread(model, "a", priority=200))
        await asyncio.to_thread(entered.acquire)
        sent = asyncio.create_task(model.asubmit("b", priority=100))
        await asyncio.sleep(0)  # so that it is in
        assert model.statistics().waiting == 3
        gate.open()
        await asyncio.gather(called, sent)

    with hr.compile_model(lambda x: ran.append(x) or gate(), engine=engine) as model:
        futures = [model.submit("running"), model.submit("c")]
        gate.wait()
        submit = model.submit
        monkeypatch.setattr(model, "submit", lambda *a, **k: (submit(*a, **k), entered.release())[0])
        asyncio.run(users(model))
        for future in futures:
            future.result(PATIENCE)
    assert ran == ["running", *"abc"]


NO_NUMBERS = ["high", "", None, float("nan"), [], [1], object(), 1j, 10**400]


@pytest.mark.parametrize("scheduler", ["single_stream", "naive"])
@pytest.mark.parametrize("timeout", [None, 5.0])
@pytest.mark.parametrize("priority", NO_NUMBERS, ids=lambda value: repr(value)[:12])
def test_a_priority_that_is_no_number_is_refused_and_costs_no_room(
    engine: hr.Engine, priority: Any, timeout: float | None, scheduler: str
) -> None:
    with hr.compile_model(lambda x: x, engine=engine, scheduler=scheduler) as model:
        for call in (
            lambda: model.submit(1, priority=priority, timeout=timeout),
            lambda: model(1, priority=priority, timeout=timeout),
            lambda: asyncio.run(model.asubmit(1, priority=priority, timeout=timeout)),
        ):
            with pytest.raises((hr.InvalidOption, TypeError), match="priority"):
                call()
        assert model._budget.statistics().inside == 0
        assert model.statistics().submitted == 0
        assert model(1) == 1


@pytest.mark.parametrize(
    "priority", [True, 2**53 + 1, Fraction(1, 3), float("inf"), -float("inf"), -0.0], ids=lambda value: repr(value)
)
def test_any_real_number_is_a_priority(engine: hr.Engine, priority: Any) -> None:
    with hr.compile_model(lambda x: x, engine=engine) as model:
        assert model(1, priority=priority) == 1
    batcher = Batcher()
    add(batcher, "b", 0)
    add(batcher, "a", priority)
    assert order(batcher) == ("ab" if priority > 0 else "ba")
