"""Ctrl-C while the main thread waits ends the wait, and nothing else; what raises it inside the engine ends no stream.

The signal is sent when the main thread is certain to be in a blocking call (see `parked`), and to that thread: earlier
it would interrupt some line on the way there, and sent to the process it may go to another thread and wake nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.engine.engine import Engine
from headrace.engine.future import Future
from headrace.engine.naive import NaiveEngine
from headrace.engine.topology import made_up
from headrace.errors import Cancelled, PoisonedVar
from headrace.testing import Gate

PATIENCE = 30.0
TASKS = Path("/proc/self/task")

on_linux = pytest.mark.skipif(not TASKS.exists(), reason="whether a thread is in a blocking call is read from /proc")


def parked(thread: threading.Thread, given_up: threading.Event) -> bool:
    """Wait until `thread` is in a blocking call; False if it is given up before.

    Asleep at one instruction, and without having run, for several of the turns in which whoever only waits for the
    interpreter wakes to ask for it. So the pause is not a guess: cut short or drawn out, the answer is right.
    """
    pause = 4 * sys.getswitchinterval()
    patience = time.monotonic() + PATIENCE

    def look() -> tuple[object, ...]:
        task = TASKS / str(thread.native_id)
        frame = sys._current_frames()[thread.ident or 0]
        state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        return state, (task / "schedstat").read_text(), id(frame), frame.f_lasti

    before: tuple[object, ...] = ()
    while not given_up.wait(pause):
        assert time.monotonic() < patience, "the main thread never came to wait"
        now = look()
        if now == before and now[0] == "S":
            return True
        before = now
    return False


@contextlib.contextmanager
def ctrl_c() -> Iterator[None]:
    """What is inside is interrupted once, as soon as it waits, and ends with that."""
    assert threading.current_thread() is threading.main_thread()
    here, over = threading.main_thread(), threading.Event()

    def send() -> None:
        if parked(here, over):
            signal.pthread_kill(here.ident or 0, signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("it was not interrupted")
    finally:
        over.set()
        sender.join(PATIENCE)


@contextlib.contextmanager
def opened() -> Iterator[Engine]:
    engine = Engine(topology=made_up(cores=1))
    try:
        yield engine
    except BaseException:
        engine.close(drain=False, timeout=1)  # its stream may be stuck, or have ended
        raise
    engine.close()


@pytest.fixture
def engine() -> Iterator[Engine]:
    """One core: whoever is stuck in it is all that runs. At the end it still works, and closes."""
    threads = threading.active_count()
    with opened() as engine:
        yield engine
        assert engine.push(lambda: 7).result(PATIENCE) == 7
        engine.waitall(PATIENCE)
        assert engine.statistics().budget.inside == 0
    assert threading.active_count() == threads


class Slow:
    """An operation that has begun, and goes on until the gate is opened."""

    def __init__(self, engine: Engine) -> None:
        self.gate, self.var = Gate(), hr.Var()
        self.future: Future[int] = engine.push(lambda: (self.gate(), 5)[1], writes=[self.var])
        self.gate.wait()

    def goes_on(self) -> None:
        assert not self.future.can_read()
        self.gate.open()
        assert self.future.result(PATIENCE) == 5
        assert self.var.version == 1


async def awaited(future: Future[Any]) -> Any:
    return await future


def nobody_waits_for(future: Future[Any]) -> bool:
    """An awaiter who leaves cancels the work if nobody else wants it. So: whether nobody else is left."""

    async def leave() -> None:
        awaiter = asyncio.ensure_future(awaited(future))
        for _ in range(3):
            await asyncio.sleep(0)
        awaiter.cancel()
        await asyncio.wait([awaiter])

    asyncio.run(leave())
    return future.cancelled()


WAYS: dict[str, Callable[[Future[Any]], object]] = {
    "wait_to_read": lambda future: future.wait_to_read(),
    "wait_to_read with a timeout": lambda future: future.wait_to_read(PATIENCE),
    "result": lambda future: future.result(),
    "exception": lambda future: future.exception(),
}


@on_linux
@pytest.mark.parametrize("wait", WAYS.values(), ids=WAYS)
def test_a_wait_is_interrupted_and_the_work_goes_on(engine: Engine, wait: Callable[[Future[Any]], object]) -> None:
    slow = Slow(engine)
    behind = engine.push(lambda: 6, reads=[slow.var])
    for future in slow.future, behind, slow.future:  # also twice
        with ctrl_c():
            wait(future)
    slow.goes_on()
    assert behind.result(PATIENCE) == 6


@on_linux
@pytest.mark.parametrize("wait", WAYS.values(), ids=WAYS)
def test_an_interrupted_wait_leaves_no_callback_behind(engine: Engine, wait: Callable[[Future[Any]], object]) -> None:
    slow = Slow(engine)
    waiting = engine.push(int)
    for future in waiting, slow.future:
        with ctrl_c():
            wait(future)
        assert nobody_waits_for(future)
    slow.gate.open()


@on_linux
@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_as_completed_is_interrupted_and_can_be_asked_again(engine: Engine, timeout: float | None) -> None:
    quick = engine.push(lambda: 1)
    quick.wait_to_read(PATIENCE)
    slow = Slow(engine)
    last = engine.push(lambda: 6)
    done = hr.as_completed([last, slow.future, quick], timeout)
    assert next(done) is quick
    for _ in range(2):
        with ctrl_c():
            next(done)
    slow.goes_on()
    assert [*done] == [slow.future, last], "each is handed out once, in the order they were ready"


@on_linux
def test_waitall_is_interrupted_and_what_failed_can_still_be_told(engine: Engine) -> None:
    engine.push(lambda: 1 / 0)
    slow = Slow(engine)
    for timeout in None, PATIENCE:
        with ctrl_c():
            engine.waitall(timeout)
    slow.goes_on()
    with pytest.raises(ExceptionGroup) as raised:
        engine.waitall(PATIENCE)
    assert [type(error) for error in raised.value.exceptions] == [ZeroDivisionError]


@on_linux
def test_a_push_that_waits_for_room_is_interrupted_and_has_pushed_nothing() -> None:
    with Engine(topology=made_up(cores=1), max_operations=1) as engine:
        slow = Slow(engine)
        with ctrl_c():
            engine.push(lambda: pytest.fail("it was not pushed"), writes=[slow.var])
        inside = engine.statistics().budget
        assert (inside.inside, inside.waiting) == (1, 0)
        slow.goes_on()
        for _ in range(2):  # its place in line was given up: it keeps the room from nobody
            assert engine.push(lambda: 7, reads=[slow.var]).result(PATIENCE) == 7
        assert slow.var.version == 1


@on_linux
def test_an_await_is_interrupted_and_the_work_goes_on_if_somebody_else_wants_it(engine: Engine) -> None:
    slow, heard = Slow(engine), list[Future[int]]()
    slow.future.add_done_callback(heard.append)
    for _ in range(2):
        with ctrl_c():
            asyncio.run(awaited(slow.future))
    slow.goes_on()
    assert heard == [slow.future]
    assert asyncio.run(awaited(slow.future)) == 5


@on_linux
def test_an_await_that_is_interrupted_cancels_what_nobody_else_wants(engine: Engine) -> None:
    # As any awaiter who leaves: `asyncio.run` makes a cancellation of the interrupt.
    slow, seen = Slow(engine), list[str]()
    waiting = engine.push(lambda: seen.append("it was to be cancelled"), writes=[slow.var])

    async def main() -> list[Any]:
        return await asyncio.gather(waiting, slow.future)

    with ctrl_c():
        asyncio.run(main())
    for future in slow.future, waiting:
        assert isinstance(future.exception(0), Cancelled)
    slow.gate.open()
    engine.waitall(PATIENCE)
    assert slow.var.version == 1, "what ran was not torn off"
    assert seen == []


@on_linux
def test_async_as_completed_is_interrupted_and_the_work_goes_on(engine: Engine) -> None:
    slow = Slow(engine)

    async def main() -> int:
        return (await anext(hr.as_completed([slow.future]))).result()

    with ctrl_c():
        asyncio.run(main())
    slow.goes_on()
    assert asyncio.run(main()) == 5


@on_linux
def test_an_interrupt_that_leaves_the_with_block_closes_the_engine_when_its_work_is_done() -> None:
    ended: list[int] = []
    with ctrl_c(), Engine(topology=made_up(cores=1)) as engine:
        slow = Slow(engine)
        slow.future.add_done_callback(lambda _: ended.append(1))
        behind = engine.push(lambda: ended.append(2), reads=[slow.var])
        try:
            behind.result()
        finally:
            slow.gate.open()
    assert sorted(ended) == [1, 2]
    assert engine.closed
    assert behind.can_read()


@on_linux
def test_a_close_that_is_interrupted_can_be_done_again() -> None:
    threads = threading.active_count()
    engine = Engine(topology=made_up(cores=1))
    slow = Slow(engine)
    with ctrl_c():
        engine.close()
    slow.goes_on()
    engine.close(timeout=PATIENCE)
    assert threading.active_count() == threads


# ---- operations that raise it themselves


@pytest.mark.parametrize("error", [KeyboardInterrupt("in here"), SystemExit(3)], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("make", [opened, NaiveEngine], ids=["streams", "naive"])
def test_an_operation_that_raises_it_fails_like_any_other(
    make: Callable[[], contextlib.AbstractContextManager[Engine | NaiveEngine]], error: BaseException
) -> None:
    def leave() -> None:
        raise error

    async def read(future: Future[Any]) -> BaseException:
        with pytest.raises(type(error)) as raised:
            await future
        return raised.value

    var = hr.Var("v")
    with make() as engine:
        future = engine.push(leave, writes=[var])
        for _ in range(2):
            with pytest.raises(type(error)) as raised:
                future.result(PATIENCE)
            assert raised.value is error
            assert next(hr.as_completed([future], timeout=PATIENCE)).exception() is error
            assert asyncio.run(read(future)) is error
        poisoned = engine.push(int, reads=[var]).exception(PATIENCE)
        assert isinstance(poisoned, PoisonedVar)
        assert poisoned.origin is error
        assert var.version == 0
        engine.push(leave)
        with pytest.raises(BaseExceptionGroup) as group:  # not an ExceptionGroup, which `except Exception` would hold
            engine.waitall(PATIENCE)
        assert group.value.exceptions == (error,)
        assert not isinstance(group.value, Exception)
        assert engine.push(lambda: 7, writes=[var]).result(PATIENCE) == 7
