"""`engine.statistics`: one moment's numbers, and what became of everything that was pushed."""

import ast
import dataclasses
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import headrace as hr
from headrace.engine import admission, statistics
from headrace.engine.engine import Engine
from headrace.engine.statistics import OperationStatistics
from headrace.engine.topology import made_up
from headrace.errors import DeadlineExceeded, Overloaded, PoisonedVar
from headrace.testing import FakeClock, Gate

PATIENCE = 30.0
InThreads = Callable[..., Any]
Until = Callable[[Callable[[], object]], None]


@pytest.fixture
def narrow() -> Iterator[Engine]:
    """One core, and time stands still."""
    with Engine(topology=made_up(cores=1), clock=FakeClock()) as engine:
        yield engine
        for future in list(engine._unseen):  # what a test made fail on purpose
            future.exception()


def fail() -> None:
    raise ValueError("on purpose")


def done(engine: Engine) -> OperationStatistics:
    """Once all is over: with what the last turn has left."""
    engine.push(lambda: None).result(PATIENCE)
    return engine.statistics().operations


def adds_up(said: OperationStatistics) -> bool:
    ended = said.completed + said.failed + said.cancelled + said.late + said.poisoned + said.refused
    return said.pushed == ended


# ---- what it is


@pytest.mark.parametrize("module", [statistics, admission])
def test_each_field_is_explained_by_a_sentence_under_it(module: Any) -> None:
    tree = ast.parse(inspect.getsource(module))
    explained = []
    for body in (
        node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("Statistics")
    ):
        for field, after in zip(body, [*body[1:], None]):
            if isinstance(field, ast.AnnAssign):
                assert isinstance(field.target, ast.Name)
                assert isinstance(after, ast.Expr), f"{field.target.id} is not explained"
                assert isinstance(after.value, ast.Constant)
                sentence = after.value.value
                assert sentence[0].isupper(), f"{field.target.id}: {sentence}"
                assert sentence.endswith("."), f"{field.target.id}: {sentence}"
                explained.append(field.target.id)
    assert len(explained) >= 7


def test_it_is_frozen_and_a_moment_not_a_view(narrow: Engine) -> None:
    before = narrow.statistics()
    for said in (before, before.budget, before.operations):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(said, dataclasses.fields(said)[0].name, 7)
    narrow.push(lambda: None).result(PATIENCE)
    assert before.operations.pushed == 0
    assert before.ports == 0
    assert done(narrow).pushed == 2


def test_a_new_engine_has_done_nothing() -> None:
    with Engine(topology=made_up(cores=3), max_operations=7, max_bytes=100) as engine:
        said = engine.statistics()
    assert said.operations == OperationStatistics()
    assert (said.cores, said.cores_leased, said.streams, said.streams_running, said.ports) == (3, 0, 0, 0, 0)
    assert (said.budget.inside, said.budget.max_count, said.budget.max_bytes, said.budget.refused) == (0, 7, 100, 0)


# ---- what it says now


def test_it_tells_what_runs_and_what_waits_now(narrow: Engine, in_threads: InThreads) -> None:
    gate, var = Gate(), hr.Var()
    with hr.compile_model(lambda x: x, engine=narrow):
        narrow.push(gate, writes=[var])
        gate.wait()
        narrow.push(lambda: None)
        narrow.push(lambda: None, reads=[var])
        said = narrow.statistics()
        assert (said.cores, said.cores_leased, said.streams, said.streams_running, said.ports) == (1, 1, 2, 1, 2)
        assert (said.operations.pushed, said.operations.completed, said.operations.ready) == (3, 0, 1)
        assert said.budget.inside == 3
        gate.open()
        narrow.waitall(PATIENCE)
    assert narrow.statistics().ports == 1, "the model has left"


def test_who_waits_for_room_is_counted(in_threads: InThreads, until: Until) -> None:
    gate = Gate()
    with Engine(topology=made_up(cores=1), max_operations=1) as engine:
        engine.push(gate)
        gate.wait()
        waiting = in_threads(lambda: engine.push(lambda: None))
        until(lambda: engine.statistics().budget.waiting == 1)
        assert engine.statistics().operations.pushed == 1, "it has not been taken in"
        gate.open()
        waiting.join()
        engine.waitall(PATIENCE)
        assert engine.statistics().budget.waiting == 0
        assert done(engine).pushed == 3


def test_cores_are_leased_while_something_runs_and_not_after(narrow: Engine, until: Until) -> None:
    gate = Gate()
    narrow.push(gate)
    gate.wait()
    assert narrow.statistics().cores_leased == 1
    gate.open()
    narrow.waitall(PATIENCE)
    until(lambda: narrow.statistics().cores_leased == 0)
    assert narrow.statistics().streams_running == 0
    assert narrow.statistics().budget.inside == 0


# ---- what became of what was pushed


def test_what_returned_and_what_raised_are_told_apart(narrow: Engine) -> None:
    for _ in range(3):
        narrow.push(lambda: None).result(PATIENCE)
    for _ in range(2):
        narrow.push(fail).exception(PATIENCE)
    said = done(narrow)
    assert (said.pushed, said.completed, said.failed) == (6, 4, 2)
    assert adds_up(said)


