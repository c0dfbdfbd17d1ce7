"""Operations: functions with reads and writes; and the Source that hands them to streams.

Rule 1: an operation enters the ready queue when everything it waits for has ended, not before.
Rule 2: what is not run ends all the same, exactly once. Cancelled: its Vars stay as they were. Late, or with a poisoned
        input: what it was to write is poisoned, because whoever reads that must not take old data for new.
Rule 3: a cancelled operation gives its room back at once and stays where it is queued, a tombstone. When there are
        TOMBSTONES of them all are taken out, so that pushing and cancelling behind something stuck stays bounded.
Rule 4: `OperationSource` is called with the engine's lock held, and so is `Operation.complete`: who leaves the engine,
        what it leaves in its Vars and what may start now are one step. It runs, and tells whoever waits, outside it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

from headrace.engine.admission import Budget
from headrace.engine.dependencies import APPENDING, Dependencies, Var, behind
from headrace.engine.forgetting import Forgetting
from headrace.engine.future import Future
from headrace.engine.ready_queue import ReadyQueue
from headrace.engine.source import Refused, Work
from headrace.engine.timeouts import is_number, shown
from headrace.errors import Cancelled, Closed, DeadlineExceeded, Overloaded
from headrace.sizes import nbytes_of

TOMBSTONES = 256
MOST_NAMES = 4096
_names: dict[tuple[int, int], tuple[CodeType, str]] = {}
"""What `Operation.name` has found out. Holds the code, so that no other code can come to have its id."""


def check_push(function: object, priority: object, deadline: object) -> None:
    """TypeError for what cannot be pushed. Later it would be found with a lock held, where nothing may raise."""
    if not callable(function):
        raise TypeError(f"push takes a function without arguments, not {type(function).__name__}")
    if not is_number(priority):
        raise TypeError(f"priority is a number, not {shown(priority)}")
    if deadline is not None and not is_number(deadline):
        raise TypeError(f"deadline is a number of seconds, or None, not {shown(deadline)}")


def note_where(error: BaseException, pushed_at: str) -> None:
    """Have `error` name the line that pushed the operation it is of. Once: several may raise the same object."""
    note = f"in an operation pushed at {pushed_at}"
    with contextlib.suppress(Exception):  # an error may be frozen, or have notes of its own kind
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)


class Operation(Future[Any]):
    """A function the engine runs once its reads and writes are granted; and the Future of what it returns."""

    __slots__ = (
        "_code", "_failure", "_function", "_gave", "_instruction", "_source", "deadline", "held", "nbytes", "needs",
        "priority", "queued_at", "reads", "waiting_for", "who", "writes",
    )  # fmt: skip

    reads: Sequence[Var]
    writes: Sequence[Var]
    needs: Sequence[Var]
    queued_at: float  # seconds: when it could have started
    who: object  # where bytes are bounded: the thread or task that pushed it

    def __init__(
        self,
        function: Callable[[], Any],
        sets: tuple[Sequence[Var], Sequence[Var], Sequence[Var]],
        priority: float,
        deadline: float | None,
        source: OperationSource,
        code: CodeType,
        instruction: int,
    ) -> None:
        """`sets`: (reads, writes, needs), from `dependencies.accesses`. `code`, `instruction`: who pushed it."""
        # As Future.__init__, without the call: this is the hot path.
        self._guard = source.budget.guard
        self._done = self._begun = self._seen = False
        self._gave = 0
        self._error = self._failure = None  # what the function raised is no outcome yet: it may be cancelled meanwhile
        self._callbacks = None
        self.reads, self.writes, self.needs = sets
        self.priority = priority
        self.deadline = deadline
        self.held = False
        self.nbytes = 0
        self.waiting_for = APPENDING
        self._function: Callable[[], Any] | None = function
        self._source = source
        self._code = code
        self._instruction = instruction

    _failure: BaseException | None
    _gave: int  # bytes of its value, where bytes are bounded

    def run(self) -> None:
        if self._done:  # cancelled while its stream had it in hand
            return
        function = self._function
        assert function is not None, "an operation runs once"
        self._function = None
        try:
            self._value = function()
            if self._source.budget.max_bytes is not None:  # here: a value's own code may say how large it is
                self._gave = nbytes_of((self._value,))
        except BaseException as error:  # also SystemExit: it is for whoever reads the Future, not for the stream
            note_where(error, self.pushed_at)
            self._failure = error

    def complete(self, now: float) -> None:
        source, failure = self._source, self._failure
        budget = source.budget
        self._ended_at = now
        if not self._done:  # else it was cancelled while it ran, or before it could
            if failure is None:
                self._done = True
            else:
                self._failure = None
                self._fail(failure)
            if self._guard.finished is not None:
                self._guard.finished.note(self)
        if self.nbytes or budget.crowded or budget.max_bytes is not None:
            budget.leave(self, 0 if budget.max_bytes is None or self._error is not None else self._gave)
        elif self.held:  # as `leave`, without the call
            self.held = False
            budget.inside -= 1
        if failure is not None:
            source.counts.failed += 1
        if self._function is None:
            ready = source.dependencies.complete(self, failure)
        else:
            source.counts.cancelled += 1
            source.counts.skipped += 1
            ready = source.dependencies.abandon(self)
        for next_one in ready:
            source.ready.add(next_one, now)

    def deliver(self) -> None:
        # A kept Future must not keep these alive. Not let go of before: what they hold may have finalisers, which are
        # somebody else's code, and must not run with the lock held.
        if self._error is not None:
            self._value = None
        self._function = None
        self.reads = self.writes = self.needs = ()
        if self._callbacks is not None:
            self._tell()

    def futures(self) -> Iterator[Future[Any]]:
        yield self

    @property
    def name(self) -> str:
        """The line that pushed it, short. Remembered: a trace asks for it with every run."""
        key = (id(self._code), self._instruction)
        known = _names.get(key)
        if known is None:
            if len(_names) >= MOST_NAMES:
                _names.clear()
            known = _names[key] = (self._code, self.pushed_at.rpartition("/")[2])
        return known[1]

    @property
    def pushed_at(self) -> str:
        """The line that pushed it."""
        lines = (line for begin, end, line in self._code.co_lines() if begin <= self._instruction < end)
        return f"{self._code.co_filename}:{next(lines, None) or self._code.co_firstlineno}"

    @property
    def is_queued(self) -> bool:
        return not self._begun and not self._done

    def _fail(self, error: BaseException) -> None:
        self._mark(None, error)
        self._source.on_failure(self)

    def _settled(self) -> None:
        """Not run, or cancelled: `complete` settles the others by itself."""
        source = self._source
        if self._begun:  # it runs: it is inside until it ends, and `complete` lets it go
            return
        self._function = None
        if self.cancelled() or isinstance(self._error, Overloaded):  # Overloaded: it was shed
            source.tombstones.append(self)
        if self._error is not None and not self.cancelled():
            # First the error, then the room: `waitall`, which waits for nobody to be inside, must find every error.
            source.on_failure(self)
        # Before anybody hears of the outcome: whoever then pushes the next operation must find the room.
        source.budget.release(self)


@dataclass(slots=True)
class OperationCounts:
    """Changed with the engine's lock held."""

    pushed: int = 0
    failed: int = 0
    cancelled: int = 0
    late: int = 0
    poisoned: int = 0
    refused: int = 0
    skipped: int = 0
    """Of those that were cancelled, a stream had them in hand: they are among its runs."""


