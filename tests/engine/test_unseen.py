"""The errors nobody has looked at: kept by every engine by the same rules, and raised once, by `waitall`."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakSet

import pytest

import headrace as hr
from headrace.engine import ownership
from headrace.engine.engine import Engine
from headrace.engine.future import Future
from headrace.engine.naive import NaiveEngine
from headrace.engine.topology import made_up
from headrace.engine.unseen import UNSEEN, Unseen
from headrace.testing import Gate

PATIENCE = 30.0
Make = Callable[[], Any]
MAKES: dict[str, Make] = {"streams": lambda: Engine(topology=made_up(1)), "naive": NaiveEngine}


@pytest.fixture(params=MAKES.values(), ids=MAKES)
def engine(request: Any) -> Iterator[Any]:
    with request.param() as engine:
        yield engine


@pytest.fixture(autouse=True)
def _no_other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "_open", WeakSet())
    monkeypatch.setattr(ownership, "_default", None)


class Failed(Exception):
    pass


def fail(number: int = 0) -> Callable[[], None]:
    def failing() -> None:
        raise Failed(number)

    return failing


def failed(number: int = 0) -> Future[Any]:
    future: Future[Any] = Future()
    future.settle(error=Failed(number))
    return future


def told(wait: Callable[[], None]) -> tuple[str, list[int]]:
    """What `waitall` raises: its message, and which errors."""
    try:
        wait()
    except ExceptionGroup as group:
        return group.message, [each.args[0] for each in group.exceptions]
    return "", []


# ---- pure


def test_at_most_so_many_are_kept_the_newest_and_the_others_are_counted() -> None:
    unseen, kept = Unseen(), [failed(i) for i in range(UNSEEN + 7)]
    for future in kept:
        unseen.add(future)
    assert unseen.take() == (kept[7:], 7)
    assert unseen.take() == ([], 0)


@pytest.mark.parametrize("behind", [0, 1, 40])
def test_what_was_seen_is_kept_alive_no_longer_than_as_many_again_have_come(behind: int) -> None:
    """Also behind those that nobody has looked at."""
    unseen, kept = Unseen(), [failed() for _ in range(behind)]
    for future in kept:
        unseen.add(future)
    seen = failed()
    gone = weakref.ref(seen)
    unseen.add(seen)
    seen.exception()
    del seen
    for _ in range(max(16, behind + 1)):
        unseen.add(failed())
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_keeping_everything(seed: int) -> None:
    rng, unseen = random.Random(seed), Unseen()
    every: list[Future[Any]] = []
    for i in range(UNSEEN - 1):
        every.append(failed(i))
        unseen.add(every[-1])
        if rng.random() < 0.4:
            rng.choice(every).exception()
        if rng.random() < 0.01:
            assert unseen.take() == ([each for each in every if not each._seen], 0)
            every = []
    assert unseen.take() == ([each for each in every if not each._seen], 0)


# ---- of an engine


def test_what_nobody_has_looked_at_is_raised_once(engine: Any) -> None:
    kept = [engine.push(fail(i)) for i in range(3)]
    kept[1].exception(PATIENCE)
    assert told(engine.waitall)[1] == [0, 2]
    assert told(engine.waitall) == ("", [])


def test_how_many_more_there_were_is_said(engine: Any) -> None:
    for i in range(UNSEEN + 5):
        engine.push(fail(i))
        if isinstance(engine, Engine) and not i % 100:
            engine.budget.wait_until_idle(PATIENCE)
    message, errors = told(engine.waitall)
    assert errors == list(range(5, UNSEEN + 5))
    assert message.endswith("; of 5 more only the Futures know")


def test_an_error_that_was_seen_is_not_kept_alive(engine: Any) -> None:
    class Large:
        pass

    large = Large()
    gone = weakref.ref(large)

    def failing(held: Large) -> None:
        raise Failed

    def one(held: Large) -> None:
        with pytest.raises(Failed):
            engine.push(lambda: failing(held)).result(PATIENCE)

    engine.push(fail())  # nobody has looked at the one in front
    one(large)
    del large
    for _ in range(16):
        engine.push(fail())
    if isinstance(engine, Engine):
        engine.budget.wait_until_idle(PATIENCE)
    gc.collect()
    assert gone() is None
    told(engine.waitall)


# ---- of all engines


def test_waitall_of_all_raises_what_failed_on_any_open_engine_in_one_group() -> None:
    with Engine(topology=made_up(1)) as a, Engine(topology=made_up(1)) as b, Engine(topology=made_up(1)):
        a.push(fail(1)), b.push(fail(2)), b.push(fail(3))
        message, errors = told(lambda: hr.waitall(PATIENCE))
        assert sorted(errors) == [1, 2, 3]
        assert "nobody has looked" in message
        assert told(lambda: hr.waitall(PATIENCE)) == ("", [])


def test_waitall_of_all_waits_for_all_and_makes_no_engine(in_threads: Callable[..., Any]) -> None:
    hr.waitall()
    gates, over = [Gate(), Gate()], threading.Event()
    with Engine(topology=made_up(1)) as a, Engine(topology=made_up(1)) as b:
        a.push(gates[0]), b.push(gates[1])
        crowd = in_threads(lambda: (hr.waitall(PATIENCE), over.set()))
        for gate in gates:
            assert not over.wait(0.01)
            gate.open()
        crowd.join()
        assert over.is_set()
    assert ownership._default is None


def test_waitall_of_all_waits_for_what_one_engine_pushes_on_another_that_was_idle(
    in_threads: Callable[..., Any], until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gates, ended = [Gate(), Gate()], list[str]()
    with Engine(topology=made_up(1)) as a, Engine(topology=made_up(1)) as b:
        # The idle one is asked first.
        monkeypatch.setattr(ownership, "_open_engines", lambda: [a, b])
        b.push(lambda: (gates[0](), a.push(lambda: (gates[1](), ended.append("on a")))))
        gates[0].wait()
        crowd = in_threads(lambda: (hr.waitall(PATIENCE), ended.append("waitall")))
        until(lambda: b.budget._idle)  # it waits for the one that runs
        gates[0].open()
        gates[1].wait()
        until(lambda: a.budget._idle or ended)
        gates[1].open()
        crowd.join()
    assert ended == ["on a", "waitall"]


def test_a_waitall_of_all_whose_time_is_up_says_so_and_uses_no_error_up() -> None:
    gate = Gate()
    with Engine(topology=made_up(1)) as a, Engine(topology=made_up(1)) as b:
        a.push(fail(1)), b.push(fail(2))
        a.budget.wait_until_idle(PATIENCE), b.budget.wait_until_idle(PATIENCE)
        b.push(gate)
        with pytest.raises(TimeoutError, match=r"still inside after 0\.01 s"):
            hr.waitall(0.01)
        gate.open()
        assert sorted(told(lambda: hr.waitall(PATIENCE))[1]) == [1, 2]


def test_waitall_of_all_on_a_stream_of_one_of_them_is_told() -> None:
    with Engine(topology=made_up(1)) as a:
        assert isinstance(a.push(hr.waitall).exception(PATIENCE), hr.WouldDeadlock)
