"""How long a caller is ready to wait: what is no number is refused by name, whatever is waited for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import headrace as hr
from headrace.engine.engine import Engine
from headrace.engine.future import Future
from headrace.engine.naive import NaiveEngine
from headrace.engine.timeouts import LONGEST, LONGEST_OF_A_LOOP, checked, loop_seconds_of, seconds_of, until_of
from headrace.engine.topology import made_up
from headrace.testing import Gate

PATIENCE = 30.0
NO_NUMBERS: list[Any] = ["1", b"1", [], object(), 1j]
TOO_LONG: list[Any] = [float("inf"), 1e300, 10**400, LONGEST * 2]


async def next_of(futures: list[Future[Any]], timeout: Any) -> Future[Any]:
    async for future in hr.as_completed(futures, timeout):
        return future
    raise AssertionError("nothing came")


Wait = Callable[[Engine, Future[Any], Any], object]
OF_A_FUTURE: dict[str, Wait] = {
    "wait_to_read": lambda engine, future, timeout: future.wait_to_read(timeout),
    "result": lambda engine, future, timeout: future.result(timeout),
    "exception": lambda engine, future, timeout: future.exception(timeout),
    "as_completed": lambda engine, future, timeout: [*hr.as_completed([future], timeout)],
    "async as_completed": lambda engine, future, timeout: asyncio.run(next_of([future], timeout)),
}
OF_AN_ENGINE: dict[str, Wait] = {
    "waitall": lambda engine, future, timeout: engine.waitall(timeout),
    "hr.waitall": lambda engine, future, timeout: hr.waitall(timeout),
    "poll": lambda engine, future, timeout: engine.poll(timeout=timeout),
    "close": lambda engine, future, timeout: engine.close(timeout=timeout),
}
WAITS = {**OF_A_FUTURE, **OF_AN_ENGINE}


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(topology=made_up(1))
    yield engine
    engine.close(drain=False, timeout=PATIENCE)


@pytest.mark.parametrize("done", [False, True], ids=["pending", "done"])
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_timeout_that_is_no_number_is_refused_by_name_and_changes_nothing(
    wait: Wait, done: bool, engine: Engine
) -> None:
    gate = Gate()
    future = engine.push(lambda: 5 if done else (gate(), 5)[1])
    future.wait_to_read(PATIENCE) if done else gate.wait()
    for wrong in NO_NUMBERS:
        with pytest.raises(TypeError, match="timeout is a number of seconds, or None for ever, not "):
            wait(engine, future, wrong)
    with pytest.raises(hr.InvalidOption, match=r"timeout is a number .* not nan"):
        wait(engine, future, float("nan"))
    assert not future._callbacks
    gate.open()
    assert future.result(PATIENCE) == 5
    assert engine.push(lambda: 6).result(PATIENCE) == 6, "it was not closed"


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("timeout", TOO_LONG, ids=lambda value: f"{value!r:.9}")
def test_what_is_longer_than_a_clock_can_measure_is_for_ever(
    wait: Wait, timeout: Any, engine: Engine, in_threads: Callable[..., Any], until: Callable[..., None]
) -> None:
    gate, ended = Gate(), threading.Event()
    future = engine.push(gate)
    gate.wait()
    crowd = in_threads(lambda: (wait(engine, future, timeout), ended.set()))
    assert not ended.wait(0.01)
    gate.open()
    crowd.join()
    assert ended.is_set()


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("timeout", [-1, -1e300, float("-inf"), 0, Fraction(0), np.float32(0)])
def test_less_than_nothing_is_one_look(wait: Wait, timeout: Any, engine: Engine) -> None:
    gate = Gate()
    future = engine.push(gate)
    gate.wait()
    if wait is WAITS["poll"]:
        assert engine.poll(timeout=timeout) == []
    elif wait is not WAITS["close"]:
        with pytest.raises(TimeoutError):
            wait(engine, future, timeout)
    else:
        engine.close(timeout=timeout)
        assert not future.done()
    gate.open()


@pytest.mark.parametrize("wrong", [*NO_NUMBERS, float("nan")])
def test_the_naive_engine_refuses_them_too(wrong: Any) -> None:
    with NaiveEngine() as engine:
        future = engine.push(lambda: 5)
        waits: list[Callable[[Any], object]] = [engine.waitall, lambda t: engine.poll(timeout=t), future.result]
        for wait in waits:
            with pytest.raises((TypeError, hr.InvalidOption), match="timeout is a number"):
                wait(wrong)


@pytest.mark.parametrize("timeout", [*NO_NUMBERS, float("nan")])
def test_a_submit_refuses_them_too_and_takes_nothing_in(timeout: Any, engine: Engine) -> None:
    with hr.compile_model(lambda x: x, engine=engine) as model:
        with pytest.raises((TypeError, hr.InvalidOption), match="timeout is a number"):
            model.submit(1, timeout=timeout)
        with pytest.raises((TypeError, hr.InvalidOption), match="timeout is a number"):
            asyncio.run(model.asubmit(1, timeout=timeout))
        assert engine.statistics().budget.inside == 0


@pytest.mark.parametrize("timeout", TOO_LONG, ids=lambda value: f"{value!r:.9}")
def test_a_submit_with_all_the_time_there_is_waits_for_ever_for_room_and_for_its_turn(
    timeout: Any, in_threads: Callable[..., Any], until: Callable[..., None]
) -> None:
    with Engine(topology=made_up(1), max_operations=1) as engine, hr.compile_model(lambda x: x, engine=engine) as model:
        gate, answers = Gate(), list[int]()
        engine.push(gate)
        gate.wait()
        crowd = in_threads(
            lambda: answers.append(model.submit(7, timeout=timeout).result(PATIENCE)),
            lambda: answers.append(asyncio.run(model.asubmit(7, timeout=timeout))),
        )
        until(lambda: engine.statistics().budget.waiting == 2)
        gate.open()
        crowd.join()
        assert answers == [7, 7]


def test_seconds_for_locks_and_loops() -> None:
    assert [seconds_of(t) for t in (None, 0, 1.5, -3, LONGEST, 10**400)] == [-1, 0, 1.5, 0, LONGEST, -1]
    assert [loop_seconds_of(t) for t in (None, 2, -3, LONGEST_OF_A_LOOP * 2)] == [None, 2, 0, None]
    assert [checked(t) for t in (None, 2, True, float("-inf"), float("inf"))] == [None, 2, 1, 0, None]
    assert until_of(10**400, 5.0) == 5.0 + LONGEST