class OperationSource:
    """The engine's operations, as streams pull them."""

    def __init__(self, on_failure: Callable[[Future[Any]], object], budget: Budget) -> None:
        self.on_failure, self.budget = on_failure, budget
        self.counts = OperationCounts()
        self.dependencies: Dependencies[Operation] = Dependencies()
        self.ready: ReadyQueue[Operation] = ReadyQueue()
        self._abandoned: BaseException | None = None
        self.tombstones: deque[Operation] = deque()
        """Cancelled and perhaps still queued. Appended to without the lock, which `deque` allows."""

    def add(self, operation: Operation, now: float) -> None:
        if len(self.tombstones) >= TOMBSTONES:
            self._sweep(now)
        try:
            may_start = self.dependencies.push(operation)
            self.counts.pushed += 1
            if may_start:
                self.ready.add(operation, now)
        except BaseException:
            if operation.waiting_for != APPENDING:  # interrupted after it was appended: it leaves as a cancelled one
                operation.end(error=Cancelled("its push was interrupted"))
                self.tombstones.append(operation)
                if not operation.waiting_for and operation not in self.ready:
                    self.ready.add(operation, now)
            raise

    def __len__(self) -> int:
        """How many could start now, tombstones included."""
        return len(self.ready)

    def batches(self, now: float, busy: bool) -> int:
        return len(self.ready)

    def is_empty(self) -> bool:
        return not self.ready

    def next_deadline(self) -> None:
        return None

    def pull(self, now: float, busy: bool, stream: int, refused: Refused) -> Operation | None:
        ready = self.ready
        while (operation := ready.pop()) is not None:
            # First this, then the look: a finaliser may cancel it in between, and whichever comes second lets it go.
            operation._begun = True
            if operation._done:
                self.budget.leave(operation)
                if isinstance(operation._error, Closed):  # `refuse_behind` did it: what it was to write is not written
                    self._release(operation, self.dependencies.complete(operation, operation._error), now)
                    continue
                self.counts.cancelled += 1
                self._release(operation, self.dependencies.abandon(operation), now)
                continue
            may_not = operation.deadline is not None or self._abandoned is not None
            for var in operation.needs:
                if var.error is not None:
                    may_not = True
            if may_not:
                error = self._why_not(operation, now)
                if error is not None:
                    note_where(error, operation.pushed_at)
                    refused.append((operation, error))
                    operation._begun = False
                    if operation.can_read():  # cancelled meanwhile
                        self.budget.leave(operation)
                    self._release(operation, self.dependencies.complete(operation, error), now)
                    continue
            return operation
        return None

    def put_back(self, works: Sequence[Operation], pulled_at: float) -> Sequence[Operation]:
        waiting = [operation for operation in works if not operation._done]
        for operation in waiting:
            operation._begun = False
        self.ready.put_back(waiting)
        return [operation for operation in works if operation._done]

    def abandon(self, error: BaseException) -> None:
        self._abandoned = error

    def refuse_behind(self, running: Iterable[Work], refused: Refused) -> None:
        operations = [future for work in running for future in work.futures() if isinstance(future, Operation)]
        for operation in behind([*operations, *self.ready]):
            if not operation._done:
                error = self._why_not(operation, 0.0)
                assert error is not None, "it was abandoned"
                note_where(error, operation.pushed_at)
                refused.append((operation, error))

    def waiting(self) -> Iterator[Operation]:
        """Those that could start, in no order."""
        return iter(self.ready)

    def _why_not(self, operation: Operation, now: float) -> BaseException | None:
        """Why the operation must not run; None: it may."""
        if self._abandoned is not None:
            self.counts.refused += 1
            return type(self._abandoned)(*self._abandoned.args)
        if operation.deadline is not None and now > operation.deadline:
            self.counts.late += 1
            return DeadlineExceeded(f"the deadline passed {now - operation.deadline:.3f} s before the start")
        poison = self.dependencies.poison(operation)
        if poison is not None:
            self.counts.poisoned += 1
        return poison

    def _sweep(self, now: float) -> None:
        """Take out those that were cancelled. Whatever a signal's handler raises, it is done or nothing has changed."""
        sweep = _Sweep(self, now)
        try:
            sweep.carry_out()
        except BaseException:
            sweep.carry_out()
            raise

    def _release(self, operation: Operation, ready: Sequence[Operation], now: float) -> None:
        operation.reads = operation.writes = operation.needs = ()
        for next_one in ready:
            self.ready.add(next_one, now)


class _Sweep:
    """The cancelled operations of `source` are taken out: found first, then carried out, as a `Forgetting` is."""

    def __init__(self, source: OperationSource, now: float) -> None:
        self._source = source
        gone = dict.fromkeys(list(source.tombstones))  # `list`: others may append meanwhile, and not in the midst of it
        self._tombstones = gone
        ready = source.ready.copy()
        self._gone = ready.sweep(gone.__contains__)
        self._gone += [operation for operation in gone if operation.waiting_for > 0]
        self._forgetting = Forgetting(self._gone)
        for next_one in self._forgetting.ready:
            ready.add(next_one, now)
        self._ready = ready
        self._cancelled = source.counts.cancelled + len(self._gone)

    def carry_out(self) -> None:
        """Done again from its start it does no harm."""
        source = self._source
        self._forgetting.carry_out()
        source.ready = self._ready
        source.counts.cancelled = self._cancelled
        for operation in self._gone:
            operation.reads = operation.writes = operation.needs = ()
        while source.tombstones and source.tombstones[0] in self._tombstones:
            source.tombstones.popleft()
