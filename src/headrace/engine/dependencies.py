"""Read/write dependencies between operations.

Rule 1: operations on one Var start in the order they were pushed.
Rule 2: readers of a Var run together; a writer runs alone.
Rule 3: an operation is appended to all of its Vars in one call, and the caller holds one lock over the call. Appending
        Var by Var, under a lock for each Var, lets two pushes make a cycle that waits for ever (MXNet's engine did).
Rule 4: an error is sticky. A Var whose writer failed is poisoned: what reads it is not run and fails in its turn,
        until an operation that writes it without reading it succeeds.
Rule 5: no threads, clocks or devices here. The engine says what happened (`push`, `complete`); we answer with what may
        start now.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from headrace.errors import InvalidOption, PoisonedVar

APPENDING = -1
"""What an operation waits for while it is being appended to its Vars."""


class Var:
    """Something operations read and write: weights, state, an array. Changed only by `Dependencies`.

    `version` counts the writes that succeeded. `error` is what the last writer raised, or None.
    """

    __slots__ = ("_owner", "_queue", "_readers", "_writing", "error", "name", "version")

    def __init__(self, name: str | None = None) -> None:
        """`name`: what errors and dumps call it. TypeError for what is no text: a Var holds no value."""
        if name is not None and not isinstance(name, str):
            raise TypeError(f"a Var is given a name, or nothing, not a {type(name).__name__}; it does not hold values")
        self.name = name
        self.version = 0
        self.error: BaseException | None = None
        # Waiting accesses, oldest first: (operation, writes?). Made when the first one has to wait: there may be a Var
        # for every array, and an empty deque is 600 bytes.
        self._queue: deque[tuple[Node, bool]] | None = None
        self._owner: Dependencies[Any] | None = None  # whose lock guards it: one engine's
        self._readers = 0  # how many readers run now
        self._writing = False  # whether a writer runs now

    def _wait(self, op: Node, write: bool) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append((op, write))

    def __repr__(self) -> str:
        state = "poisoned" if self.error is not None else "ok"
        return f"<Var {self.name or hex(id(self))} version {self.version} {state}>"


class Node(Protocol):
    """What `Dependencies` needs to know of an operation. `reads` and `writes` are disjoint and without duplicates."""

    reads: Sequence[Var]
    writes: Sequence[Var]
    needs: Sequence[Var]  # every Var whose value it uses: `reads`, and those it both reads and writes
    waiting_for: int


def accesses(reads: Iterable[Var], writes: Iterable[Var]) -> tuple[tuple[Var, ...], tuple[Var, ...], tuple[Var, ...]]:
    """(reads, writes, needs) of an operation: duplicates dropped, a Var in both is one write that also needs the value.

    Raises TypeError for what is not a Var.
    """
    try:
        reads, writes = tuple(reads), tuple(writes)
    except TypeError as error:
        raise TypeError("reads and writes take several Vars: reads=[a], writes=[b]") from error
    alone = True
    for var in reads:
        if var.__class__ is not Var and not isinstance(var, Var):
            raise TypeError(f"reads and writes take Vars, not {type(var).__name__}: {var!r}")
    for var in writes:
        if var.__class__ is not Var and not isinstance(var, Var):
            raise TypeError(f"reads and writes take Vars, not {type(var).__name__}: {var!r}")
        if var in reads:
            alone = False
    if alone and _distinct(reads) and _distinct(writes):  # a set would cost more than the rest, and few need one
        return reads, writes, reads
    needs, writes = tuple(dict.fromkeys(reads)), tuple(dict.fromkeys(writes))
    written = set(writes)
    return tuple(var for var in needs if var not in written), writes, needs


def _distinct(variables: tuple[Var, ...]) -> bool:
    count = len(variables)
    if count < 2:
        return True
    if count == 2:
        return variables[0] is not variables[1]
    return len(set(variables)) == count


N = TypeVar("N", bound=Node)


def behind(granted: Iterable[N]) -> list[N]:
    """All operations that wait for a Var. Each stands behind one that holds it, or behind one that does so."""
    found: dict[N, None] = {}
    look_at = list(granted)
    seen: set[Var] = set()
    while look_at:
        operation = look_at.pop()
        for var in (*operation.reads, *operation.writes):
            if var not in seen:
                seen.add(var)
                for waiting, _ in var._queue or ():
                    found[waiting] = None  # type: ignore[index]  # a Var's queue holds what `push` put there: N
                    look_at.append(waiting)  # type: ignore[arg-type]
    return list(found)


class Dependencies(Generic[N]):
    """Who waits for whom. All state is in the Vars and in each operation's `waiting_for`."""

    def push(self, op: N) -> bool:
        """Append `op` to all of its Vars. True if it may start now.

        InvalidOption, and nothing changed, if another engine is at work on one of them. Nothing is changed either if it
        is interrupted (Ctrl-C comes between any two steps).
        """
        for var in op.reads:
            if var._owner is not self:
                self._adopt(var)
        for var in op.writes:
            if var._owner is not self:
                self._adopt(var)
        op.waiting_for = APPENDING
        waiting = done = 0
        try:
            for var in op.reads:
                if var._writing or var._queue:
                    var._wait(op, False)
                    waiting += 1
                else:
                    var._readers += 1
                done += 1
            for var in op.writes:
                if var._writing or var._readers or var._queue:
                    var._wait(op, True)
                    waiting += 1
                else:
                    var._writing = True
                done += 1
        except BaseException:
            self._take_back(op, done)
            raise
        op.waiting_for = waiting
        return not waiting

    def complete(self, op: N, error: BaseException | None = None) -> Sequence[N]:
        """`op` has ended: with `error`, or well. What may start now, in the order it was pushed to each Var."""
        ready: list[N] | None = None  # made when there is something to put in: most operations release nobody
        for var in op.reads:
            var._readers -= 1
            if var._queue:
                self._start(var, ready := ready or [])
        for var in op.writes:
            var._writing = False
            var.error = error
            if error is None:
                var.version += 1
            if var._queue:
                self._start(var, ready := ready or [])
        return ready or ()

    def abandon(self, op: N) -> list[N]:
        """`op` was cancelled before it ran: its Vars stay as they were. What may start now."""
        ready: list[N] = []
        for var in op.reads:
            var._readers -= 1
            self._start(var, ready)
        for var in op.writes:
            var._writing = False
            self._start(var, ready)
        return ready

    def _adopt(self, var: Var) -> None:
        if var._owner is not None and (var._readers or var._writing or var._queue):
            raise InvalidOption(
                f"{var} is in use by another engine: one Var can be guarded by one engine at a time. Wait until that "
                "one is done with it, or give each its own"
            )
        var._owner = self

    @staticmethod
    def _take_back(op: N, done: int) -> None:
        """`op` was appended to `done` of its Vars, and perhaps stands in the queue of the next: nobody else could
        append meanwhile, so it is the last there."""
        accesses = [*((var, False) for var in op.reads), *((var, True) for var in op.writes)]
        for var, write in accesses[: done + 1]:
            if var._queue and var._queue[-1][0] is op:
                var._queue.pop()
            elif done <= 0:
                return
            elif write:
                var._writing = False
            else:
                var._readers -= 1
            done -= 1

    @staticmethod
    def poison(op: Node) -> PoisonedVar | None:
        """The error that keeps `op` from running, once everything it waits for has ended. None if there is none."""
        for var in op.needs:
            if var.error is not None:
                origin = var.error.origin if isinstance(var.error, PoisonedVar) else var.error
                poisoned = PoisonedVar(var.name or "(a Var without a name)", origin)
                poisoned.__cause__ = origin
                return poisoned
        return None

    @staticmethod
    def _start(var: Var, ready: list[N]) -> None:
        queue = var._queue
        while queue and not var._writing:
            op, write = queue[0]
            if write and var._readers:
                return
            queue.popleft()
            if write:
                var._writing = True
            else:
                var._readers += 1
            op.waiting_for -= 1
            if not op.waiting_for:
                ready.append(op)  # type: ignore[arg-type]  # a Var's queue holds what `push` put there: N