def test_the_time_of_all_runs_is_summed(narrow: Engine) -> None:
    clock = narrow.clock
    assert isinstance(clock, FakeClock)
    for seconds in (2.0, 3.0):
        narrow.push(lambda seconds=seconds: clock.advance(seconds)).result(PATIENCE)
    assert done(narrow).run_seconds == 5.0


def test_what_was_cancelled_before_it_ran_is_counted_once_it_has_left(narrow: Engine) -> None:
    gate, var = Gate(), hr.Var()
    running = narrow.push(gate, writes=[var])
    gate.wait()
    ready, waiting = narrow.push(lambda: None), narrow.push(lambda: None, reads=[var])
    assert ready.cancel()
    assert waiting.cancel()
    assert running.cancel()
    said = narrow.statistics().operations
    assert (said.cancelled, said.ready) == (0, 1), "they stay queued until they are reached"
    gate.open()
    said = done(narrow)
    assert (said.pushed, said.completed, said.cancelled) == (4, 2, 2), "what runs to its end has completed"
    assert adds_up(said)


def test_what_was_late_or_poisoned_is_counted(narrow: Engine) -> None:
    clock, gate, var = narrow.clock, Gate(), hr.Var("v")
    assert isinstance(clock, FakeClock)
    failed = narrow.push(lambda: (gate(), fail()), writes=[var])
    gate.wait()
    late = [narrow.push(lambda: None, deadline=clock.now() + 1) for _ in range(2)]
    poisoned = [narrow.push(lambda: None, reads=[var]) for _ in range(3)]
    clock.advance(2)
    gate.open()
    assert {type(future.exception(PATIENCE)) for future in late} == {DeadlineExceeded}
    assert {type(future.exception(PATIENCE)) for future in poisoned} == {PoisonedVar}
    assert isinstance(failed.exception(), ValueError)
    said = done(narrow)
    assert (said.pushed, said.completed, said.failed, said.late, said.poisoned) == (7, 1, 1, 2, 3)
    assert adds_up(said)


def test_what_is_refused_at_the_door_was_never_pushed(narrow: Engine) -> None:
    with pytest.raises(DeadlineExceeded):
        narrow.push(lambda: None, deadline=narrow.clock.now() - 1)
    with pytest.raises(TypeError):
        narrow.push(None)  # type: ignore[arg-type]
    gate = Gate()
    with Engine(topology=made_up(cores=1), max_operations=1, on_full="reject") as full:
        full.push(gate)
        gate.wait()
        for _ in range(2):
            with pytest.raises(Overloaded):
                full.push(lambda: None)
        said = full.statistics()
        gate.open()
    assert (said.operations.pushed, said.budget.refused) == (1, 2)
    said = narrow.statistics()
    assert (said.operations.pushed, said.operations.late) == (0, 0)


def test_what_was_shed_has_left_without_running() -> None:
    gate = Gate()
    with Engine(topology=made_up(cores=1), max_operations=2, on_full="shed") as engine:
        engine.push(gate)
        gate.wait()
        shed = engine.push(lambda: None)
        engine.push(lambda: None, priority=1)
        assert isinstance(shed.exception(PATIENCE), Overloaded)
        gate.open()
        engine.waitall(PATIENCE)
        said = done(engine)
    assert (said.pushed, said.completed, said.cancelled) == (4, 3, 1)
    assert adds_up(said)


def test_what_had_not_begun_when_it_was_closed_was_refused_and_the_numbers_stay() -> None:
    engine, gate, var = Engine(topology=made_up(cores=1)), Gate(), hr.Var()
    engine.push(gate, writes=[var])
    gate.wait()
    last = [engine.push(lambda: None, reads=[var]), engine.push(lambda: None)]
    closing = threading.Thread(target=engine.close, kwargs={"drain": False})
    closing.start()
    last[1].exception(PATIENCE)
    gate.open()
    closing.join(PATIENCE)
    said = engine.statistics()
    assert (said.operations.pushed, said.operations.completed, said.operations.refused) == (3, 1, 2)
    assert adds_up(said.operations)
    assert (said.streams, said.ports, said.budget.inside) == (0, 0, 0)


def test_models_have_numbers_of_their_own(narrow: Engine) -> None:
    with hr.compile_model(lambda x: x, engine=narrow) as model:
        assert model(1) == 1
        said = narrow.statistics()
        assert said.operations == OperationStatistics()
        assert said.ports == 1
        assert model.statistics().completed == 1


def test_in_a_crowd_the_numbers_add_up_when_it_is_over(in_threads: InThreads, until: Until) -> None:
    with Engine(topology=made_up(cores=2)) as engine:
        variables = [hr.Var() for _ in range(3)]

        def work() -> None:
            for i in range(60):
                future = engine.push(fail if i % 7 == 0 else int, reads=variables[:1], writes=variables[i % 3 :][:1])
                if i % 5 == 0:
                    future.cancel()
                future.exception(PATIENCE)

        in_threads(*[work] * 4).join()
        until(lambda: adds_up(engine.statistics().operations))  # what was cancelled is reached
        said = engine.statistics().operations
    assert said.pushed == 240
    assert said.failed > 0
    assert said.poisoned > 0
