"""The naive engine: the same interface, and everything happens at once, in the caller.

The oracle random programs are compared with, and the debugger: a failing operation's traceback leads through the call
that pushed it. Re-entrant: an operation may push others.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from weakref import WeakSet

from headrace.engine.dependencies import Dependencies, Var, accesses
from headrace.engine.finished import Finished, check_poll
from headrace.engine.future import Future
from headrace.engine.guard import Guard
from headrace.engine.here import as_a_stream, refuse_to_wait_on_a_stream
from headrace.engine.operations import check_push, note_where
from headrace.engine.timeouts import check_timeout
from headrace.engine.unseen import Unseen, tell
from headrace.errors import Closed, DeadlineExceeded

_engines: WeakSet[NaiveEngine] = WeakSet()


def _after_fork() -> None:
    """In the child: whoever held a lock is not here to let it go."""
    for engine in list(_engines):
        engine._lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


class NaiveEngine:
    def __init__(self) -> None:
        self._lock = threading.RLock()  # one operation at a time, in the order of the calls
        _engines.add(self)
        self._dependencies: Dependencies[_Operation] = Dependencies()
        self._unseen = Unseen()
        self._guard = Guard()
        self._finished: Finished | None = None
        self._closed = False

    def push(
        self,
        fn: Callable[[], Any],
        *,
        reads: Iterable[Var] = (),
        writes: Iterable[Var] = (),
        priority: float = 0,
        deadline: float | None = None,
    ) -> Future[Any]:
        """As `Engine.push`; the Future has its outcome when the call returns.

        Not so in an operation that holds a Var this one needs: this one follows when that has ended. Whoever waits for
        it in there gets WouldDeadlock, as on a stream.
        """
        check_push(fn, priority, deadline)
        with self._lock:
            if self._closed:
                raise Closed("the engine is closed")
            if deadline is not None and (late := time.monotonic() - deadline) > 0:
                raise DeadlineExceeded(f"the deadline had passed {late:.3f} s before this came")
            try:
                caller = sys._getframe(1)
            except ValueError:  # the first thing a thread does
                caller = sys._getframe()
            operation = _Operation(
                self._guard, fn, accesses(reads, writes), deadline, f"{caller.f_code.co_filename}:{caller.f_lineno}"
            )
            # Not granted: it was pushed by an operation that holds one of its Vars, and follows when that has ended.
            ready = deque([operation] if self._dependencies.push(operation) else [])
            while ready:
                ready.extend(self._run(ready.popleft()))
        return operation.future

    def _run(self, operation: _Operation) -> Sequence[_Operation]:
        if not operation.future.begin():  # cancelled while it waited for the operation that pushed it
            return self._dependencies.abandon(operation)
        value, failure = None, self._failure(operation)
        if failure is None:
            try:
                with as_a_stream():
                    value = operation.function()
            except BaseException as raised:
                failure = raised
                note_where(failure, operation.pushed_at)
        else:
            note_where(failure, operation.pushed_at)
        ready = self._dependencies.complete(operation, failure)
        operation.future.settle(value, failure)
        if failure is not None:
            self._unseen.add(operation.future)
        return ready

    def _failure(self, operation: _Operation) -> BaseException | None:
        """Why the operation is not run; None: it is."""
        if operation.deadline is not None and time.monotonic() > operation.deadline:
            return DeadlineExceeded("the deadline passed before the start")
        return self._dependencies.poison(operation)

    def poll(self, max_n: int | None = None, timeout: float | None = 0.0) -> list[Future[Any]]:
        """As `Engine.poll`."""
        check_poll(max_n, timeout)
        with self._guard.lock:
            if self._finished is None:
                self._finished = Finished(self._guard)
        return self._finished.take(max_n, timeout)

    def waitall(self, timeout: float | None = None) -> None:
        """As `Engine.waitall`."""
        check_timeout(timeout)
        refuse_to_wait_on_a_stream()
        with self._lock:
            unseen = self._unseen.take()
        tell([unseen])

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> NaiveEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Operation:
    __slots__ = ("deadline", "function", "future", "needs", "pushed_at", "reads", "waiting_for", "writes")

    def __init__(
        self,
        guard: Guard,
        function: Callable[[], Any],
        sets: tuple[tuple[Var, ...], tuple[Var, ...], tuple[Var, ...]],
        deadline: float | None,
        pushed_at: str,
    ) -> None:
        self.function, self.deadline, self.pushed_at = function, deadline, pushed_at
        self.reads: Sequence[Var] = sets[0]
        self.writes: Sequence[Var] = sets[1]
        self.needs: Sequence[Var] = sets[2]
        self.waiting_for = 0
        self.future: Future[Any] = Future(guard)
