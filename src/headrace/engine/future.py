"""A value to come.

Rule 1: an outcome is settled once, from any thread; looking, waiting and awaiting are doors to the same flag.
Rule 2: an error is sticky: every wait and every read raises it, for ever.
Rule 3: what few need is made when someone asks: a Future is slots, a waiter exists only while someone waits.
Rule 4: one lock for all futures, held for a few assignments, never across a callback.
Rule 5: a stream never waits: it would have to do the work it waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from headrace.engine.mailbox import Mailbox
from headrace.errors import Cancelled, WouldDeadlock

T = TypeVar("T")
# Re-entrant, because the garbage collector may run inside it, and what it finalises may cancel futures (`Model.map`).
_settling = threading.RLock()
_here = threading.local()


def _after_fork() -> None:
    """In the child: whoever held the lock is not here to let it go."""
    global _settling
    _settling = threading.RLock()
    _here.stream = False


os.register_at_fork(after_in_child=_after_fork)
_log = logging.getLogger("headrace.engine")


def on_a_stream() -> bool:
    """Whether the caller runs on a stream's thread."""
    return getattr(_here, "stream", False)


def mark_stream_thread() -> None:
    _here.stream = True


@contextlib.contextmanager
def as_a_stream() -> Iterator[None]:
    """The caller does a stream's work in here, on its own thread."""
    before, _here.stream = on_a_stream(), True
    try:
        yield
    finally:
        _here.stream = before


def refuse_to_wait_on_a_stream() -> None:
    """WouldDeadlock on a stream's thread, also inside an event loop that work has started there."""
    if on_a_stream():
        raise WouldDeadlock(
            "this code runs on a stream of the engine and waits for work the engine still has to do; "
            "use add_done_callback, or name what the work reads: engine.push(fn, reads=[...])"
        )


class Future(Generic[T]):
    """The value an operation will have. Settled once, from any thread; awaitable on any event loop."""

    __slots__ = ("__weakref__", "_begun", "_callbacks", "_done", "_error", "_seen", "_traceback", "_value")

    def __init__(self) -> None:
        self._done = False
        self._begun = False  # the work runs or has run: too late to take it out of the queue
        self._seen = False  # somebody has looked at the outcome
        self._value: Any = None
        self._error: BaseException | None = None
        self._traceback: TracebackType | None = None
        self._callbacks: list[Callable[[Any], object]] | None = None

    def can_read(self) -> bool:
        """Whether there is an outcome, so that `result` returns or raises at once."""
        return self._done

    done = can_read  # the name concurrent.futures and asyncio use

    def cancelled(self) -> bool:
        return isinstance(self._error, Cancelled)

    def wait_to_read(self, timeout: float | None = None) -> None:
        """Wait until the value is there, at most `timeout` seconds.

        Raises what the operation raised, every time; TimeoutError if the time is up (the work goes on); WouldDeadlock
        on a stream, where waiting could never end.
        """
        self._wait(timeout)
        if self._error is not None:
            self._seen = True
            raise self._error.with_traceback(self._traceback)

    def result(self, timeout: float | None = None) -> T:
        """The value; waits and raises as `wait_to_read` does."""
        self.wait_to_read(timeout)
        value: T = self._value
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the operation raised, or None; waits as `wait_to_read` does."""
        self._wait(timeout)
        self._seen = True
        return self._error

    def cancel(self) -> bool:
        """Settle with `Cancelled`, unless there is an outcome already.

        True if this call did it. Work that waits is never run; work that runs goes on, and its result is dropped.
        """
        return self.settle(error=Cancelled("the work was cancelled"))

    def add_done_callback(self, callback: Callable[[Future[T]], object]) -> None:
        """Call `callback(self)` once there is an outcome: now, or on the thread that settles it.

        What a callback raises is logged. It must not wait: it may run on a stream.
        """
        alone = [callback]  # made out here: what allocates may call the collector, and that may settle this future
        with _settling:
            if not self._done:
                if self._callbacks:
                    self._callbacks.append(callback)
                else:
                    self._callbacks = alone
                return
        self._call(callback)

    def remove_done_callback(self, callback: Callable[[Future[T]], object]) -> bool:
        """Take `callback` back. False if it was not waiting to be called."""
        with _settling:
            if not self._callbacks or callback not in self._callbacks:
                return False
            self._callbacks = [kept for kept in self._callbacks if kept != callback]
            return True

    def settle(self, value: Any = None, error: BaseException | None = None) -> bool:
        """Give the outcome. False if there was one already: the client may have left meanwhile."""
        with _settling:
            if self._done:
                return False
            self._value = value
            if error is not None:
                self._error, self._traceback = error, error.__traceback__
            self._done = True
            callbacks, self._callbacks = self._callbacks, None
        try:
            self._settled()
        except Exception:  # those who wait below must hear all the same
            _log.exception("a future was settled, and what follows from that raised")
        if callbacks:
            for callback in callbacks:
                self._call(callback)
        return True

    def begin(self) -> bool:
        """The work starts now. False if there is an outcome already (it was cancelled): do not run it."""
        with _settling:
            if self._done:
                return False
            self._begun = True
            return True

    def _settled(self) -> None:
        """What a kind of future does once there is an outcome, before its callbacks are called."""

    def _call(self, callback: Callable[[Any], object]) -> None:
        try:
            callback(self)
        except KeyboardInterrupt:
            if not on_a_stream():
                raise
            _log.exception("a callback of a future raised")
        except BaseException:  # also SystemExit: it must end neither a stream nor the other callbacks
            _log.exception("a callback of a future raised")

    def _wait(self, timeout: float | None) -> None:
        if self._done:
            return
        refuse_to_wait_on_a_stream()
        settled = threading.Lock()  # a Lock, not an Event: half the price, and made only when someone waits
        settled.acquire()

        def release(_: object) -> None:
            settled.release()

        self.add_done_callback(release)
        in_time = False
        try:
            in_time = settled.acquire(timeout=-1 if timeout is None else max(timeout, 0))
        finally:
            if not in_time:  # also if the wait was interrupted: nobody waits here any more
                self.remove_done_callback(release)
        if not in_time and not self._done:
            raise TimeoutError(f"not ready within {timeout} s")

    def __await__(self) -> Generator[Any, None, T]:
        if not self._done:
            refuse_to_wait_on_a_stream()
            box = Mailbox.here()
            waiter = box.loop.create_future()

            def wake(_: object) -> None:
                box.post(_wake, waiter)

            self.add_done_callback(wake)
            try:
                yield from waiter
            except asyncio.CancelledError:
                # The last one who waited has left: nobody wants the work any more.
                if self.remove_done_callback(wake) and not self._callbacks:
                    self.cancel()
                raise
        if self._error is not None:
            self._seen = True
            raise self._error.with_traceback(self._traceback)
        value: T = self._value
        return value

    def __repr__(self) -> str:
        if not self._done:
            state = "running" if self._begun else "waiting"
        elif self._error is not None:
            state = f"failed: {self._error!r}"
        else:
            state = "ready"
        return f"<{type(self).__name__} {state}>"


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
