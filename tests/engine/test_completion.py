import asyncio
import gc
import random
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

import headrace as hr
from headrace.engine.completion import as_completed
from headrace.engine.future import Future
from headrace.engine.here import as_a_stream
from headrace.engine.topology import made_up
from headrace.errors import WouldDeadlock
from headrace.testing import Gate

PATIENCE = 30.0
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
InThreads = Callable[..., Any]
Handed = list[Future[int]]


def from_a_thread(futures: Handed, timeout: float | None = None) -> Handed:
    return list(as_completed(futures, timeout))


def from_a_loop(factory: Callable[[], asyncio.AbstractEventLoop]) -> Callable[..., Handed]:
    def collect(futures: Handed, timeout: float | None = None) -> Handed:
        async def main() -> Handed:
            return [future async for future in as_completed(futures, timeout)]

        return run(factory, main())

    return collect


def run(factory: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(asyncio.wait_for(main, PATIENCE))


WAYS = {"for": from_a_thread, **{f"async for on {name}": from_a_loop(factory) for name, factory in LOOPS.items()}}


@pytest.fixture(params=WAYS)
def collect(request: pytest.FixtureRequest) -> Callable[..., Handed]:
    return WAYS[request.param]


@pytest.mark.parametrize("seed", range(5))
def test_they_come_in_completion_order(
    collect: Callable[..., Handed], in_threads: InThreads, until: Callable[..., None], seed: int
) -> None:
    futures = [Future[int]() for _ in range(100)]
    order = random.Random(seed).sample(futures, len(futures))
    early = {*order[: seed * 20]}  # some are settled before anybody asks: those come first, as they were given
    for future in early:
        future.settle(1)

    def settle_the_others() -> None:
        until(lambda: all(future._callbacks or future in early for future in futures))  # somebody asks for all
        for future in order[len(early) :]:
            future.settle(1)

    in_threads(settle_the_others)
    assert collect(futures) == [future for future in futures if future in early] + order[len(early) :]


def test_what_failed_or_was_cancelled_comes_like_the_others(collect: Callable[..., Handed]) -> None:
    good, bad, gone = futures = [Future[int]() for _ in range(3)]
    good.settle(1)
    bad.settle(error=ValueError())
    gone.cancel()
    assert collect(futures, 0) == futures


def test_one_given_twice_is_handed_out_once(collect: Callable[..., Handed]) -> None:
    a, b = Future[int](), Future[int]()
    a.settle(1)
    b.settle(2)
    assert collect([a, b, a, b, b]) == [a, b]


def test_of_none_there_is_nothing_to_wait_for(collect: Callable[..., Handed]) -> None:
    assert collect([]) == []
    assert collect(iter([])) == []


@pytest.mark.parametrize("timeout", [0, -1, 0.001])
def test_when_the_time_is_up_what_is_there_has_come_and_the_rest_is_named(
    collect: Callable[..., Handed], timeout: float
) -> None:
    futures = [Future[int]() for _ in range(5)]
    for future in futures[1:4]:
        future.settle(1)
    with pytest.raises(TimeoutError, match=f"2 of 5 futures are not ready after {timeout} s"):
        collect(futures, timeout)
    assert not futures[0].cancelled(), "the work goes on"


def test_after_a_timeout_one_can_go_on_asking() -> None:
    late, ready = Future[int](), Future[int]()
    ready.settle(1)
    rest = as_completed([late, ready], timeout=0)
    assert next(rest) is ready
    with pytest.raises(TimeoutError):
        next(rest)
    late.settle(1)
    assert next(rest) is late
    with pytest.raises(StopIteration):
        next(rest)


def test_an_iteration_that_is_abandoned_costs_the_futures_nothing(in_threads: InThreads) -> None:
    futures = [Future[int]() for _ in range(3)]
    futures[0].settle(0)
    for future in as_completed(futures):
        assert future is futures[0]
        break

    async def main() -> None:
        async for future in as_completed(futures):
            assert future is futures[0]
            break

    for factory in LOOPS.values():
        run(factory, main())  # and the loop is closed before the others are settled
    assert [future.settle(i) for i, future in enumerate(futures)] == [False, True, True]
    assert [future.result() for future in futures] == [0, 1, 2]
    assert from_a_thread(futures) == futures


def test_the_futures_of_an_abandoned_iteration_are_not_kept() -> None:
    futures = [Future[int]() for _ in range(3)]
    futures[0].settle(0)
    iteration = as_completed(futures)
    next(iteration)
    seen = [weakref.ref(future) for future in futures]
    del iteration, futures
    gc.collect()
    assert [ref() for ref in seen] == [None] * 3


def test_one_iteration_may_be_shared_by_threads(in_threads: InThreads) -> None:
    futures = [Future[int]() for _ in range(60)]
    shared, parts = as_completed(futures), list[Handed]()
    in_threads(lambda: [future.settle(1) for future in futures])
    for _ in range(3):
        parts.append([next(shared) for _ in range(10)])
    assert [future for part in parts for future in part] + list(shared) == futures


def test_a_cancelled_wait_loses_nothing() -> None:
    async def main() -> None:
        a, b = futures = [Future[int](), Future[int]()]
        rest = as_completed(futures)
        waiting = asyncio.ensure_future(anext(rest))
        for _ in range(3):
            await asyncio.sleep(0)
        a.settle(1)
        waiting.cancel()
        await asyncio.wait([waiting])
        b.settle(2)
        assert [future async for future in rest] == ([b] if not waiting.cancelled() else [a, b])

    for factory in LOOPS.values():
        run(factory, main())


def test_a_stream_does_not_wait_for_itself() -> None:
    async def main() -> None:
        with as_a_stream(), pytest.raises(WouldDeadlock):
            await anext(as_completed([Future[int]()]))

    with as_a_stream(), pytest.raises(WouldDeadlock):
        next(as_completed([Future[int]()]))
    asyncio.run(main())


def test_a_slow_one_does_not_hold_up_the_quick_ones() -> None:
    gate = Gate()
    with hr.Engine(topology=made_up(cores=2)) as engine:
        slow = engine.push(gate)
        gate.wait()
        quick = [engine.push(lambda i=i: i) for i in range(10)]
        done = hr.as_completed([slow, *quick], timeout=PATIENCE)
        assert [next(done).result() for _ in range(10)] == list(range(10))
        gate.open()
        assert next(done) is slow


@pytest.mark.parametrize("how", ["for", "async for"])
def test_an_iteration_that_is_left_early_leaves_nothing_on_the_futures(how: str) -> None:
    ready, waiting = Future[int](), Future[int]()
    ready.settle(1)

    async def first() -> object:
        async for future in hr.as_completed([ready, waiting]):
            return future
        return None

    if how == "for":
        for future in hr.as_completed([ready, waiting]):
            assert future is ready
            break
    else:
        assert asyncio.run(first()) is ready
    gc.collect()
    assert not waiting._callbacks
