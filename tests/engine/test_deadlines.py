"""Deadlines: what cannot be in time is refused when it comes, what can be never is, and what is late is not run.

The clock stands still unless a test moves it; a run takes as long as the clock was moved while it ran.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import headrace as hr
from headrace.engine.port import KNOWN
from headrace.engine.topology import made_up
from headrace.testing import FakeClock, Gate

PATIENCE = 30.0


class Timed:
    """An engine whose runs take `seconds` on a clock of its own."""

    def __init__(self, cores: int = 1, **options: Any) -> None:
        self.clock = FakeClock()
        self.engine = hr.Engine(topology=made_up(cores), clock=self.clock, **options)
        self.gates: list[Gate] = []

    @property
    def now(self) -> float:
        return self.clock.now()

    def measure(self, seconds: float) -> None:
        """Runs that take so long, of operations: as many as it takes to know."""
        for _ in range(KNOWN):
            self.engine.push(lambda: self.clock.advance(seconds)).result(PATIENCE)
        self.quiet()

    def hold(self, times: int = 1, **access: Any) -> Gate:
        """Every stream stands at the gate, and what comes waits."""
        gate = Gate()
        self.gates.append(gate)
        self.held = [self.engine.push(gate, **access) for _ in range(times)]
        gate.wait(times)
        return gate

    def quiet(self) -> None:
        self.engine.waitall(PATIENCE)

    @property
    def operations(self) -> Any:
        return self.engine.statistics().operations


@pytest.fixture
def timed() -> Iterator[Callable[..., Timed]]:
    made: list[Timed] = []

    def make(cores: int = 1, **options: Any) -> Timed:
        made.append(Timed(cores, **options))
        return made[-1]

    yield make
    for each in made:
        for gate in each.gates:
            gate.open()
        each.engine.close(drain=False, timeout=PATIENCE)


def ran() -> str:
    return "ran"


# ---- refused when it comes


def test_what_comes_after_its_deadline_is_refused_and_leaves_no_trace(timed: Callable[..., Timed]) -> None:
    t, var, called = timed(), hr.Var(), []
    for seconds in 0.001, 1.0, 1e9:
        for priority in -1, 0, 5:
            with pytest.raises(hr.DeadlineExceeded):
                t.engine.push(
                    lambda: called.append(1), reads=[var], writes=[var], priority=priority, deadline=t.now - seconds
                )
    t.engine.push(lambda: called.append(2), writes=[var]).result(PATIENCE)
    t.quiet()
    assert called == [2]
    assert (var.version, var.error) == (1, None)
    assert t.operations.pushed == 1
    assert t.engine.statistics().budget.inside == 0


def test_a_deadline_that_is_now_is_in_time(timed: Callable[..., Timed]) -> None:
    t = timed()
    assert t.engine.push(ran, deadline=t.now).result(PATIENCE) == "ran"


def test_nothing_is_refused_as_long_as_no_run_was_measured(timed: Callable[..., Timed]) -> None:
    t = timed()
    gate = t.hold()
    futures = [t.engine.push(ran, deadline=t.now) for _ in range(20)]
    gate.open()
    assert [future.result(PATIENCE) for future in futures] == ["ran"] * 20


@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize("waiting", [0, 1, 2, 3, 6, 7])
def test_what_waits_in_front_counts_with_the_time_of_the_quickest_run(
    waiting: int, cores: int, timed: Callable[..., Timed]
) -> None:
    t = timed(cores)
    t.measure(2.0)
    gate = t.hold(cores)
    futures = [t.engine.push(ran) for _ in range(waiting)]
    needs = waiting // cores * 2.0  # where the runs that go on end at once
    futures.append(t.engine.push(ran, deadline=t.now + needs))
    waiting += 1
    needs = waiting // cores * 2.0
    if needs:
        with pytest.raises(hr.DeadlineExceeded) as refused:
            t.engine.push(ran, deadline=t.now + needs - 0.01)
        assert f" {waiting:,} " in str(refused.value)
    gate.open()
    assert [future.result(PATIENCE) for future in futures] == ["ran"] * len(futures)


def test_what_matters_more_is_not_refused_for_what_it_may_overtake(timed: Callable[..., Timed]) -> None:
    t, order = timed(), []
    t.measure(2.0)
    gate = t.hold()
    for i in range(5):
        t.engine.push(lambda i=i: order.append(i))
    for priority in 0, -1:
        with pytest.raises(hr.DeadlineExceeded):
            t.engine.push(lambda: order.append("late"), priority=priority, deadline=t.now + 9.9)
    urgent = t.engine.push(lambda: order.append("urgent"), priority=1, deadline=t.now)
    gate.open()
    urgent.result(PATIENCE)
    t.quiet()
    assert order == ["urgent", 0, 1, 2, 3, 4]


def test_what_was_cancelled_is_in_nobodys_way(timed: Callable[..., Timed]) -> None:
    t = timed()
    t.measure(2.0)
    gate = t.hold()
    for future in [t.engine.push(ran) for _ in range(10)]:
        future.cancel()
    future = t.engine.push(ran, deadline=t.now + 1.0)
    gate.open()
    assert future.result(PATIENCE) == "ran"


def test_what_matters_less_is_in_nobodys_way(timed: Callable[..., Timed]) -> None:
    t = timed()
    t.measure(2.0)
    gate = t.hold()
    less = [t.engine.push(ran, priority=-100) for _ in range(10)]
    future = t.engine.push(ran, deadline=t.now + 1.0)
    gate.open()
    assert future.result(PATIENCE) == "ran"
    assert [each.result(PATIENCE) for each in less] == ["ran"] * 10


@pytest.mark.parametrize("seed", range(8))
def test_what_was_refused_could_not_have_been_in_time(seed: int, timed: Callable[..., Timed]) -> None:
    """One stream, runs that take 1 s or more: each that was refused would have started too late."""
    rng, t = random.Random(seed), timed()
    t.measure(1.0)
    for _ in range(15):
        gate, begin = t.hold(), t.now
        waiting: list[tuple[hr.Future[Any], float | None]] = []
        for _ in range(rng.randint(1, 12)):
            deadline = t.now + rng.choice([0.0, 0.5, 1.0, 2.5, 4.0, 6.0]) if rng.random() < 0.6 else None
            seconds = rng.choice([1.0, 1.0, 1.5, 3.0])
            in_front = len(waiting)
            try:
                future = t.engine.push(lambda seconds=seconds: t.clock.advance(seconds), deadline=deadline)
            except hr.DeadlineExceeded:
                assert deadline is not None
                assert t.now + in_front * 1.0 > deadline, "it was reachable"
            else:
                waiting.append((future, deadline))
        gate.open()
        for future, deadline in waiting:
            if future.exception(PATIENCE) is not None:
                assert isinstance(future.exception(), hr.DeadlineExceeded)
                assert deadline is not None
        t.quiet()
        assert t.now >= begin


# ---- late when it is reached


def test_what_is_late_is_not_run_and_poisons_what_it_was_to_write(timed: Callable[..., Timed]) -> None:
    t, var, other, called = timed(), hr.Var("weights"), hr.Var(), []
    gate = t.hold()
    late = t.engine.push(lambda: called.append("late"), writes=[var], deadline=t.now + 5)
    in_time = t.engine.push(lambda: called.append("in time"), writes=[other], deadline=t.now + 6)
    reader = t.engine.push(lambda: called.append("reader"), reads=[var])
    t.clock.advance(6)
    gate.open()
    with pytest.raises(hr.DeadlineExceeded):
        late.result(PATIENCE)
    with pytest.raises(hr.PoisonedVar) as poisoned:
        reader.result(PATIENCE)
    in_time.result(PATIENCE)
    assert poisoned.value.origin is late.exception()
    assert called == ["in time"]
    assert (var.version, var.error is late.exception(), other.version) == (0, True, 1)
    t.engine.push(lambda: None, writes=[var]).result(PATIENCE)
    assert t.engine.push(ran, reads=[var]).result(PATIENCE) == "ran", "a full write heals"
    assert (t.operations.late, t.operations.poisoned) == (1, 1)
    assert t.engine.statistics().budget.inside == 0


def test_what_became_late_behind_a_writer_is_not_run_either(timed: Callable[..., Timed]) -> None:
    t, var = timed(2), hr.Var()
    gate = t.hold(writes=[var])
    late = t.engine.push(ran, reads=[var], deadline=t.now + 1)
    t.clock.advance(2)
    gate.open()
    assert isinstance(late.exception(PATIENCE), hr.DeadlineExceeded)
    assert var.error is None, "it only read"


def test_what_has_begun_in_time_may_take_as_long_as_it_takes(timed: Callable[..., Timed]) -> None:
    t = timed()
    assert t.engine.push(lambda: (t.clock.advance(100), "ran")[1], deadline=t.now + 1).result(PATIENCE) == "ran"


def test_what_was_cancelled_and_is_late_was_cancelled(timed: Callable[..., Timed]) -> None:
    t, var = timed(), hr.Var()
    gate = t.hold()
    future = t.engine.push(ran, writes=[var], deadline=t.now + 1)
    future.cancel()
    t.clock.advance(2)
    gate.open()
    t.quiet()
    t.engine.push(ran).result(PATIENCE)
    assert future.cancelled()
    assert var.error is None
    assert (t.operations.late, t.operations.cancelled) == (0, 1)


# ---- models


def test_a_model_refuses_what_cannot_begin_within_its_timeout(timed: Callable[..., Timed]) -> None:
    t = timed()
    gate = Gate()
    t.gates.append(gate)

    def work(x: float) -> str:
        if x == 0:
            gate()
        t.clock.advance(max(0.0, x))
        return "ran"

    with hr.compile_model(work, engine=t.engine) as model:
        assert [model(2.0, timeout=0) for _ in range(KNOWN)] == ["ran"] * KNOWN
        t.quiet()
        futures = [model.submit(0)]
        gate.wait()
        futures += [model.submit(-1, timeout=i * 2.0) for i in range(4)]
        for timeout in 0, 3.9, 7.9:
            with pytest.raises(hr.DeadlineExceeded):
                model.submit(1.0, timeout=timeout)
        futures.append(model.submit(-1, timeout=0, priority=1))
        futures.append(model.submit(-1, timeout=10.0))
        gate.open()
        assert [future.result(PATIENCE) for future in futures] == ["ran"] * 7
    counts = model.statistics()
    assert (counts.submitted, counts.completed, counts.late) == (7 + KNOWN, 7 + KNOWN, 0)


def test_a_batch_that_waits_counts_as_one_run(timed: Callable[..., Timed]) -> None:
    t = timed()
    gate = Gate()
    t.gates.append(gate)

    def work(xs: list[float]) -> list[float]:
        if xs[0] == 0:
            gate()
        t.clock.advance(max(0.0, xs[0]))
        return xs

    with hr.compile_model(work, engine=t.engine, max_batch_size=4) as model:
        for _ in range(KNOWN):
            model(2.0)
        t.quiet()
        futures = [model.submit(0.0)]
        gate.wait()
        futures += [model.submit(-1, timeout=0) for _ in range(4)]
        with pytest.raises(hr.DeadlineExceeded):
            model.submit(1.0, timeout=1.9)
        futures += [model.submit(-1, timeout=2.0) for _ in range(4)]
        with pytest.raises(hr.DeadlineExceeded):
            model.submit(1.0, timeout=3.9)
        gate.open()
        assert len([future.result(PATIENCE) for future in futures]) == 9


def test_a_request_that_is_late_when_it_is_reached_is_not_run(timed: Callable[..., Timed]) -> None:
    t = timed()
    gate, called = Gate(), []
    t.gates.append(gate)

    def work(x: int) -> int:
        if x == 0:
            gate()
        called.append(x)
        return x

    with hr.compile_model(work, engine=t.engine) as model:
        first = model.submit(0)
        gate.wait()
        late, in_time, gone = model.submit(1, timeout=5), model.submit(2, timeout=6), model.submit(3, timeout=5)
        gone.cancel()
        t.clock.advance(6)
        gate.open()
        assert isinstance(late.exception(PATIENCE), hr.DeadlineExceeded)
        assert (first.result(PATIENCE), in_time.result(PATIENCE)) == (0, 2)
    assert called == [0, 2]
    counts = model.statistics()
    assert (counts.submitted, counts.completed, counts.late, counts.cancelled) == (4, 2, 1, 1)
    assert t.engine.statistics().budget.inside == 0


# ---- full


@pytest.fixture
def full() -> Iterator[tuple[hr.Engine, Gate]]:
    """Whose one place is taken by what stands at the gate."""
    gate = Gate()
    with hr.Engine(topology=made_up(1), max_operations=1) as engine:
        engine.push(gate)
        gate.wait()
        yield engine, gate
        gate.open()


def test_a_push_waits_for_room_until_its_deadline_and_no_longer(full: tuple[hr.Engine, Gate]) -> None:
    engine, gate = full
    var = hr.Var()
    with pytest.raises(hr.DeadlineExceeded, match="no room in the engine by the deadline"):
        engine.push(ran, writes=[var], deadline=engine.clock.now() + 0.02)
    assert engine.statistics().budget.waiting == 0, "it has left the line"
    assert engine.statistics().operations.pushed == 1
    gate.open()
    assert engine.push(ran, reads=[var]).result(PATIENCE) == "ran", "what was not pushed poisons nothing"


def test_a_push_that_finds_room_before_its_deadline_is_run(
    full: tuple[hr.Engine, Gate], in_threads: Callable[..., Any], until: Callable[..., None]
) -> None:
    engine, gate = full
    answers: list[str] = []
    for deadline in (engine.clock.now() + PATIENCE, float("inf"), 1e300):
        if answers:
            gate = Gate()
            engine.push(gate)
            gate.wait()
        crowd = in_threads(lambda d=deadline: answers.append(engine.push(ran, deadline=d).result(PATIENCE)))
        until(lambda: engine.statistics().budget.waiting == 1)
        gate.open()
        crowd.join()
    assert answers == ["ran"] * 3


@pytest.mark.parametrize("on_full", ["reject", "shed"])
def test_where_a_full_engine_does_not_wait_a_deadline_changes_nothing(on_full: str) -> None:
    gate = Gate()
    with hr.Engine(topology=made_up(1), max_operations=1, on_full=on_full) as engine:
        engine.push(gate)
        gate.wait()
        with pytest.raises(hr.Overloaded):
            engine.push(ran, deadline=engine.clock.now() + PATIENCE)
        gate.open()


def test_a_submit_that_finds_no_room_within_its_timeout_is_told_it_was_too_busy(full: tuple[hr.Engine, Gate]) -> None:
    """Not that it was late: the same request may succeed elsewhere, at once."""
    engine, _ = full
    with hr.compile_model(lambda x: x, engine=engine) as model:
        with pytest.raises(hr.Overloaded):
            model.submit(1, timeout=0.02)
        with pytest.raises(hr.Overloaded):
            model(1, timeout=0.02)
        with pytest.raises(hr.Overloaded):
            asyncio.run(model.asubmit(1, timeout=0.02))
        assert engine.statistics().budget.waiting == 0
