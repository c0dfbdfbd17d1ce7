"""A wait stands in no queue, and an error is never data.

MXNet waits for an array by pushing a read of it, behind all that was pushed before; and it tells an error once, to
whoever asks first. Here streams that are all stuck show that a wait needs none of them, and the four reads that MXNet
answers with data after the first raise four times.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

import headrace as hr
from headrace.engine.engine import Engine
from headrace.engine.future import Future
from headrace.engine.naive import NaiveEngine
from headrace.engine.topology import made_up
from headrace.errors import PoisonedVar
from headrace.testing import Gate

PATIENCE = 30.0
InThreads = Callable[..., Any]


async def awaited(future: Future[Any]) -> Any:
    return await future


async def first_of(future: Future[Any]) -> Any:
    return (await anext(hr.as_completed([future], timeout=PATIENCE))).result()


WAYS: dict[str, Callable[[Future[Any]], Any]] = {
    "wait_to_read": lambda future: (future.wait_to_read(PATIENCE), future.result(0))[1],
    "result": lambda future: future.result(PATIENCE),
    "exception": lambda future: (future.exception(PATIENCE), future.result(0))[1],
    "await": lambda future: asyncio.run(awaited(future)),
    "as_completed": lambda future: next(hr.as_completed([future], timeout=PATIENCE)).result(),
    "async as_completed": lambda future: asyncio.run(first_of(future)),
}


class Stuck:
    """An engine of one core with one operation under way, and others behind it of which the first will be stuck."""

    def __init__(self, engine: Engine) -> None:
        self.first, self.behind = Gate(), Gate()
        self.var = hr.Var()
        self.future = engine.push(lambda: (self.first(), 7)[1], writes=[self.var])
        self.first.wait()
        self.unrelated = [engine.push(self.behind), *(engine.push(int, writes=[hr.Var()]) for _ in range(50))]

    def nothing_unrelated_has_ended(self) -> bool:
        return not any(future.can_read() for future in self.unrelated)


@pytest.mark.parametrize("wait", WAYS.values(), ids=WAYS)
def test_who_waits_is_told_though_every_stream_is_stuck_in_what_was_pushed_behind(
    wait: Callable[[Future[Any]], Any], in_threads: InThreads
) -> None:
    with Engine(topology=made_up(cores=1)) as engine:
        stuck = Stuck(engine)
        told: list[Any] = []
        waiters = in_threads(*[lambda: told.append(wait(stuck.future))] * 3)
        stuck.first.open()
        stuck.behind.wait()  # the only stream there is has gone on to the next operation
        waiters.join()
        assert told == [7] * 3
        assert wait(stuck.future) == 7, "nor does one that begins now need a stream"
        assert stuck.nothing_unrelated_has_ended()
        stuck.behind.open()
        engine.waitall(PATIENCE)


def test_a_callback_is_called_before_the_stream_goes_on() -> None:
    with Engine(topology=made_up(cores=1)) as engine:
        stuck = Stuck(engine)
        ended: list[bool] = []
        stuck.future.add_done_callback(lambda _: ended.append(stuck.nothing_unrelated_has_ended()))
        stuck.first.open()
        stuck.behind.wait()
        assert ended == [True]
        stuck.behind.open()


def test_a_wait_costs_no_room_and_runs_nothing(in_threads: InThreads, until: Callable[..., None]) -> None:
    # A wait that were an operation would find no room here; nor may it change what it waits for.
    gate, var = Gate(), hr.Var()
    with Engine(topology=made_up(cores=1), max_operations=1) as engine:
        future = engine.push(gate, writes=[var])
        gate.wait()
        begun = threading.Semaphore(0)
        waiters = in_threads(*[lambda: (begun.release(), future.result(PATIENCE))] * 4)
        for _ in range(4):
            assert begun.acquire(timeout=PATIENCE)
        with pytest.raises(TimeoutError):
            future.result(timeout=0)
        inside = engine.statistics().budget
        assert (inside.inside, inside.waiting, inside.refused) == (1, 0, 0)
        gate.open()
        waiters.join()
        until(lambda: engine.statistics().budget.inside == 0)
    assert var.version == 1


# ---- the four reads


@pytest.mark.parametrize("wait", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("make", [lambda: Engine(topology=made_up(cores=2)), NaiveEngine], ids=["streams", "naive"])
def test_the_four_reads_that_lose_an_error_in_mxnet_raise_four_times(
    make: Callable[[], Engine | NaiveEngine], wait: Callable[[Future[Any]], Any]
) -> None:
    error = ValueError("scale < 0")

    def normal() -> None:
        raise error

    with make() as engine:
        for order in [(1, 1, 2, 0), *permutations(range(3))]:  # b, b again, its sibling, the source; and all others
            a, b, c = hr.Var("a"), hr.Var("b"), hr.Var("c")
            reads: list[Future[Any]] = [
                engine.push(normal, writes=[a]),
                engine.push(lambda: pytest.fail("it must not run"), reads=[a], writes=[b]),
                engine.push(lambda: pytest.fail("it must not run"), reads=[a], writes=[c]),
            ]
            for which in order * 2:
                with pytest.raises(PoisonedVar if which else ValueError) as raised:
                    wait(reads[which])
                if which:
                    assert isinstance(raised.value, PoisonedVar)
                    assert (raised.value.name, raised.value.origin, raised.value.__cause__) == ("a", error, error)
                else:
                    assert raised.value is error
            assert (a.version, b.version, c.version) == (0, 0, 0)


@pytest.mark.parametrize("make", [lambda: Engine(topology=made_up(cores=2)), NaiveEngine], ids=["streams", "naive"])
def test_waitall_uses_no_error_up(make: Callable[[], Engine | NaiveEngine]) -> None:
    # Its group is told once; each Future, and whatever reads the Var later, fails for ever.
    a, b = hr.Var("a"), hr.Var("b")
    with make() as engine:
        source = engine.push(lambda: 1 / 0, writes=[a])
        further = engine.push(int, reads=[a], writes=[b])
        with pytest.raises(ExceptionGroup) as raised:
            engine.waitall(PATIENCE)
        assert {type(error) for error in raised.value.exceptions} == {ZeroDivisionError, PoisonedVar}
        engine.waitall(PATIENCE)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                source.result(PATIENCE)
            with pytest.raises(PoisonedVar):
                further.result(PATIENCE)
            with pytest.raises(PoisonedVar):
                engine.push(int, reads=[b]).result(PATIENCE)
        assert engine.push(lambda: 7, writes=[a]).result(PATIENCE) == 7
        assert engine.push(lambda: 8, reads=[a], writes=[b]).result(PATIENCE) == 8
        with pytest.raises(PoisonedVar):
            further.result(PATIENCE)
