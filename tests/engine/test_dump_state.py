"""`engine.dump_state`: what somebody needs to see who looks at a hang."""

import random
import re
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

import headrace as hr
from headrace.engine import dump
from headrace.engine.engine import Engine
from headrace.engine.topology import made_up
from headrace.testing import FakeClock, Gate

PATIENCE = 30.0
InThreads = Callable[..., Any]
Until = Callable[[Callable[[], object]], None]


@pytest.fixture
def narrow() -> Iterator[Engine]:
    """One core, and time stands still."""
    engine = Engine(topology=made_up(cores=1), clock=FakeClock())
    yield engine
    engine.close(timeout=PATIENCE)


def advance(engine: Engine, seconds: float) -> None:
    assert isinstance(engine.clock, FakeClock)
    engine.clock.advance(seconds)


def of_function(function: Any, offset: int) -> str:
    return f"{__file__}:{function.__code__.co_firstlineno + offset}"


# ---- what runs


def stuck(gate: Gate) -> None:
    gate()  # the line it hangs in


def test_a_stuck_operation_is_named_with_its_line_and_what_it_is_doing(narrow: Engine) -> None:
    gate = Gate()
    future = narrow.push(lambda: stuck(gate))
    gate.wait()
    advance(narrow, 12.5)
    text = narrow.dump_state()
    gate.open()
    assert "engine, open: 1 core, 1 leased" in text
    assert "inside: 1 of 1,024; 0 callers wait for room" in text
    pushed = of_function(test_a_stuck_operation_is_named_with_its_line_and_what_it_is_doing, 2)
    assert f"headrace-operations-0: runs {pushed.rpartition('/')[2]} for 12.500 s" in text
    assert f"      {of_function(stuck, 1)} in stuck: gate()  # the line it hangs in" in text
    assert "/headrace/engine/" not in text, "the engine's own frames tell nothing"
    future.result(PATIENCE)


def test_an_idle_engine_says_so(narrow: Engine, until: Until) -> None:
    assert "0 leased" in narrow.dump_state()
    narrow.push(lambda: None).result(PATIENCE)
    until(lambda: "headrace-operations-0: idle" in narrow.dump_state())
    assert "operations: 0 ready, 1 run ended" in narrow.dump_state()


def test_an_operation_may_ask_for_it_itself(narrow: Engine) -> None:
    text = narrow.push(narrow.dump_state).result(PATIENCE)
    assert "headrace-operations-0: runs test_dump_state.py:" in text


def test_a_stream_that_is_stuck_in_a_callback_does_not_pass_for_idle(narrow: Engine) -> None:
    gate, callback = Gate(), Gate()
    future = narrow.push(gate)
    gate.wait()
    future.add_done_callback(lambda _: stuck(callback))
    gate.open()
    callback.wait()
    text = narrow.dump_state()
    callback.open()
    assert f"{of_function(stuck, 1)} in stuck" in text


def test_what_close_waits_for_is_named(in_threads: InThreads, until: Until) -> None:
    engine, gate = Engine(topology=made_up(cores=1)), Gate()
    engine.push(lambda: stuck(gate))
    gate.wait()
    queued = engine.push(lambda: None)
    closing = in_threads(lambda: engine.close(drain=False))
    until(queued.can_read)  # it was refused: all that is left is to wait for the one that runs
    text = engine.dump_state()
    gate.open()
    closing.join()
    assert "engine, closed" in text
    assert f"{of_function(stuck, 1)} in stuck" in text


# ---- what waits


def test_it_tells_who_waits_for_which_var_and_who_holds_it(narrow: Engine) -> None:
    gate, weights, state, out = Gate(), hr.Var("weights"), hr.Var("state"), hr.Var("out")
    futures = [narrow.push(gate, reads=[weights], writes=[state])]
    gate.wait()
    futures += [
        narrow.push(int, writes=[weights]),
        narrow.push(int, reads=[state], writes=[out]),
        narrow.push(int, reads=[weights, out]),
    ]
    text = narrow.dump_state()
    gate.open()
    for future in futures:
        future.result(PATIENCE)
    this = test_it_tells_who_waits_for_which_var_and_who_holds_it
    holder = of_function(this, 2)
    update, step, both = (of_function(this, 5 + i) for i in range(3))
    waits = dict(re.findall(r"  waits: pushed at (.*)\n((?:      for .*\n?)+)", text))
    assert set(waits) == {update, step, both}
    assert waits[update].strip() == f"for <Var weights version 0 ok>: read by what was pushed at {holder}"
    assert f"for <Var state version 0 ok>: written by what was pushed at {holder}" in waits[step]
    assert "for <Var weights version 0 ok>: read by" in waits[both]
    assert f"for <Var out version 0 ok>: held by what was pushed at {step}" in waits[both], "it waits itself"


