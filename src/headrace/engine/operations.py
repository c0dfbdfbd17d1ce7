"""Operations: functions with reads and writes; and the Source that hands them to streams.

Rule 1: an operation enters the ready queue when everything it waits for has ended, not before.
Rule 2: what is not run ends all the same, exactly once. Cancelled: its Vars stay as they were. Late, or with a poisoned
        input: what it was to write is poisoned, because whoever reads that must not take old data for new.
Rule 3: a cancelled operation gives its room back at once and stays where it is queued, a tombstone. When there are
        TOMBSTONES of them all are taken out, so that pushing and cancelling behind something stuck stays bounded.
Rule 4: `OperationSource` is called with the engine's lock held; an Operation runs and delivers outside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from numbers import Real
from typing import Any

from headrace.engine.admission import Permit
from headrace.engine.dependencies import Dependencies, Var
from headrace.engine.future import Future
from headrace.engine.ready_queue import ReadyQueue
from headrace.engine.source import Refused
from headrace.errors import DeadlineExceeded

TOMBSTONES = 256


def check_push(function: object, priority: object, deadline: object) -> None:
    """TypeError for what cannot be pushed. Later it would be found with a lock held, where nothing may raise."""
    if not callable(function):
        raise TypeError(f"push takes a function without arguments, not {type(function).__name__}")
    if type(priority) is not int and not _is_number(priority):
        raise TypeError(f"priority is a number, not {priority!r}")
    if deadline is not None and not _is_number(deadline):
        raise TypeError(f"deadline is a number of seconds, or None, not {deadline!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and value == value  # NaN would leave a heap without an order


class Operation(Future[Any]):
    """A function the engine runs once its reads and writes are granted; and the Future of what it returns."""

    __slots__ = (
        "_ended", "_failure", "_function", "_outcome", "_permit", "_source", "deadline", "needs", "priority", "reads",
        "waiting_for", "writes",
    )  # fmt: skip

    def __init__(
        self,
        function: Callable[[], Any],
        sets: tuple[tuple[Var, ...], tuple[Var, ...], tuple[Var, ...]],
        priority: float,
        deadline: float | None,
        permit: Permit,
        source: OperationSource,
    ) -> None:
        """`sets`: (reads, writes, needs), from `dependencies.accesses`."""
        super().__init__()
        self.reads, self.writes, self.needs = sets
        self.priority, self.deadline = priority, deadline
        self.waiting_for = 0
        self._function: Callable[[], Any] | None = function
        self._permit, self._source = permit, source
        self._ended = False
        self._outcome: Any = None
        self._failure: BaseException | None = None

    def run(self) -> None:
        function, self._function = self._function, None
        assert function is not None, "an operation runs once"
        try:
            self._outcome = function()
        except BaseException as error:  # also SystemExit: it is for whoever reads the Future, not for the stream
            self._failure = error

    def complete(self, now: float) -> None:
        self._source.completed(self, self._failure)

    def deliver(self) -> None:
        outcome, failure = self._outcome, self._failure
        self._outcome = self._failure = None
        self._ended = True
        if not self.settle(outcome, failure):  # cancelled while it ran: only now is it out
            self._permit.release()

    def _settled(self) -> None:
        # First the error, then the permit: `waitall`, which waits for permits, must find every error.
        if self._error is not None and not self.cancelled():
            self._source.on_failure(self)
        if not self._begun:
            self._function = None
            if self.cancelled():
                self._source.tombstones.append(self)
        if self._ended or not self._begun:  # else it was cancelled while it runs, and `deliver` gives the permit back
            # Before anybody hears of the outcome: whoever then pushes the next operation must find the room.
            self._permit.release()


class OperationSource:
    """The engine's operations, as streams pull them."""

    def __init__(self, on_failure: Callable[[Future[Any]], None]) -> None:
        self.on_failure = on_failure
        self._dependencies: Dependencies[Operation] = Dependencies()
        self._ready: ReadyQueue[Operation] = ReadyQueue()
        self._abandoned: BaseException | None = None
        self.tombstones: deque[Operation] = deque()
        """Cancelled and perhaps still queued. Appended to without the lock, which `deque` allows."""

    def add(self, operation: Operation, now: float) -> None:
        if len(self.tombstones) >= TOMBSTONES:
            self._sweep()
        if self._dependencies.push(operation):
            self._ready.add(operation, operation.priority)

    def batches(self, now: float, busy: bool) -> int:
        return len(self._ready)

    def is_empty(self) -> bool:
        return not self._ready

    def next_deadline(self) -> None:
        return None

    def pull(self, now: float, busy: bool, stream: int, refused: Refused) -> Operation | None:
        while self._ready:
            operation = self._ready.pop()
            error = self._abandoned
            if error is None and operation.deadline is not None and now > operation.deadline:
                error = DeadlineExceeded(f"the deadline passed {now - operation.deadline:.3f} s before the start")
            if error is None and operation.needs:
                error = self._dependencies.poison(operation)
            if error is not None and not operation.cancelled():
                refused.append((operation, error))
                self.completed(operation, error)
            elif operation.begin():
                return operation
            else:
                self._release(operation, self._dependencies.abandon(operation))
        return None

    def abandon(self, error: BaseException) -> None:
        self._abandoned = error

    def completed(self, operation: Operation, error: BaseException | None) -> None:
        self._release(operation, self._dependencies.complete(operation, error))

    def _sweep(self) -> None:
        cancelled = dict.fromkeys(self.tombstones.popleft() for _ in range(len(self.tombstones)))
        for operation in self._ready.sweep(cancelled.__contains__):
            self._release(operation, self._dependencies.abandon(operation))
        for next_one in self._dependencies.forget(cancelled):
            self._ready.add(next_one, next_one.priority)
        for operation in cancelled:
            operation.reads = operation.writes = operation.needs = ()

    def _release(self, operation: Operation, ready: list[Operation]) -> None:
        operation.reads = operation.writes = operation.needs = ()  # a kept Future must not keep Vars alive
        for next_one in ready:
            self._ready.add(next_one, next_one.priority)
