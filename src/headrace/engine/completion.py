"""Futures in the order they complete, for a thread or for an event loop."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, TypeVar

from headrace.engine.future import Future
from headrace.engine.guard import FORKED
from headrace.engine.here import refuse_to_wait_on_a_stream
from headrace.engine.mailbox import Mailbox
from headrace.engine.timeouts import LONGEST, check_timeout, loop_seconds_of, until_of
from headrace.engine.unread import whoever_is_here
from headrace.errors import Closed

F = TypeVar("F", bound=Future[Any])


class _Hand:
    """A callback that hands the future on to who iterates."""

    __slots__ = ("_give", "who")

    def __init__(self, give: Callable[[Any], object]) -> None:
        self._give, self.who = give, whoever_is_here()

    def __call__(self, future: Any) -> None:
        self._give(future)


class as_completed(Iterator[F], AsyncIterator[F]):
    """The futures in completion order, not submission order: `for f in as_completed(fs)`, or `async for`.

    Each is handed out once, also if it was given twice. TimeoutError when `timeout` seconds have passed since the
    first was asked for and one is still missing. WouldDeadlock on a stream. Nothing is left on the futures when it is
    let go of before its end, say by a `break`.
    """

    def __init__(self, futures: Iterable[F], timeout: float | None = None) -> None:
        check_timeout(timeout)
        if isinstance(futures, Future):
            raise TypeError("as_completed takes several futures, say a list of them, not one")
        self._left = len(futures := dict.fromkeys(futures))
        for future in futures:
            if not isinstance(future, Future):
                raise TypeError(f"as_completed takes futures of this library, not a {type(future).__name__}")
        self._futures = tuple(futures)
        self._timeout = timeout
        self._until: float | None = None
        self._ready: queue.SimpleQueue[F] | asyncio.Queue[F] | None = None
        self._callback: Callable[[Any], object] | None = None

    def __iter__(self) -> Iterator[F]:
        return self

    def __next__(self) -> F:
        if not self._left:
            raise StopIteration
        refuse_to_wait_on_a_stream()
        if self._ready is None:
            ready: queue.SimpleQueue[F] = queue.SimpleQueue()
            hand = _Hand(ready.put)
            self._begin(ready, hand)
            for future in self._futures:
                future.add_done_callback(hand)
        if not isinstance(self._ready, queue.SimpleQueue):
            raise TypeError("iterate with `for` or with `async for`, not with both")
        try:
            left = self._seconds_left()
            future = self._ready.get(timeout=None if left is None else min(left, LONGEST))
        except queue.Empty:
            raise self._timed_out() from None
        self._left -= 1
        return future

    def __aiter__(self) -> AsyncIterator[F]:
        return self

    async def __anext__(self) -> F:
        if not self._left:
            raise StopAsyncIteration
        refuse_to_wait_on_a_stream()
        if self._ready is None:
            ready: asyncio.Queue[F] = asyncio.Queue()
            box = Mailbox.here()

            hand = _Hand(lambda done: box.post(ready.put_nowait, done))
            self._begin(ready, hand)
            for future in self._futures:
                if future.can_read():  # put at once: by way of the mailbox it would come too late for a timeout of 0
                    ready.put_nowait(future)
                else:
                    future.add_done_callback(hand)
        if not isinstance(self._ready, asyncio.Queue):
            raise TypeError("iterate with `for` or with `async for`, not with both")
        try:
            async with asyncio.timeout(
                loop_seconds_of(self._seconds_left())
            ):  # what is there already comes also after the time is up
                future = await self._ready.get()
        except TimeoutError:
            raise self._timed_out() from None
        self._left -= 1
        return future

    def __del__(self) -> None:
        callback = getattr(self, "_callback", None)
        if callback is not None:
            for future in self._futures:
                future.remove_done_callback(callback)

    def _begin(self, ready: Any, callback: Callable[[Any], object]) -> None:
        if any(future._guard.forked and not future._done for future in self._futures):
            raise Closed(FORKED)
        self._ready, self._callback = ready, callback
        if self._timeout is not None:
            self._until = until_of(self._timeout, time.monotonic())

    def _seconds_left(self) -> float | None:
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    def _timed_out(self) -> TimeoutError:
        return TimeoutError(f"{self._left} of {len(self._futures)} futures are not ready after {self._timeout} s")