def test_a_reader_that_waits_behind_a_writer_that_waits_is_found(narrow: Engine) -> None:
    gate, var = Gate(), hr.Var()
    futures = [narrow.push(gate, reads=[var])]
    gate.wait()
    futures += [narrow.push(int, writes=[var]), narrow.push(int, reads=[var])]
    text = narrow.dump_state()
    gate.open()
    assert text.count("  waits: pushed at") == 2
    for future in futures:
        future.result(PATIENCE)


def test_what_waits_for_what_waits_is_found(narrow: Engine) -> None:
    gate, variables = Gate(), [hr.Var(name) for name in "abcd"]
    futures = [narrow.push(gate, writes=variables[:1])]
    gate.wait()
    futures += [narrow.push(int, reads=[before], writes=[var]) for before, var in pairwise(variables)]
    text = narrow.dump_state()
    gate.open()
    for future in futures:
        future.result(PATIENCE)
    assert text.count("  waits: pushed at") == 3
    for name in "abc":
        assert f"      for <Var {name} version 0 ok>: " in text


def test_what_could_run_and_has_no_stream_is_listed_with_its_time(narrow: Engine) -> None:
    gate = Gate()
    running = narrow.push(gate)
    gate.wait()
    ready = narrow.push(lambda: None)
    advance(narrow, 3)
    text = narrow.dump_state()
    gate.open()
    here = of_function(test_what_could_run_and_has_no_stream_is_listed_with_its_time, 4)
    assert f"  ready for 3.000 s: pushed at {here}" in text
    running.result(PATIENCE)
    ready.result(PATIENCE)


def test_of_many_some_are_listed_and_the_others_counted(narrow: Engine) -> None:
    gate, var = Gate(), hr.Var()
    narrow.push(gate, writes=[var])
    gate.wait()
    for _ in range(dump.MOST + 5):
        narrow.push(lambda: None)
    for _ in range(dump.MOST + 900):
        narrow.push(lambda: None, reads=[var], writes=[hr.Var()])
    text = narrow.dump_state()
    gate.open()
    assert text.count("  ready for") == dump.MOST
    assert text.count("  waits: pushed at") == dump.MOST
    assert "  and 5 more" in text
    assert "  and 900 more" in text
    assert len(text.splitlines()) < 150
    narrow.waitall(PATIENCE)


def test_what_was_cancelled_is_not_said_to_wait(narrow: Engine) -> None:
    gate, var = Gate(), hr.Var()
    narrow.push(gate, writes=[var])
    gate.wait()
    assert narrow.push(lambda: None).cancel()
    assert narrow.push(lambda: None, reads=[var]).cancel()
    text = narrow.dump_state()
    gate.open()
    assert "  ready for" not in text
    assert "  waits:" not in text
    narrow.waitall(PATIENCE)


def test_callers_who_wait_for_room_are_counted(in_threads: InThreads, until: Until) -> None:
    gate = Gate()
    with Engine(topology=made_up(cores=1), max_operations=1) as engine:
        engine.push(gate)
        gate.wait()
        waiting = in_threads(*[lambda: engine.push(lambda: None)] * 2)
        until(lambda: engine.statistics().budget.waiting == 2)
        text = engine.dump_state()
        gate.open()
        waiting.join()
    assert "inside: 1 of 1; 2 callers wait for room" in text


def test_bytes_and_results_nobody_has_read_are_told_where_they_are_bounded(until: Until) -> None:
    with Engine(topology=made_up(cores=1), max_bytes=10_000) as engine:
        assert "0 of 10,000 bytes" in engine.dump_state()
        future = engine.push(lambda: bytes(3000))
        until(future.can_read)
        assert "3,000 of 10,000 bytes, 1 result charged and not read" in engine.dump_state()
        future.result()
        assert "0 of 10,000 bytes;" in engine.dump_state()


# ---- models


def test_a_model_tells_what_runs_and_how_long_its_oldest_request_has_waited(narrow: Engine) -> None:
    gate = Gate()

    def answer(xs: list[int]) -> list[int]:
        stuck(gate)
        return xs

    with hr.compile_model(answer, engine=narrow, name="slow", max_batch_size=2) as model:
        hold = Gate()
        holding = narrow.push(hold)
        hold.wait()
        futures = [model.submit(1), model.submit(2)]
        assert "slow: 2 ready, 0 runs ended; it waits for cores that others use" in narrow.dump_state()
        hold.open()
        gate.wait()
        futures.append(model.submit(3))
        advance(narrow, 4)
        futures.append(model.submit(4))
        text = narrow.dump_state()
        gate.open()
        assert [future.result(PATIENCE) for future in futures] == [1, 2, 3, 4]
        holding.result(PATIENCE)
    assert "slow: 2 ready, 0 runs ended\n" in text
    assert "  headrace-slow-0: runs slow, 2 requests for 4.000 s" in text
    assert f"{of_function(stuck, 1)} in stuck" in text
    assert "  the oldest request has waited 4.000 s" in text
    assert "operations: 0 ready, 1 run ended" in text


