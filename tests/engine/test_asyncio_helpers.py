"""Our futures in the helpers of asyncio, on its loop and on uvloop's: what takes awaitables takes them, and so does
`asyncio.wait`. For what takes futures of its own kind alone there is `asyncio.ensure_future`."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

import headrace as hr
from headrace.engine.engine import Engine
from headrace.engine.future import Future
from headrace.engine.topology import made_up
from headrace.testing import Gate

PATIENCE = 30.0
Main = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(topology=made_up(1))
    yield engine
    engine.close(drain=False, timeout=PATIENCE)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def on_loop(request: Any) -> Callable[[Main], None]:
    def on_loop(main: Main) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(main(), PATIENCE))

    return on_loop


@pytest.fixture
def held(engine: Engine) -> Iterator[tuple[Gate, Future[Any]]]:
    gate = Gate()
    future = engine.push(lambda: (gate(), 5)[1])
    gate.wait()
    yield gate, future
    gate.open()


def fail() -> None:
    raise ValueError("no")


def test_gather(engine: Engine, on_loop: Callable[[Main], None]) -> None:
    async def main() -> None:
        assert await asyncio.gather(*(engine.push(lambda i=i: i) for i in range(20))) == list(range(20))
        one, error = await asyncio.gather(engine.push(lambda: 1), engine.push(fail), return_exceptions=True)
        assert (one, type(error)) == (1, ValueError)

    on_loop(main)


def test_wait_for_and_timeout(engine: Engine, held: tuple[Gate, Future[Any]], on_loop: Callable[[Main], None]) -> None:
    gate, future = held

    async def main() -> None:
        behind = engine.push(lambda: 6)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(behind, 0.01)
        assert behind.cancelled(), "nobody else wanted it"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.shield(future)
        gate.open()
        assert await asyncio.wait_for(engine.push(lambda: 7), PATIENCE) == 7

    on_loop(main)


def test_shield_keeps_the_work_of_who_leaves(held: tuple[Gate, Future[Any]], on_loop: Callable[[Main], None]) -> None:
    gate, future = held

    async def main() -> None:
        shielded = asyncio.shield(future)
        await asyncio.sleep(0)
        shielded.cancel()
        await asyncio.sleep(0)
        assert not future.cancelled()
        gate.open()
        assert await future == 5

    on_loop(main)


def test_as_completed_of_asyncio(
    engine: Engine, held: tuple[Gate, Future[Any]], on_loop: Callable[[Main], None]
) -> None:
    gate, future = held

    async def main() -> None:
        behind = [engine.push(lambda i=i: i) for i in range(3)]
        gate.open()
        came = [await each for each in asyncio.as_completed([*behind, future])]
        assert sorted(came) == [0, 1, 2, 5]

    on_loop(main)


@pytest.mark.parametrize("when", [asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION, asyncio.ALL_COMPLETED])
def test_wait(when: str, engine: Engine, held: tuple[Gate, Future[Any]], on_loop: Callable[[Main], None]) -> None:
    """Its callbacks are called on the loop's thread: called on the stream's they would wake nobody."""
    gate, future = held

    async def main() -> None:
        behind = [engine.push(fail), engine.push(lambda: 7)]
        every: set[Any] = {future, *behind}
        done, pending = await asyncio.wait(every, timeout=0.01, return_when=when)
        assert (done, pending) == (set(), every)
        assert not future._callbacks, "who has stopped waiting leaves nothing behind"
        asyncio.get_running_loop().call_soon(gate.open)
        done, pending = await asyncio.wait(every, return_when=when)
        assert done | pending == every
        assert future in done
        if when == asyncio.FIRST_EXCEPTION:
            assert behind[0] in done
        if when == asyncio.ALL_COMPLETED:
            assert done == every
        done, pending = await asyncio.wait(every)
        assert done == every, "also what is done already"
        assert type(behind[0].exception()) is ValueError

    on_loop(main)


def test_poll_leaves_alone_what_asyncio_waits_for(
    engine: Engine, held: tuple[Gate, Future[Any]], on_loop: Callable[[Main], None]
) -> None:
    gate, future = held
    engine.poll()

    async def main() -> None:
        asyncio.get_running_loop().call_later(0, gate.open)
        await asyncio.wait([future])
        assert engine.poll() == []

    on_loop(main)


def test_what_takes_only_its_own_kind_is_given_a_task(engine: Engine, on_loop: Callable[[Main], None]) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(engine.push(lambda: 5))
        assert asyncio.wrap_future(task) is task  # type: ignore[arg-type]
        assert await task == 5
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(value(engine.push(lambda i=i: i))) for i in range(3)]
        assert [each.result() for each in tasks] == [0, 1, 2]

    async def value(future: Future[Any]) -> Any:
        return await future

    on_loop(main)


def test_threads_have_ways_of_their_own_for_what_concurrent_futures_does(engine: Engine) -> None:
    futures = [engine.push(lambda i=i: i) for i in range(3)]
    with pytest.raises(AttributeError):
        concurrent.futures.wait(futures)  # type: ignore[arg-type]
    assert sorted(future.result() for future in hr.as_completed(futures, PATIENCE)) == [0, 1, 2]
