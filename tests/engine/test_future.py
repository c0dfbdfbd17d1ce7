import asyncio
import gc
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from itertools import pairwise
from typing import Any

import pytest
import uvloop

from headrace.engine.future import Future
from headrace.engine.here import as_a_stream, mark_stream_thread, on_a_stream
from headrace.errors import Cancelled, WouldDeadlock

PATIENCE = 30.0
InThreads = Callable[..., Any]
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """`asyncio.run` on each kind of loop."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(asyncio.wait_for(main, PATIENCE))

    return run


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What the engine's log says, line by line."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    log, handler = logging.getLogger("headrace.engine"), Lines()
    log.addHandler(handler)
    yield lines
    log.removeHandler(handler)


# ---- settled once


def test_it_is_settled_once() -> None:
    future: Future[int] = Future()
    assert (future.can_read(), future.done(), future.cancelled()) == (False, False, False)
    assert future.settle(1)
    assert not future.settle(2)
    assert not future.settle(error=ValueError())
    assert not future.cancel()
    assert (future.can_read(), future.done(), future.cancelled()) == (True, True, False)
    assert (future.result(), future.exception()) == (1, None)


@pytest.mark.usefixtures("restless")
def test_of_many_who_settle_one_wins_and_everybody_reads_what_it_said(in_threads: InThreads) -> None:
    futures = [Future[int]() for _ in range(100)]
    start = threading.Barrier(4)
    won: list[list[int]] = [[] for _ in futures]
    heard: list[list[int]] = [[] for _ in futures]
    for future, mine in zip(futures, heard):
        future.add_done_callback(lambda f, mine=mine: mine.append(f.result()))

    def settle(i: int) -> None:
        for future, winners in zip(futures, won):
            start.wait(PATIENCE)
            if future.settle(i):
                winners.append(i)

    in_threads(*(lambda i=i: settle(i) for i in range(4))).join()
    assert won == heard == [[future.result()] for future in futures]


def test_none_is_a_value() -> None:
    future: Future[None] = Future()
    future.settle()
    assert future.can_read()
    assert future.result() is None


# ---- errors


def test_an_error_is_raised_by_every_read_for_ever() -> None:
    error = ValueError("the cause")
    future: Future[int] = Future()
    future.settle(error=error)
    for _ in range(3):
        for read in (future.result, future.wait_to_read, lambda: future.result(timeout=0)):
            with pytest.raises(ValueError) as raised:
                read()
            assert raised.value is error
        assert future.exception() is error
        with pytest.raises(ValueError, match="the cause"):
            asyncio.run(awaited(future))


def test_reading_an_error_often_does_not_pile_up_its_traceback() -> None:
    future: Future[int] = Future()

    def depth() -> int:
        try:
            future.result()
        except ValueError as error:
            frames, at = 0, error.__traceback__
            while at is not None:
                frames, at = frames + 1, at.tb_next
            return frames
        raise AssertionError

    future.settle(error=ValueError())
    first = depth()
    assert [depth() for _ in range(5)] == [first] * 5


@pytest.mark.parametrize("error", [StopIteration("x"), GeneratorExit("x"), KeyError("x"), SystemExit(3)])
def test_no_error_is_taken_for_a_value(error: BaseException) -> None:
    future: Future[int] = Future()
    future.settle(error=error)
    with pytest.raises(type(error)):
        future.result()
    with pytest.raises(BaseException) as raised:
        asyncio.run(awaited(future))
    assert error in (raised.value, raised.value.__cause__)


def test_cancelled_is_an_error_like_any_other() -> None:
    future: Future[int] = Future()
    assert future.cancel()
    assert not future.cancel()
    assert future.cancelled()
    assert not future.begin(), "work that was cancelled is not begun"
    for kind in Cancelled, CancelledError:
        with pytest.raises(kind):
            future.result()
    with pytest.raises(Cancelled):
        asyncio.run(awaited(future))


def test_work_that_was_begun_can_be_cancelled_and_its_outcome_is_dropped() -> None:
    future: Future[int] = Future()
    assert future.begin()
    assert future.cancel()
    assert not future.settle(1)
    assert future.cancelled()


def test_it_says_how_it_is() -> None:
    future: Future[int] = Future()
    assert repr(future) == "<Future waiting>"
    future.begin()
    assert repr(future) == "<Future running>"
    future.settle(1)
    assert repr(future) == "<Future ready>"
    failed: Future[int] = Future()
    failed.settle(error=ValueError("no"))
    assert repr(failed) == "<Future failed: ValueError('no')>"


# ---- callbacks


def test_callbacks_are_called_once_in_order_and_at_once_if_it_is_settled() -> None:
    future: Future[int] = Future()
    called: list[object] = []
    for name in "abc":
        future.add_done_callback(lambda f, name=name: called.append((name, f.result())))
    assert called == []
    future.settle(1)
    future.settle(2)
    assert called == [("a", 1), ("b", 1), ("c", 1)]
    future.add_done_callback(lambda f: called.append(f))
    assert called[3:] == [future]


@pytest.mark.parametrize("error", [ValueError, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_a_callback_that_raises_is_logged_and_costs_the_others_nothing(
    error: type[BaseException], said: list[str]
) -> None:
    future: Future[int] = Future()
    called: list[int] = []

    def raises(_: object) -> None:
        raise error

    future.add_done_callback(raises)
    future.add_done_callback(lambda f: called.append(f.result()))
    assert future.settle(1)
    future.add_done_callback(raises)
    assert called == [1]
    assert said == ["a callback of a future raised"] * 2


def test_ctrl_c_in_a_callback_reaches_the_user_but_ends_no_stream(said: list[str]) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    future: Future[int] = Future()
    future.add_done_callback(interrupted)
    with pytest.raises(KeyboardInterrupt):
        future.settle(1)
    assert future.result() == 1
    with as_a_stream():
        future.add_done_callback(interrupted)
    assert said == ["a callback of a future raised"]


def test_a_kind_of_future_that_fails_to_follow_up_still_wakes_those_who_wait(said: list[str]) -> None:
    class Careless(Future[int]):
        def _settled(self) -> None:
            raise ValueError

    future, called = Careless(), []
    future.add_done_callback(called.append)
    assert future.settle(1)
    assert called == [future]
    assert len(said) == 1


def test_what_a_signals_handler_raises_while_it_follows_up_is_raised_when_all_is_done(said: list[str]) -> None:
    class OutOfTime(Exception):
        pass

    class Interrupted(Future[int]):
        times = 0

        def _settled(self) -> None:
            self.times += 1
            if self.times == 1:
                raise OutOfTime

    future, called = Interrupted(), []
    future.add_done_callback(called.append)
    with pytest.raises(OutOfTime):
        future.settle(1)
    assert future.times > 1
    assert called == [future]
    assert not said


def test_callbacks_may_use_the_future_they_are_called_with() -> None:
    future: Future[int] = Future()
    called: list[str] = []

    def again(f: Future[int]) -> None:
        called.append("outer")
        assert not f.settle(2)
        assert not f.cancel()
        assert not f.remove_done_callback(again)
        f.add_done_callback(lambda f: called.append("inner"))
        assert f.result() == 1
        f.wait_to_read(timeout=0)

    future.add_done_callback(again)
    future.add_done_callback(lambda f: called.append("next"))
    future.settle(1)
    assert called == ["outer", "inner", "next"]


def test_a_callback_may_settle_another_future_and_so_on() -> None:
    chain: list[Future[int]] = [Future() for _ in range(50)]
    for this, following in pairwise(chain):
        this.add_done_callback(lambda f, following=following: following.settle(f.result() + 1))
    chain[0].settle(0)
    assert chain[-1].result() == 49


def test_a_callback_taken_back_is_not_called() -> None:
    future: Future[int] = Future()
    called: list[object] = []
    kept, dropped = called.append, lambda _: called.append("dropped")
    future.add_done_callback(dropped)
    future.add_done_callback(kept)
    assert future.remove_done_callback(dropped)
    assert not future.remove_done_callback(dropped)
    assert not Future[int]().remove_done_callback(kept)
    future.settle(1)
    assert called == [future]
    assert not future.remove_done_callback(kept)


def test_a_finaliser_may_cancel_futures_whenever_the_collector_runs(in_threads: InThreads) -> None:
    # The collector runs inside the futures' own lock, too: there it must find a way, or the process stands still.
    cancelled: list[bool] = []

    class Abandoned:
        def __init__(self) -> None:
            self.itself, self.future = self, Future[int]()

        def __del__(self) -> None:
            cancelled.append(self.future.cancel())

    def storm() -> None:
        futures = [Future[int]() for _ in range(300)]
        for future in futures:
            future.add_done_callback(id)
            future.add_done_callback(repr)
        gc.set_threshold(7)  # it runs whenever a few things were made that it looks after
        kept = []
        for i, future in enumerate(futures):
            kept.append([[] for _ in range(i % 9)])  # so that it runs now here, now there
            Abandoned()
            future.remove_done_callback(id)

    before = gc.get_threshold()
    try:
        in_threads(storm).join()
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert cancelled == [True] * 300


# ---- waiting


def test_every_thread_that_waits_is_woken(in_threads: InThreads) -> None:
    future: Future[int] = Future()
    waits = [lambda: future.wait_to_read(), lambda: future.result(PATIENCE), lambda: future.exception(PATIENCE)]
    got: list[object] = []
    crowd = in_threads(*(lambda wait=wait: got.append(wait()) for wait in waits * 3))
    future.settle(7)
    crowd.join()
    assert sorted(got, key=str) == [7, 7, 7] + [None] * 6


@pytest.mark.usefixtures("restless")
def test_settling_wins_or_loses_against_a_timeout_but_is_never_lost(in_threads: InThreads) -> None:
    for _ in range(200):
        future: Future[int] = Future()
        crowd = in_threads(lambda: future.settle(1))  # noqa: B023
        try:
            assert future.result(timeout=0) == 1
        except TimeoutError:
            assert future.result(PATIENCE) == 1
        crowd.join()


def test_a_wait_ends_when_its_time_is_up_and_the_work_goes_on() -> None:
    future: Future[int] = Future()
    for timeout in (0, -1, 0.001):
        for wait in (future.wait_to_read, future.result, future.exception):
            with pytest.raises(TimeoutError):
                wait(timeout)
    assert not future.can_read()
    assert future._callbacks == [], "who has stopped waiting leaves nothing behind"
    future.settle(1)
    assert future.result(timeout=0) == 1


def test_a_wait_that_is_refused_leaves_nothing_behind() -> None:
    future: Future[int] = Future()
    with pytest.raises(TypeError):
        future.result(timeout="soon")  # type: ignore[arg-type]
    assert not future._callbacks


def test_on_a_stream_only_what_is_there_already_can_be_read(in_threads: InThreads) -> None:
    future, ready = Future[int](), Future[int]()
    ready.settle(1)

    def stream() -> None:
        mark_stream_thread()
        assert on_a_stream()
        for wait in (future.wait_to_read, future.result, future.exception, lambda: asyncio.run(awaited(future))):
            with pytest.raises(WouldDeadlock, match="add_done_callback"):
                wait()
        assert ready.result() == 1
        assert asyncio.run(awaited(ready)) == 1

    in_threads(stream).join()
    assert not on_a_stream()
    with as_a_stream():
        assert on_a_stream()
        with as_a_stream():
            pass
        assert on_a_stream()
    assert not on_a_stream()


# ---- awaiting


async def awaited(future: Future[Any]) -> Any:
    return await future


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


Run = Callable[[Coroutine[Any, Any, Any]], Any]


def test_it_is_awaited_before_and_after_it_is_settled(run: Run, in_threads: InThreads) -> None:
    async def main() -> None:
        future: Future[int] = Future()
        tasks = [asyncio.create_task(awaited(future)) for _ in range(3)]
        await turns()
        settling = in_threads(lambda: future.settle(7))
        assert await asyncio.gather(*tasks) == [7, 7, 7]
        assert await future == 7
        settling.join()

    run(main())


def test_an_error_is_raised_by_every_await(run: Run, in_threads: InThreads) -> None:
    async def main() -> None:
        future: Future[int] = Future()
        tasks = [asyncio.create_task(awaited(future)) for _ in range(2)]
        await turns()
        in_threads(lambda: future.settle(error=ValueError("the cause"))).join()
        got = await asyncio.gather(*tasks, awaited(future), awaited(future), return_exceptions=True)
        assert got == [future.exception()] * 4

    run(main())


def test_two_loops_and_a_thread_may_wait_for_one_future(in_threads: InThreads) -> None:
    future: Future[int] = Future()
    waiting, got = threading.Semaphore(0), []

    async def main() -> None:
        task = asyncio.create_task(awaited(future))
        await turns()
        waiting.release()
        got.append(await task)

    def loop(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())

    crowd = in_threads(
        *(lambda factory=factory: loop(factory) for factory in LOOPS.values()), lambda: got.append(future.result())
    )
    for _ in LOOPS:
        assert waiting.acquire(timeout=PATIENCE)
    future.settle(7)
    crowd.join()
    assert got == [7, 7, 7]


def test_a_cancelled_awaiter_cancels_the_work_only_if_it_was_the_last(run: Run) -> None:
    async def main() -> None:
        future: Future[int] = Future()
        first, second = (asyncio.create_task(awaited(future)) for _ in range(2))
        await turns()
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        assert not future.can_read(), "another one waits for it"
        second.cancel()
        await asyncio.wait([second])
        assert second.cancelled()
        assert future.cancelled(), "nobody wants it any more"

    run(main())


def test_a_cancelled_awaiter_leaves_the_work_to_a_thread_or_a_callback_that_waits(run: Run) -> None:
    async def main() -> None:
        future: Future[int] = Future()
        called: list[int] = []
        future.add_done_callback(lambda f: called.append(f.result()))
        task = asyncio.create_task(awaited(future))
        await turns()
        task.cancel()
        await asyncio.wait([task])
        assert not future.cancelled()
        future.settle(7)
        assert called == [7]

    run(main())


def test_an_awaiter_cancelled_when_the_value_is_on_its_way_does_not_take_it_from_others(run: Run) -> None:
    async def main() -> None:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        future: Future[int] = Future()
        task = asyncio.create_task(awaited(future))
        await turns()
        future.settle(7)
        task.cancel()  # before the loop has had a turn to deliver
        await asyncio.wait([task])
        await turns()
        assert task.cancelled()
        assert future.result() == 7
        assert complaints == []

    run(main())


def test_a_timeout_around_an_await_cancels_the_work(run: Run) -> None:
    async def main() -> None:
        future: Future[int] = Future()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await future
        assert future.cancelled()

    run(main())


@pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS)
def test_a_loop_that_was_closed_with_futures_pending_harms_nobody(
    factory: Callable[[], asyncio.AbstractEventLoop], said: list[str]
) -> None:
    futures = [Future[int]() for _ in range(5)]
    loop = factory()
    waiting = [awaited(future) for future in futures]
    tasks = [loop.create_task(each) for each in waiting]
    loop.run_until_complete(turns())
    loop.close()
    for future in futures:
        future.settle(1)
        assert future.result() == 1
    assert said == []
    for task, each in zip(tasks, waiting):
        each.close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio would complain of our test, rightly
