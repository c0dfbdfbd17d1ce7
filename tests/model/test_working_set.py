"""What a run takes beside its inputs: the pure part against a naive twin, and how a model is charged by it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
import pytest

import headrace as hr
import headrace.model.run
from headrace.engine.topology import made_up
from headrace.model.working_set import KINDS, WorkingSet, kind_of, resident_bytes
from headrace.testing import Gate

PATIENCE = 30.0
BOUND = 1000


@pytest.fixture(autouse=True)
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the fake process grows by is meant."""
    monkeypatch.setattr("headrace.model.run.NOISE", 0)


def raw(nbytes: int) -> Any:
    return np.zeros(nbytes, np.uint8)


# ---- pure


def test_of_a_model_of_which_nothing_is_known_one_request_takes_the_whole_bound() -> None:
    working_set = WorkingSet(BOUND)
    assert working_set.charge("a", 10) == BOUND
    assert working_set.charge("a", 5000) == 5000
    working_set.learn("a", 10, 0, 0)
    assert working_set.charge("a", 10) == 10


def test_a_kind_is_charged_with_the_most_it_has_taken() -> None:
    working_set = WorkingSet(BOUND)
    for grew, outputs in (0, 20), (30, 20), (0, 20), (5, 0):
        working_set.learn("a", 10, grew, outputs)
    assert working_set.charge("a", 10) == 60


def test_a_kind_never_seen_is_estimated_from_the_most_demanding_by_the_bytes_that_go_in() -> None:
    working_set = WorkingSet(BOUND)
    working_set.learn("a", 10, 0, 20)
    working_set.learn("b", 100, 50, 250)
    assert working_set.charge("new", 40) == 40 + 120
    assert working_set.charge("a", 10) == 30, "what is known is not estimated"
    working_set.learn("nothing goes in", 0, 7, 0)
    assert working_set.charge("new", 40) == 40 + 280


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_remembering_everything(seed: int) -> None:
    rng, working_set = random.Random(seed), WorkingSet(BOUND)
    most: dict[Hashable, int] = {}
    worst = 0.0
    for _ in range(500):
        kind = rng.randrange(40)  # fewer than are forgotten
        if rng.random() < 0.5:
            grew, outputs = rng.randrange(100), rng.randrange(100)
            working_set.learn(kind, kind, grew, outputs)
            most[kind] = max(most.get(kind, 0), grew + outputs)
            worst = max(worst, most[kind] / max(1, kind))
        elif most:
            expected = kind + most.get(kind, round(worst * kind))
            assert working_set.charge(kind, kind) == expected


def test_the_kind_that_was_not_used_for_longest_is_forgotten_first() -> None:
    working_set = WorkingSet(BOUND)
    working_set.learn("first", 1000, 0, 1)
    working_set.learn("second", 1000, 0, 1)
    for i in range(KINDS - 2):
        working_set.learn(i, 1000, 0, 3000)
    assert working_set.charge("first", 1000) == 1001  # and so it was used
    working_set.learn("one more", 1000, 0, 3000)
    assert working_set.charge("first", 1000) == 1001
    assert working_set.charge("second", 1000) == 4000, "forgotten, and estimated"


def test_kinds_are_dtypes_and_shapes() -> None:
    x = np.zeros((2, 3), np.float32)
    assert kind_of((x,)) == kind_of((x + 1,))
    others = [(x.astype(np.float64),), (x.T,), (x, x), (3,), (3.0,), ("text",), (None,), ()]
    assert len({kind_of((x,)), *map(kind_of, others)}) == 9


def test_what_the_process_holds_is_more_once_it_takes_more() -> None:
    before = resident_bytes()
    if not before:
        pytest.skip("this system does not say")
    taken = np.ones(64 << 20, np.uint8)
    assert resident_bytes() - before > 32 << 20
    del taken


# ---- of a model


class Memory:
    """What the process holds, as the model's function says."""

    def __init__(self) -> None:
        self.held = 1 << 20

    def __call__(self) -> int:
        return self.held


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    memory = Memory()
    monkeypatch.setattr(headrace.model.run, "resident_bytes", memory)
    return memory


@pytest.fixture
def engine(memory: Memory) -> Iterator[hr.Engine]:
    engine = hr.Engine(topology=made_up(1), max_bytes=BOUND)
    yield engine
    engine.close(drain=False, timeout=PATIENCE)


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    def until(so: Callable[[], object]) -> None:
        patience = time.monotonic() + PATIENCE
        while not so():
            assert time.monotonic() < patience, "it never came to be so"
            time.sleep(0)  # no waiting, only the others' turn

    return until


def charged(engine: hr.Engine) -> int:
    return engine.statistics().budget.nbytes


class Growing:
    """Gives 2 bytes for each that comes; its next run grows the process by `takes` bytes, and those of the answer."""

    def __init__(self, memory: Memory) -> None:
        self.memory, self.takes, self.gate = memory, 0, Gate()
        self.gate.open()

    def __call__(self, x: Any) -> Any:
        self.gate()
        self.memory.held += self.takes and self.takes + 2 * x.size
        self.takes = 0
        return np.concatenate([x, x])

    def charge_of(self, model: hr.Model, x: Any) -> int:
        """What `x` is charged with while it runs."""
        self.gate = gate = Gate()
        future = model.submit(x)
        gate.wait()
        assert model.engine is not None
        seen = charged(model.engine)
        gate.open()
        future.result(PATIENCE)
        model.engine.waitall(PATIENCE)
        assert charged(model.engine) == 0
        return seen


