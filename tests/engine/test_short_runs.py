"""While runs are short one stream does them; one that turns out not to be short keeps nobody else from running.

With threads, and the machine's own clock: see `test_turns` for every order of their steps.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import headrace
from headrace.engine.dependencies import Var
from headrace.engine.dispatch import SHORT
from headrace.engine.engine import Engine
from headrace.engine.future import Future
from headrace.engine.topology import made_up
from headrace.testing import Gate

PATIENCE = 30.0


@pytest.fixture(params=[1, 2, 4])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    yield from open_engine(request.param)


@pytest.fixture
def two() -> Iterator[Engine]:
    yield from open_engine(2)


def open_engine(cores: int) -> Iterator[Engine]:
    engine = Engine(topology=made_up(cores))
    yield engine
    engine.close(timeout=PATIENCE)


def make_short(engine: Engine) -> None:
    """Until the engine takes what runs for short."""
    for _ in range(1000):
        engine.push(int).wait_to_read(PATIENCE)
        assert engine._operations is not None
        if engine._operations.typical < SHORT / 4:
            return
    engine._operations.typical = SHORT / 4  # the machine is too busy for a run to be short


def test_one_that_blocks_after_many_short_ones_keeps_the_others_from_nothing(two: Engine) -> None:
    make_short(two)
    for _ in range(5):
        gate = Gate()
        blocked = two.push(gate)
        others = [two.push(lambda i=i: i) for i in range(50)]
        assert [other.result(PATIENCE) for other in others] == list(range(50))
        assert not blocked.can_read()
        gate.open()
        blocked.wait_to_read(PATIENCE)
        make_short(two)


def test_what_comes_when_one_blocks_already_runs_too(two: Engine) -> None:
    make_short(two)
    gate = Gate()
    blocked = two.push(gate)
    gate.wait()
    for i in range(20):
        assert two.push(lambda i=i: i).result(PATIENCE) == i
    gate.open()
    blocked.wait_to_read(PATIENCE)


@pytest.mark.parametrize("hold", [1, 2, 3])
def test_as_many_may_block_as_there_are_other_streams(hold: int) -> None:
    with Engine(topology=made_up(4)) as engine:
        make_short(engine)
        gate = Gate()
        try:
            blocked = [engine.push(gate) for _ in range(hold)]
            gate.wait(hold)
            assert [engine.push(lambda i=i: i).result(PATIENCE) for i in range(20)] == list(range(20))
            gate_of_the_last = Gate()
            last = [engine.push(gate_of_the_last) for _ in range(4 - hold)]
            gate_of_the_last.wait(4 - hold)
            gate_of_the_last.open()
        finally:
            gate.open()
        for future in blocked + last:
            future.wait_to_read(PATIENCE)


def test_one_that_waits_for_what_is_behind_it_is_helped(two: Engine) -> None:
    """It must not: but it ends, as long as there is another stream."""
    make_short(two)
    behind = threading.Event()
    first = two.push(lambda: behind.wait(PATIENCE))
    two.push(behind.set)
    assert first.result(2 * PATIENCE) is True


def test_a_chain_of_short_operations_is_done_in_its_order(engine: Engine) -> None:
    make_short(engine)
    var, order = Var(), list[int]()
    for i in range(500):
        engine.push(lambda i=i: order.append(i), writes=[var])
    engine.waitall(PATIENCE)
    assert order == list(range(500))


def test_chains_that_cross_are_done_on_any_number_of_streams(engine: Engine) -> None:
    make_short(engine)
    variables = [Var() for _ in range(4)]
    totals = [0] * 4

    def add(i: int, j: int) -> None:
        totals[i] += totals[j] + 1

    for step in range(400):
        i, j = step % 4, (step * 7 + 1) % 4
        engine.push(lambda i=i, j=j: add(i, j), reads=[variables[j]] if i != j else [], writes=[variables[i]])
    engine.waitall(PATIENCE)
    alone = [0] * 4
    for step in range(400):
        i, j = step % 4, (step * 7 + 1) % 4
        alone[i] += alone[j] + 1
    assert totals == alone


def test_short_and_blocking_ones_in_turn_are_all_done(engine: Engine) -> None:
    make_short(engine)
    gates: list[Gate] = []
    futures: list[Future[Any]] = []
    for i in range(200):
        if i % 20 == 0:
            gates.append(Gate())
            futures.append(engine.push(gates[-1]))
        futures.append(engine.push(lambda i=i: i))
    for gate in gates:
        gate.open()
    for future in futures:
        future.wait_to_read(PATIENCE)


def test_the_first_ones_of_an_unknown_port_start_all_streams_at_once(engine: Engine) -> None:
    gate, cores = Gate(), len(engine.cores)
    futures = [engine.push(gate) for _ in range(cores)]
    gate.wait(cores)
    gate.open()
    for future in futures:
        future.wait_to_read(PATIENCE)


def test_a_model_that_was_quick_and_now_blocks_does_not_keep_its_other_requests(two: Engine) -> None:
    gate = Gate()
    model = headrace.compile_model(
        lambda x: (gate(), x)[1] if x == "block" else x, engine=two, scheduler="multi_stream"
    )
    for i in range(300):
        model.submit(i).wait_to_read(PATIENCE)
    blocked = model.submit("block")
    answers = [model.submit(i) for i in range(20)]
    for answer in answers:
        answer.wait_to_read(PATIENCE)
    assert not blocked.can_read()
    gate.open()
    blocked.wait_to_read(PATIENCE)
    model.close()


def test_threads_that_push_short_ones_while_others_block_all_get_theirs(
    two: Engine, in_threads: Callable[..., Any]
) -> None:
    make_short(two)
    done = 0
    lock = threading.Lock()

    def ask() -> None:
        nonlocal done
        for i in range(200):
            assert two.push(lambda i=i: i).result(PATIENCE) == i
        with lock:
            done += 1

    gate = Gate()
    blocked = two.push(gate)
    in_threads(ask, ask, ask).join()
    gate.open()
    blocked.wait_to_read(PATIENCE)
    assert done == 3
