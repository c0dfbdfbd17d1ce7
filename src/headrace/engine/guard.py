"""What the futures of one engine share: its lock, who is told of their ends, and the traces of it.

Rule 1: the lock is held for a few assignments, never across a callback, a wake-up or a wait.
Rule 2: it is re-entrant, for finalisers and signal handlers. They may do what takes it; they may not wait.
Rule 3: a forked child has locks of its own, and no streams: it is told so (FORKED).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from headrace.engine.events import READ
from headrace.engine.trace import Several, Trace
from headrace.errors import WouldDeadlock

if TYPE_CHECKING:
    from headrace.engine.future import Future

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


def _after_fork() -> None:
    """In the child: whoever held a lock is not here to let it go."""
    for guard in list(_guards):
        guard.lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


def refuse_to_wait_inside(guard: Guard) -> None:
    """WouldDeadlock where this thread holds the engine's lock: in a finaliser or a signal handler that has come between
    two steps of the engine."""
    if guard.lock._is_owned():  # type: ignore[attr-defined]  # what threading.Condition asks a lock, too
        raise WouldDeadlock(
            "this code runs in a finaliser or a signal handler, in the middle of a step of the engine: waiting for the "
            "engine here could never end"
        )
