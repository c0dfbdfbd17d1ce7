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
import os
import threading
import time
from collections.abc import Callable, Generator
from contextvars import Context
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakSet

from headrace.engine.events import DROP, READ
from headrace.engine.mailbox import Mailbox
from headrace.engine.timeouts import check_timeout, seconds_of
from headrace.engine.trace import Several, Trace
from headrace.errors import Cancelled, Closed, DeadlineExceeded, Overloaded, PoisonedVar, WouldDeadlock

T = TypeVar("T")


class _Here(threading.local):
    stream = False  # in the class: to find that a thread has none of its own would cost a microsecond, each time


_here = _Here()
_log = logging.getLogger("headrace.engine")
_guards: WeakSet[Guard] = WeakSet()


FORKED = (
    "this engine belongs to the process this one was forked from: its streams are threads, and a fork does not copy "
    "them. Compile models after the fork, or start processes by spawn"
)


class Ends(Protocol):
    """Who wants to know what has ended: `engine.poll`."""

    def note(self, future: Future[Any]) -> None:
        """`future` has an outcome. With the guard's lock held."""


class Guard:
    """What the futures of one engine share: its lock, and who is told of their ends and of looks at them.

    An object of its own, so that a forked child can replace the lock for all of them.
    """

    __slots__ = ("__weakref__", "finished", "forked", "lock", "looks", "now", "trace", "traces")

    def __init__(self) -> None:
        self.finished: Ends | None = None  # once the engine has been polled
        self.traces: tuple[Trace, ...] = ()  # while it is traced
        self.trace: Trace | Several | None = None  # what records for them
        self.forked = False  # this is a child of the process whose engine it was: nobody will run anything
        self.looks: tuple[Callable[[Future[Any]], object], ...] = ()  # who is told of the first look at an outcome
        self.now: Callable[[], float] = time.monotonic  # the engine's clock, in seconds
        # Re-entrant, because the garbage collector may run inside it, and what it finalises may cancel futures
        # (`Model.map`) or give back what they hold.
        self.lock = threading.RLock()
        _guards.add(self)

    def begin_trace(self, trace: Trace) -> None:
        """`trace` records from now on. With the lock held."""
        trace.began = self.now()
        self._set_traces((*self.traces, trace))

    def end_trace(self, trace: Trace) -> None:
        """It does no more. With the lock held."""
        self._set_traces(tuple(each for each in self.traces if each is not trace))

    def _set_traces(self, traces: tuple[Trace, ...]) -> None:
        if not self.traces:
            self.looks = (*self.looks, self._trace_look)
        self.traces = traces
        self.trace = None if not traces else traces[0] if len(traces) == 1 else Several(traces)
        if not traces:
            self.looks = tuple(look for look in self.looks if look != self._trace_look)

    def _trace_look(self, future: Future[Any]) -> None:
        trace = self.trace
        if trace is not None:
            trace.record((READ, self.now(), id(future), threading.get_ident()))


_nobody = Guard()
"""Guards the futures that belong to no engine."""


def _after_fork() -> None:
    """In the child: whoever held a lock is not here to let it go."""
    for guard in list(_guards):
        guard.lock = threading.RLock()
    _here.stream = False


os.register_at_fork(after_in_child=_after_fork)


def on_a_stream() -> bool:
    """Whether the caller runs on a stream's thread."""
    return _here.stream


def mark_stream_thread() -> None:
    _here.stream = True


class as_a_stream:
    """The caller does a stream's work in here, on its own thread."""

    # Not by contextlib: it sets the traceback of what is raised, and an error may be frozen.
    def __enter__(self) -> None:
        self._before, _here.stream = _here.stream, True

    def __exit__(self, *_: object) -> None:
        _here.stream = self._before


def refuse_to_wait_inside(guard: Guard) -> None:
    """WouldDeadlock where this thread holds the engine's lock: in a finaliser or a signal handler that has come between
    two steps of the engine."""
    if guard.lock._is_owned():  # type: ignore[attr-defined]  # what threading.Condition asks a lock, too
        raise WouldDeadlock(
            "this code runs in a finaliser or a signal handler, in the middle of a step of the engine: waiting for the "
            "engine here could never end"
        )


def refuse_to_wait_on_a_stream() -> None:
    """WouldDeadlock on a stream's thread, also inside an event loop that work has started there."""
    if on_a_stream():
        raise WouldDeadlock(
            "this code runs on a stream of the engine and waits for work the engine still has to do; "
            "use add_done_callback, or name what the work reads: engine.push(fn, reads=[...])"
        )


class Waiter:
    """A callback of somebody who waits for the outcome, and will look at it."""

    __slots__ = ("_gate", "who")

    def __init__(self, gate: threading.Lock) -> None:
        self._gate, self.who = gate, threading.get_ident()

    def __call__(self, _: object) -> None:
        self._gate.release()


class Awaiter(Waiter):
    """One task that waits on its event loop, as the task sees it: what asyncio asks of a future, and no more.

    A task is resumed right where its loop empties its mailbox. By way of an `asyncio.Future` it would be resumed a
    callback of the loop later, which costs as much again as all the rest of an await.
    """

    __slots__ = ("_asyncio_future_blocking", "_box", "_cancelled", "_context", "_message", "_resume")

    def __init__(self, box: Mailbox) -> None:
        self._box = box
        self._asyncio_future_blocking = True  # says to the task that it is to wait
        self._cancelled = False
        self._resume: Callable[[Awaiter], object] | None = None
        self.who = -1  # nobody who could wait for room meanwhile

    def __call__(self, _: object) -> None:
        box = self._box
        box._items.append((_wake, self))  # as `post`, without the call
        if not box._armed:
            box.announce()

    # ---- what the task calls, on the loop's thread

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._box.loop

    def add_done_callback(self, resume: Callable[[Awaiter], object], *, context: Context) -> None:
        self._resume, self._context = resume, context

    def cancel(self, msg: object = None) -> bool:
        """False if it has been woken already. `msg`: of the CancelledError; anyio tells its own by it."""
        resume = self._resume
        if resume is None:
            return False
        self._resume, self._cancelled, self._message = None, True, msg
        self._box.loop.call_soon(resume, self, context=self._context)
        return True

    def result(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError() if self._message is None else asyncio.CancelledError(self._message)


def _wake(waiting: Awaiter) -> None:
    """Its future is settled. On the loop's thread."""
    resume = waiting._resume
    if resume is not None:
        waiting._resume = None
        waiting._context.run(resume, waiting)


class OnItsLoop(Waiter):
    """A callback of `asyncio.wait`, which knows loops and takes all callbacks to be called on its own."""

    __slots__ = ("_box", "_callback")

    def __init__(self, callback: Callable[[Any], object]) -> None:
        self._box, self._callback = Mailbox.here(), callback
        self.who = -1

    def __call__(self, future: Any) -> None:
        self._box.post(self._callback, future)

    def __eq__(self, other: object) -> bool:
        """So that it can be taken back by its own name."""
        return other is self or other is self._callback

    __hash__ = None  # type: ignore[assignment]


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
            _log.exception("a future was settled, and what follows from that raised")
        self._tell()

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
            if _here.stream:  # as the function below asks, without two calls
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
