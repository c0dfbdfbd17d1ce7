"""What users' values do when they are asked or let go of is their own code.

Never with the engine's lock held, and never the end of a stream.
"""

import gc
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

import headrace as hr
from headrace.engine.topology import made_up
from headrace.testing import Gate

PATIENCE = 30.0


class Watched:
    """Notes whether the engine's lock was held when it went."""

    def __init__(self, engine: hr.Engine, seen: list[bool]) -> None:
        self.engine, self.seen = engine, seen

    def __del__(self) -> None:
        self.seen.append(self.engine.guard.lock._is_owned())  # type: ignore[attr-defined]

    def __call__(self, *_: object) -> Any:
        return None


def result_of_a_cancelled_run(engine: hr.Engine, seen: list[bool]) -> None:
    gate = Gate()

    def work() -> Watched:
        gate()
        return Watched(engine, seen)

    future = engine.push(work)
    gate.wait()
    future.cancel()
    gate.open()


def function_of_an_operation(engine: hr.Engine, seen: list[bool]) -> None:
    engine.push(Watched(engine, seen))


def function_cancelled_in_hand(engine: hr.Engine, seen: list[bool]) -> None:
    var = hr.Var()
    gate = Gate()
    engine.push(gate, writes=[var])
    gate.wait()
    waiting = [engine.push(Watched(engine, seen), reads=[var]) for _ in range(20)]
    first = engine.push(lambda: [future.cancel() for future in waiting[5:]])
    gate.open()
    first.wait_to_read(PATIENCE)


def input_of_a_request(engine: hr.Engine, seen: list[bool]) -> None:
    with hr.compile_model(lambda x: 1, engine=engine) as model:
        model.submit(Watched(engine, seen))


def input_of_a_cancelled_request(engine: hr.Engine, seen: list[bool]) -> None:
    gate = Gate()
    with hr.compile_model(lambda x: gate(), engine=engine) as model:
        future = model.submit(Watched(engine, seen))
        gate.wait()
        future.cancel()
        gate.open()


def answer_of_a_cancelled_request(engine: hr.Engine, seen: list[bool]) -> None:
    gate = Gate()

    def work(x: int) -> Watched:
        gate()
        return Watched(engine, seen)

    with hr.compile_model(work, engine=engine) as model:
        future = model.submit(1)
        gate.wait()
        future.cancel()
        gate.open()


@pytest.mark.parametrize(
    "program",
    [
        result_of_a_cancelled_run,
        function_of_an_operation,
        function_cancelled_in_hand,
        input_of_a_request,
        input_of_a_cancelled_request,
        answer_of_a_cancelled_request,
    ],
)
def test_they_go_without_the_lock(program: Callable[[hr.Engine, list[bool]], None]) -> None:
    seen: list[bool] = []
    with hr.Engine(topology=made_up(1)) as engine:
        program(engine, seen)
    gc.collect()
    assert seen
    assert not any(seen)


class SaysItsSize:
    def __init__(self, engine: hr.Engine, size: Any) -> None:
        self.engine, self.size = engine, size
        self.asked_with_the_lock = False

    @property
    def nbytes(self) -> Any:
        self.asked_with_the_lock |= self.engine.guard.lock._is_owned()  # type: ignore[attr-defined]
        if isinstance(self.size, type):
            raise self.size
        return self.size


@pytest.mark.parametrize("size", [-(10**9), 10, "large", ValueError, SystemExit, GeneratorExit])
def test_how_large_a_result_is_is_asked_without_the_lock_and_believed_within_reason(size: Any) -> None:
    with hr.Engine(topology=made_up(1), max_bytes=1000) as engine:
        value = SaysItsSize(engine, size)
        future = engine.push(lambda: value)
        future.wait_to_read(PATIENCE)
        assert engine.statistics().budget.nbytes == (10 if size == 10 else 0)
        assert future.result() is value
        assert engine.push(lambda: 5).result(PATIENCE) == 5, "its stream lives"
    assert not value.asked_with_the_lock


def test_what_was_cancelled_in_hand_is_counted_once() -> None:
    with hr.Engine(topology=made_up(2)) as engine:
        for _ in range(2000):
            engine.push(int)
        engine.waitall(PATIENCE)
        for _ in range(30):
            var, gate, waiting = hr.Var(), Gate(), list[hr.Future[int]]()
            engine.push(gate, writes=[var])
            gate.wait()
            engine.push(lambda w=waiting: [future.cancel() for future in w], reads=[var])  # type: ignore[misc]
            waiting += [engine.push(int, reads=[var]) for _ in range(30)]
            gate.open()
            engine.waitall(PATIENCE)
        counts = engine.statistics().operations
    assert counts.pushed == counts.completed + counts.cancelled


@pytest.mark.parametrize("seed", range(3))
def test_the_first_poll_finds_what_ended_in_bundles_in_its_order(seed: int) -> None:
    with hr.Engine(topology=made_up(2)) as engine:
        order: list[int] = []
        futures = [engine.push(lambda i=i: (order.append(i), i)[1]) for i in range(3000)]
        engine.waitall(PATIENCE)
        gc.collect(seed)
        found = engine.poll()
        assert len(found) == len(futures)
        assert [future.result() for future in found] == order


def test_a_naive_engine_in_a_forked_child_is_not_locked_by_a_thread_of_its_parent() -> None:
    engine, gate = hr.NaiveEngine(), Gate()
    thread = threading.Thread(target=lambda: engine.push(gate))
    thread.start()
    gate.wait()
    pid = os.fork()
    if pid == 0:
        os._exit(engine.push(lambda: 3).result())
    gate.open()
    thread.join(PATIENCE)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


def test_a_model_is_not_compiled_on_the_engine_of_a_parent_process() -> None:
    with hr.Engine(topology=made_up(1)) as engine:
        engine.push(int).wait_to_read(PATIENCE)
        pid = os.fork()
        if pid == 0:
            try:
                hr.compile_model(int, engine=engine)
            except hr.Closed:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
