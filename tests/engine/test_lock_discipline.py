"""No lock of an engine is held while somebody else's code runs, while anybody waits, or while anybody is woken."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

import headrace as hr
from headrace.engine.stream import Stream
from headrace.engine.topology import made_up
from headrace.errors import Overloaded

PATIENCE = 30.0
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
InThreads = Callable[..., Any]


class Watched:
    """A re-entrant lock that knows whether the caller holds it."""

    def __init__(self) -> None:
        self._lock, self._mine = threading.RLock(), threading.local()
        self.crimes: list[str] = []
        self.seen = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        got = self._lock.acquire(blocking, timeout)
        self._mine.depth = getattr(self._mine, "depth", 0) + got
        return got

    def release(self) -> None:
        self._mine.depth -= 1
        self._lock.release()

    def __enter__(self) -> "Watched":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_owned(self) -> bool:
        return bool(getattr(self._mine, "depth", 0))

    def must_be_free(self, what: str) -> None:
        self.seen += 1
        if getattr(self._mine, "depth", 0):
            self.crimes.append(what)


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def engine(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> hr.Engine:
    engine = hr.Engine(topology=made_up(cores=2), max_operations=4)
    monkeypatch.setattr(engine.guard, "lock", watched)

    def before(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def checked(*args: Any, **kwargs: Any) -> Any:
            watched.must_be_free(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, checked)

    before(Stream, "ring")
    before(Stream, "_sleep")
    before(Stream, "join")
    before(asyncio.BaseEventLoop, "call_soon_threadsafe")
    return engine


class Nosy:
    """A value, and an error, that look when they are let go of."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def __call__(self) -> "Nosy":
        self._watched.must_be_free("a function")
        return Nosy(self._watched)


def test_functions_callbacks_and_wake_ups_find_the_lock_free(
    engine: hr.Engine, watched: Watched, in_threads: InThreads
) -> None:
    var = hr.Var()

    def callback(future: hr.Future[Any]) -> None:
        watched.must_be_free("a callback")
        if future.cancelled():
            raise ValueError("what a callback raises is logged without the lock too")

    def push() -> None:
        for number in range(50):
            future = engine.push(Nosy(watched), writes=[var] if number % 3 else [])
            future.add_done_callback(callback)
            if number % 7 == 0:
                future.cancel()

    in_threads(push, push, push).join()
    engine.waitall(PATIENCE)
    assert isinstance(engine.push(lambda: 1 / 0).exception(PATIENCE), ZeroDivisionError)
    engine.close()
    assert not watched.crimes
    assert watched.seen > 150


@pytest.mark.parametrize("loop", LOOPS)
def test_so_do_models_and_event_loops(engine: hr.Engine, watched: Watched, loop: str) -> None:
    def model(value: int) -> int:
        watched.must_be_free("a model")
        return value + 1

    async def main(compiled: hr.Model) -> list[int]:
        async def one(i: int) -> int:
            while True:
                try:
                    answer: int = await compiled.submit(i)
                    return answer
                except Overloaded:
                    return int(await compiled.asubmit(i))

        return await asyncio.gather(*map(one, range(100)))

    with hr.compile_model(model, scheduler="multi_stream", engine=engine) as compiled:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            assert runner.run(main(compiled)) == list(range(1, 101))
        assert [*compiled.map(range(20))] == list(range(1, 21))
    engine.close()
    assert not watched.crimes
    assert watched.seen > 120
