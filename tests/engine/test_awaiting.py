"""A task that awaits one of our futures is resumed by its loop's mailbox: asyncio's own rules hold all the same."""

import asyncio
from asyncio import tasks
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest
import uvloop

from headrace.engine.future import Future
from headrace.engine.waiters import Awaiter

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
TASKS = {"in C": None, "in Python": lambda loop, coroutine, **more: tasks._PyTask(coroutine, loop=loop, **more)}  # type: ignore[attr-defined]
Run = Callable[[Coroutine[Any, Any, Any]], Any]
where: ContextVar[str] = ContextVar("where", default="nowhere")


@pytest.fixture(params=LOOPS)
def factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return LOOPS[request.param]


@pytest.fixture(params=TASKS)
def run(request: pytest.FixtureRequest, factory: Callable[[], asyncio.AbstractEventLoop]) -> Run:
    """Runs a coroutine in a task of each kind, on a loop of each kind, in debug mode."""

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def in_task_of_that_kind() -> Any:
            asyncio.get_running_loop().set_task_factory(TASKS[request.param])
            return await asyncio.create_task(coroutine)

        with asyncio.Runner(loop_factory=factory, debug=True) as runner:
            return runner.run(in_task_of_that_kind())

    return run


async def settled_in_a_thread(future: Future[int], value: int = 1) -> None:
    await asyncio.to_thread(future.settle, value)


async def value_of(future: Awaitable[int]) -> int:
    return await future


async def until(condition: Callable[[], object]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


def awaiters(future: Future[Any]) -> int:
    return sum(isinstance(callback, Awaiter) for callback in future._callbacks or ())


def test_it_is_resumed_with_the_value_and_in_its_own_context(run: Run) -> None:
    async def one(name: str, future: Future[int]) -> tuple[str, int]:
        where.set(name)
        value = await future
        return where.get(), value

    async def main() -> list[tuple[str, int]]:
        futures = [Future[int]() for _ in range(20)]
        waiting = [asyncio.create_task(one(f"task {i}", future)) for i, future in enumerate(futures)]
        await until(lambda: all(map(awaiters, futures)))
        for i, future in enumerate(futures):
            await settled_in_a_thread(future, i)
        assert where.get() == "nowhere"
        return await asyncio.gather(*waiting)

    assert run(main()) == [(f"task {i}", i) for i in range(20)]


def test_cancelling_the_task_while_it_waits_cancels_what_nobody_else_waits_for(run: Run) -> None:
    async def main() -> None:
        alone, shared = Future[int](), Future[int]()
        first, second, third = (asyncio.create_task(value_of(future)) for future in (alone, shared, shared))
        await until(lambda: awaiters(alone) + awaiters(shared) == 3)
        first.cancel()
        second.cancel()
        for task in first, second:
            with pytest.raises(asyncio.CancelledError):
                await task
        assert alone.cancelled()
        assert not shared.can_read()
        await settled_in_a_thread(shared, 7)
        assert await third == 7

    run(main())


def test_cancelling_a_task_whose_value_is_on_its_way_cancels_the_task_and_keeps_the_value(run: Run) -> None:
    async def main() -> None:
        future = Future[int]()
        task = asyncio.create_task(value_of(future))
        await until(lambda: awaiters(future))
        future.settle(7)  # the wake-up lies in the mailbox
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert future.result(0) == 7
        assert await future == 7

    run(main())


def test_a_task_that_was_woken_and_is_cancelled_before_its_next_wait_is_cancelled_there(run: Run) -> None:
    async def main() -> None:
        future, another = Future[int](), Future[int]()
        got: list[int] = []

        async def two_waits() -> None:
            got.append(await future)
            got.append(await another)

        task = asyncio.create_task(two_waits())
        await until(lambda: awaiters(future))
        future.settle(1)
        await until(lambda: got)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (got, another.cancelled()) == ([1], True)

    run(main())


def test_a_timeout_ends_the_wait_and_a_shield_keeps_the_work(run: Run) -> None:
    async def main() -> None:
        future = Future[int]()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.shield(value_of(future))
        assert not future.can_read()
        await until(lambda: awaiters(future))
        future.settle(3)
        assert await asyncio.wait_for(future, 30) == 3

    run(main())


def test_what_a_resumed_task_raises_is_its_own_and_the_next_one_is_resumed_all_the_same(run: Run) -> None:
    async def raises(future: Future[int]) -> None:
        await future
        raise ValueError("mine")

    async def main() -> None:
        future = Future[int]()
        first, second = asyncio.create_task(raises(future)), asyncio.create_task(value_of(future))
        await until(lambda: awaiters(future) == 2)
        await settled_in_a_thread(future, 5)
        with pytest.raises(ValueError, match="mine"):
            await first
        assert await second == 5

    run(main())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_resumed_task_ends_the_loop_and_the_others_go_on_when_it_runs_again(
    error: type[BaseException], factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    future = Future[int]()

    async def raises() -> None:
        await future
        raise error

    loop = factory()
    try:
        first, second = loop.create_task(raises()), loop.create_task(value_of(future))
        loop.run_until_complete(until(lambda: awaiters(future) == 2))
        future.settle(9)
        with pytest.raises(error):
            loop.run_until_complete(asyncio.wait_for(asyncio.shield(second), 30))
        assert loop.run_until_complete(asyncio.wait_for(second, 30)) == 9
        with pytest.raises(error):
            first.result()
    finally:
        loop.close()


def test_a_thousand_tasks_on_one_future_are_each_resumed_once(run: Run) -> None:
    async def main() -> None:
        future, resumed = Future[int](), list[int]()

        async def one(i: int) -> None:
            await future
            resumed.append(i)

        waiting = [asyncio.create_task(one(i)) for i in range(1000)]
        await until(lambda: awaiters(future) == 1000)
        await settled_in_a_thread(future)
        await asyncio.gather(*waiting)
        assert resumed == [*range(1000)]

    run(main())


def test_the_message_of_a_cancellation_arrives(run: Run) -> None:
    async def main() -> None:
        task = asyncio.create_task(value_of(future := Future[int]()))
        await until(lambda: awaiters(future))
        task.cancel("because")
        with pytest.raises(asyncio.CancelledError, match="because"):
            await task

    run(main())


def test_anyio_knows_its_own_cancellations(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    anyio = pytest.importorskip("anyio")

    async def main() -> None:
        with anyio.move_on_after(0.001) as scope:
            await Future[int]()
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.001):
                await Future[int]()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