def test_the_first_request_of_a_model_is_alone_and_what_it_takes_is_learned(engine: hr.Engine, memory: Memory) -> None:
    growing = Growing(memory)
    with hr.compile_model(growing, engine=engine) as model:
        growing.takes = 100
        assert growing.charge_of(model, raw(10)) == BOUND
        assert growing.charge_of(model, raw(10)) == 10 + 100 + 20
        assert growing.charge_of(model, raw(5)) == 5 + 60, "another kind, by its bytes"
        assert growing.charge_of(model, raw(5)) == 5 + 10, "and as it was seen"
        assert growing.charge_of(model, raw(10)) == 130, "the most counts"
    with hr.compile_model(growing, engine=engine) as another:
        assert growing.charge_of(another, raw(10)) == BOUND, "nothing is known of this one"


def test_a_failure_teaches_nothing(engine: hr.Engine) -> None:
    gate, charges = Gate(), []

    def picky(x: Any) -> Any:
        charges.append(charged(engine))
        if x[0]:
            raise ValueError("no")
        return x

    with hr.compile_model(picky, engine=engine) as model:
        for _ in range(3):
            with pytest.raises(hr.BackendError):
                model(raw(10) + 1)
        model(raw(10))
        model(raw(10))
    gate.open()
    assert charges == [BOUND] * 4 + [20]


def test_nothing_is_measured_while_something_else_runs(memory: Memory) -> None:
    with hr.Engine(topology=made_up(2), max_bytes=BOUND) as engine:
        growing, gate = Growing(memory), Gate()
        with hr.compile_model(growing, engine=engine, scheduler="multi_stream") as model:
            model(raw(10))
            other = engine.push(gate)
            gate.wait()
            growing.takes = 500
            model(raw(10))  # it may have been the other one that grew
            gate.open()
            other.result(PATIENCE)
            engine.waitall(PATIENCE)
            assert growing.charge_of(model, raw(10)) == 30


def test_the_members_of_a_batch_share_what_it_took(engine: hr.Engine, memory: Memory) -> None:
    gate = Gate()

    def work(xs: list[Any]) -> list[Any]:
        if xs[0].size == 1:
            gate()
        elif len(xs) > 1:
            memory.held += 100 + sum(x.size for x in xs)
        return xs

    with hr.compile_model(work, engine=engine, max_batch_size=4) as model:
        model(raw(10))
        gate.open()
        model(raw(1))
        gate = Gate()
        first = model.submit(raw(1))
        gate.wait()
        members = [model.submit(raw(10)) for _ in range(4)]
        assert charged(engine) == 2 + 4 * 20
        gate.open()
        for each in (first, *members):
            each.result(PATIENCE)
        engine.waitall(PATIENCE)
        assert charged(engine) == 0
        gate = Gate()
        model.submit(raw(1))
        gate.wait()
        model.submit(raw(10))
        assert charged(engine) == 2 + 20 + 25
        gate.open()


def test_a_stream_of_requests_to_a_model_that_is_new_does_not_wait_for_itself(engine: hr.Engine) -> None:
    with hr.compile_model(lambda x: x, engine=engine) as model:
        futures = [model.submit(raw(10)) for _ in range(5)]
        assert [future.result(PATIENCE).size for future in futures] == [10] * 5
    assert charged(engine) == 0


def test_map_reads_its_oldest_where_its_own_answers_fill_the_engine(engine: hr.Engine) -> None:
    with hr.compile_model(lambda x: x, engine=engine) as model:
        for size in 10, 100, 300, 450, 2000:
            assert [each.size for each in model.map(raw(size) for _ in range(20))] == [size] * 20
    assert charged(engine) == 0


def test_many_threads_that_find_a_new_model_are_all_answered(
    engine: hr.Engine, until: Callable[[Callable[[], object]], None]
) -> None:
    gate, answers = Gate(), []

    def work(x: Any) -> Any:
        gate()
        return x

    with hr.compile_model(work, engine=engine) as model:
        threads = [threading.Thread(target=lambda: answers.append(model(raw(10)).size)) for _ in range(8)]
        for thread in threads:
            thread.start()
        gate.wait()
        until(lambda: engine.statistics().budget.waiting == 7)
        assert engine.statistics().budget.inside == 1
        gate.open()
        for thread in threads:
            thread.join(PATIENCE)
    assert answers == [10] * 8
    assert charged(engine) == 0


def test_where_bytes_are_not_bounded_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> int:
        raise AssertionError("it was measured")

    monkeypatch.setattr(headrace.model.run, "resident_bytes", never)
    with hr.Engine(topology=made_up(1)) as engine, hr.compile_model(lambda x: x, engine=engine) as model:
        future = model.submit(raw(10))
        future.wait_to_read(PATIENCE)
        engine.waitall(PATIENCE)
        assert charged(engine) == 0
        assert future.result().size == 10


def test_where_the_system_does_not_say_what_it_holds_the_outputs_are_learned_all_the_same(
    engine: hr.Engine, memory: Memory
) -> None:
    memory.held = 0
    growing = Growing(memory)
    with hr.compile_model(growing, engine=engine) as model:
        model(raw(10))
        memory.held = 0
        assert growing.charge_of(model, raw(10)) == 30