# ---- when all else fails


def test_a_lock_that_is_held_for_ever_does_not_keep_it_from_answering(
    narrow: Engine, in_threads: InThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump, "PATIENCE", 0.01)
    gate, hold, said, answered = Gate(), Gate(), [], threading.Event()
    future = narrow.push(lambda: stuck(gate), writes=[var := hr.Var("v")])
    gate.wait()
    waiting = narrow.push(lambda: None, reads=[var])

    def hold_it() -> None:
        with narrow.guard.lock:
            hold()

    holds = in_threads(hold_it)
    hold.wait()
    asks = in_threads(lambda: (said.append(narrow.dump_state()), answered.set()))
    in_time = answered.wait(PATIENCE / 3)
    hold.open()
    gate.open()
    asks.join()
    holds.join()
    future.result(PATIENCE)
    waiting.result(PATIENCE)
    assert in_time
    assert "its lock was not let go of within 0.01 s" in said[0]
    assert f"{of_function(stuck, 1)} in stuck" in said[0]
    assert "for <Var v version 0 ok>: written by" in said[0]


def test_who_holds_the_lock_may_ask(narrow: Engine) -> None:
    with narrow.guard.lock:
        assert "lock was not let go" not in narrow.dump_state()


def test_the_lock_is_let_go_of_afterwards(narrow: Engine, in_threads: InThreads) -> None:
    narrow.dump_state()

    def take() -> None:
        assert narrow.guard.lock.acquire(timeout=PATIENCE)
        narrow.guard.lock.release()

    in_threads(take).join()


def test_an_engine_that_is_closed_still_answers() -> None:
    engine = Engine(topology=made_up(cores=1))
    with hr.compile_model(lambda x: x, engine=engine) as model:
        model(1)
    engine.push(lambda: None).result(PATIENCE)
    engine.close()
    assert engine.dump_state().startswith("engine, closed: 1 core, 0 leased\n")


# ---- it only looks


def test_it_changes_nothing(narrow: Engine) -> None:
    gate, var, order = Gate(), hr.Var(), []
    with hr.compile_model(order.append, engine=narrow, max_batch_delay=0.0) as model:
        narrow.push(gate, writes=[var])
        gate.wait()
        narrow.push(lambda: order.append("ready"))
        narrow.push(lambda: order.append("cancelled")).cancel()
        narrow.push(lambda: order.append("waits"), reads=[var])
        requests = [model.submit("request"), model.submit("cancelled request")]
        requests[1].cancel()
        before, of_model = narrow.statistics(), model.statistics()
        first, second = narrow.dump_state(), narrow.dump_state()
        assert first == second
        assert (narrow.statistics(), model.statistics()) == (before, of_model)
        assert narrow.guard.trace is None
        assert narrow.guard.finished is None
        gate.open()
        narrow.waitall(PATIENCE)
    assert sorted(order) == ["ready", "request", "waits"]


@pytest.mark.parametrize("seed", range(2))
def test_in_a_storm_it_answers_and_does_no_harm(in_threads: InThreads, restless: None, seed: int) -> None:
    variables, over = [hr.Var(f"v{i}") for i in range(4)], threading.Event()
    with Engine(topology=made_up(cores=2), max_operations=64) as engine:

        def work(number: int) -> Callable[[], None]:
            dice = random.Random(10 * seed + number)

            def work() -> None:
                for _ in range(60):
                    reads, writes = (dice.sample(variables, dice.randrange(3)) for _ in range(2))
                    future = engine.push(lambda: None, reads=reads, writes=writes, priority=dice.randrange(3))
                    if dice.random() < 0.3:
                        future.cancel()
                    elif dice.random() < 0.3:
                        future.result(PATIENCE)

            return work

        said: list[str] = []

        def look() -> None:
            while not over.is_set():
                said.append(engine.dump_state())

        looking = in_threads(look)
        in_threads(*(work(number) for number in range(8))).join()
        engine.waitall(PATIENCE)
        over.set()
        looking.join()
    assert said
    assert all(text.startswith("engine, open: 2 cores, ") for text in said)
