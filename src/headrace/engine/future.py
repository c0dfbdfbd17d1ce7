"""A value to come.

Rule 1: an outcome is settled once, from any thread; looking, waiting and awaiting are doors to the same flag.
Rule 2: an error is sticky: every wait and every read raises it, for ever.
Rule 3: what few need is made when someone asks: a Future is slots, a waiter exists only while someone waits.
Rule 4: the futures of one engine share its lock (`Guard`), held for a few assignments, never across a callback. So an
        engine, which holds it anyway, settles what it has run without taking another.
Rule 5: a stream never waits: it would have to do the work it waits for.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Generic, TypeVar

from headrace.engine.events import DROP
from headrace.engine.guard import FORKED, Guard, refuse_to_wait_inside
from headrace.engine.here import here, on_a_stream, refuse_to_wait_on_a_stream
from headrace.engine.mailbox import Mailbox
from headrace.engine.timeouts import check_timeout, seconds_of
from headrace.engine.waiters import Awaiter, OnItsLoop, Waiter
from headrace.errors import Cancelled, Closed, DeadlineExceeded, Overloaded, PoisonedVar

T = TypeVar("T")


_log = logging.getLogger("headrace.engine")

_nobody = Guard()
"""Guards the futures that belong to no engine."""


class Future(Generic[T]):
    """The value an operation will have. Settled once, from any thread; awaitable on any event loop."""

    __slots__ = (
        "__weakref__", "_begun", "_callbacks", "_done", "_ended_at", "_error", "_guard", "_seen", "_traceback",
        "_value",
    )  # fmt: skip

    _value: Any  # there once it is done
    _ended_at: float  # so is this: when, in seconds of the engine's clock
    _traceback: TracebackType | None  # there once there is an error

    def __init__(self, guard: Guard = _nobody) -> None:
        self._guard = guard
        self._done = False
        self._begun = False  # the work runs or has run: too late to take it out of the queue
        self._seen = False  # somebody has looked at the outcome
        self._error: BaseException | None = None
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
        on a stream, where waiting could never end; TypeError for a timeout that is no number. Here and everywhere, less
        than 0 is 0, and what is longer than a clock can measure is for ever.
        """
        if timeout is not None:
            check_timeout(timeout)
        if not self._done:
            self._wait(timeout)
        if self._error is not None:
            self._raise()

    def result(self, timeout: float | None = None) -> T:
        """The value; waits and raises as `wait_to_read` does."""
        if timeout is not None:
            check_timeout(timeout)
        if not self._done:
            self._wait(timeout)
        if self._error is not None:
            self._raise()
        if not self._seen:
            self._seen = True
            if self._guard.looks:
                self._look()
        value: T = self._value
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the operation raised, or None; waits as `wait_to_read` does."""
        if timeout is not None:
            check_timeout(timeout)
        if not self._done:
            self._wait(timeout)
        if self._error is not None and not self._seen:
            self._seen = True
            self._look()
        return self._error

    def cancel(self) -> bool:
        """Settle with `Cancelled`, unless there is an outcome already.

        True if this call did it. Work that waits is never run. Work that runs is stopped where its backend can, and
        nobody else is in its batch; else it goes on, and its result is dropped.
        """
        return self.settle(error=Cancelled("the work was cancelled"))

    def add_done_callback(self, callback: Callable[[Future[T]], object]) -> None:
        """Call `callback(self)` once there is an outcome: now, or on the thread that settles it.

        What a callback raises is logged. It must not wait: it may run on a stream. TypeError for what cannot be called.
        """
        if not callable(callback):
            raise TypeError(f"a callback is something to call with the future, not {callback!r}")
        if getattr(callback, "__module__", None) == "asyncio.tasks":
            callback = OnItsLoop(callback)
        alone = [callback]  # made out here: what allocates may call the collector, and that may settle this future
        with self._guard.lock:
            if not self._done:
                if self._callbacks:
                    self._callbacks.append(callback)
                else:
                    self._callbacks = alone
                return
        self._call(callback)

    def remove_done_callback(self, callback: Callable[[Future[T]], object]) -> bool:
        """Take `callback` back. False if it was not waiting to be called."""
        with self._guard.lock:
            callbacks = self._callbacks
            if not callbacks or callback not in callbacks:
                return False
            try:
                while True:  # in place: `_tell` may be taking the others out meanwhile
                    callbacks.remove(callback)
            except ValueError:
                return True

    def settle(self, value: Any = None, error: BaseException | None = None) -> bool:
        """Give the outcome. False if there was one already: the client may have left meanwhile."""
        try:
            with self._guard.lock:
                if self._done:
                    return False
                self.end(value, error)
            self.follow_up()
        except BaseException:  # Ctrl-C, or a callback that raises it
            if self._done and self._error is error and (error is not None or self._value is value):
                self._finish_settling()
            raise
        return True

    def _finish_settling(self) -> None:
        """It was interrupted after the outcome was there. All that follows may be done twice."""
        with self._guard.lock:
            if not hasattr(self, "_ended_at"):
                self._ended_at = self._guard.now()
                if self._guard.finished is not None:
                    self._guard.finished.note(self)
        self.follow_up()

    def end(self, value: Any = None, error: BaseException | None = None) -> None:
        """The first half of `settle`: with the lock held, and only if there is no outcome."""
        guard = self._guard
        self._mark(value, error)
        self._ended_at = guard.now()
        if guard.finished is not None:
            guard.finished.note(self)
        if guard.trace is not None and not self._begun and error is not None:
            guard.trace.record((DROP, guard.now(), id(self), _why(error)))

    def follow_up(self) -> None:
        """The second half: without the lock."""
        try:
            self._settled()
        except Exception:  # those who wait below must hear all the same
            self._settle_again()
        self._tell()

    def _settle_again(self) -> None:
        """`_settled` has raised, or somebody's handler of a signal has, in the middle of it: what raises once and not
        again came from outside, and is for whoever is here."""
        try:
            self._settled()
        except Exception:
            _log.exception("a future was settled, and what follows from that raised")
        else:
            if threading.current_thread() is threading.main_thread():  # signals come to no other
                self._tell()
                raise

    def begin(self) -> bool:
        """The work starts now. False if there is an outcome already (it was cancelled): do not run it."""
        with self._guard.lock:
            if self._done:
                return False
            self._begun = True
            return True

    def _mark(self, value: Any, error: BaseException | None) -> None:
        """The outcome is there, and nobody has been told. With the guard's lock held, and only if there was none."""
        self._value = value
        if error is not None:
            self._error, self._traceback = error, error.__traceback__
        self._done = True

    def _settled(self) -> None:
        """What a kind of future does once `settle` has given an outcome, before its callbacks are called."""

    def _tell(self) -> None:
        """Call the callbacks, after `_mark` and without the lock. Each once, also when two tell at the same time: who
        cancelled what runs, and the stream that ran it. `list.pop` is atomic."""
        callbacks = self._callbacks
        if callbacks is not None:
            while callbacks:
                try:
                    callback = callbacks.pop(0)
                except IndexError:  # the other was faster
                    break
                try:
                    callback(self)
                except BaseException as error:
                    _callback_raised(error)
            self._callbacks = None

    def _call(self, callback: Callable[[Any], object]) -> None:
        try:
            callback(self)
        except BaseException as error:
            _callback_raised(error)

    def _look(self) -> None:
        """Somebody has seen the outcome for the first time."""
        for look in self._guard.looks:
            look(self)

    def _raise(self) -> None:
        if not self._seen:
            self._seen = True
            self._look()
        assert self._error is not None
        raise self._error.with_traceback(self._traceback)

    def _wait(self, timeout: float | None) -> None:
        refuse_to_wait_on_a_stream()
        refuse_to_wait_inside(self._guard)
        if self._guard.forked:
            raise Closed(FORKED)
        settled = threading.Lock()  # a Lock, not an Event: half the price, and made only when someone waits
        settled.acquire()
        release = Waiter(settled)
        in_time = False
        try:
            self.add_done_callback(release)
            in_time = settled.acquire(timeout=seconds_of(timeout))
        finally:
            if not in_time:  # also if the wait was interrupted: nobody waits here any more
                self.remove_done_callback(release)
        if not in_time and not self._done:
            raise TimeoutError(f"not ready within {timeout} s")

    def __await__(self) -> Generator[Any, None, T]:
        if not self._done:
            if here.stream:  # as the function below asks, without two calls
                refuse_to_wait_on_a_stream()
            if self._guard.forked:
                raise Closed(FORKED)
            box = Mailbox.here()
            wake = Awaiter(box)
            box.expect()
            try:
                alone: list[Callable[[Any], object]] = [wake]  # as `add_done_callback`, without the call
                with self._guard.lock:
                    done = self._done
                    if not done:
                        if self._callbacks:
                            self._callbacks.append(wake)
                        else:
                            self._callbacks = alone
                if not done:
                    yield wake
            except asyncio.CancelledError:
                # The last one who waited has left: nobody wants the work any more.
                if self.remove_done_callback(wake) and not self._callbacks:
                    self.cancel()
                raise
            finally:
                box.waiting -= 1
        if self._error is not None:
            self._raise()
        if not self._seen:
            self._seen = True
            if self._guard.looks:
                self._look()
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


def _callback_raised(error: BaseException) -> None:
    """Also SystemExit: it must end neither a stream nor the other callbacks."""
    if isinstance(error, KeyboardInterrupt) and not on_a_stream():
        raise error
    _log.error("a callback of a future raised", exc_info=error)


_WHY = {Cancelled: "cancelled", DeadlineExceeded: "late", Overloaded: "shed", Closed: "closed", PoisonedVar: "poisoned"}


def _why(error: BaseException) -> str:
    """In a word, why something was not run."""
    return _WHY.get(type(error), type(error).__name__)
