"""Changes that are done on threads of their own, one after the other for each model, and can be looked up.

Rule 1: what waits is bounded, and refused beyond (Overloaded).
Rule 2: what is asked of one model is done in the order in which it was asked, and does not hold up what is asked of
        others.
Rule 3: each change is an Operation: it can be waited for, and looked up later. A bounded number is kept.
Rule 4: each change leaves one line in the log: who, what, and how it ended.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from headrace.errors import Closed, Overloaded
from headrace.serving.registry import Entry
from headrace.serving.served import Served

MOST_WAITING = 256
THREADS = MOST_WAITING
"""Changes of different models that go on at once: most of them wait for the turn to load, and must not keep others from
a thread."""
KEPT = 1000
"""Operations that can be looked up."""
RUNNING, DONE, FAILED = "running", "done", "failed"
_log = logging.getLogger("headrace.management")


@dataclass(eq=False)
class Operation:
    """One change, asked for and perhaps made. `started`, `ended`: when, as seconds since 1970. `who` asked for it."""

    kind: str
    """register, scale, change, set-default, unregister, load, unload, reload."""
    model: str | None
    """None: not known before it was located."""
    version: str | None
    who: str
    detail: str = ""
    """What else was asked: the url, how many workers. Of settings that were changed: from what, to what."""
    changed: dict[str, dict[str, Any]] | None = None
    """The same, of settings, once they are."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: str = RUNNING
    error: BaseException | None = None
    entry: Entry[Served] | None = None
    started: float = field(default_factory=time.time)
    ended: float | None = None
    future: Future[Any] = field(default_factory=Future, repr=False)
    """Of what the change gives."""
    known: Future[None] = field(default_factory=Future, repr=False)
    """Settled once nothing is wrong with what was asked (a model is registered, and about to be loaded); or fails."""


@dataclass(eq=False)
class _Job:
    operation: Operation
    key: str
    """Jobs of one key run one after the other."""
    work: Callable[[], Any]


class Operations:
    def __init__(self, threads: int = THREADS, most_waiting: int = MOST_WAITING) -> None:
        self._threads, self._most = threads, most_waiting
        self._told = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._busy: set[str] = set()
        self._alive = self._idle = 0
        self._closed = False
        self._kept: OrderedDict[str, Operation] = OrderedDict()

    def begin(self, operation: Operation, work: Callable[[], Any], key: str | None = None) -> Operation:
        """Have `work` done on a thread, in the turn of `key` (None: of its model). Overloaded, Closed."""
        operation.known.set_running_or_notify_cancel()
        operation.future.set_running_or_notify_cancel()  # nobody who stops waiting for it cancels it
        with self._told:
            if self._closed:
                raise Closed("the server is stopping")
            if len(self._waiting) >= self._most:
                raise Overloaded(len(self._waiting), self._most, "changes of models")
            self._waiting.append(_Job(operation, key or operation.model or "", work))
            self._keep(operation)
            if len(self._waiting) > self._idle and self._alive < self._threads:
                self._alive += 1
                # Daemons: a load that never ends must not keep the server from ending.
                threading.Thread(target=self._live, name=f"headrace-management-{self._alive}", daemon=True).start()
            else:
                self._told.notify()
        return operation

    def find(self, id: str) -> Operation | None:
        return self._kept.get(id)

    def newest_first(self) -> list[Operation]:
        """The newest first."""
        with self._told:
            return list(reversed(self._kept.values()))

    def close(self, timeout: float | None = None) -> bool:
        """No more changes: what has not begun is refused. False if one that has did not end within `timeout`
        seconds."""
        with self._told:
            self._closed = True
            refused, self._waiting = self._waiting, deque()
            self._told.notify_all()
        for job in refused:
            self._end(job.operation, None, Closed("the server is stopping"))
        with self._told:
            return self._told.wait_for(lambda: not self._alive, timeout)

    def _keep(self, operation: Operation) -> None:
        self._kept[operation.id] = operation
        while len(self._kept) > KEPT:
            # What still runs is kept: somebody may be following it. There are less of them than KEPT.
            gone = next(id for id, each in self._kept.items() if each.state != RUNNING)
            del self._kept[gone]

    def _live(self) -> None:
        while (job := self._next()) is not None:
            operation = job.operation
            result, error = None, None
            try:
                result = job.work()
            except BaseException as raised:
                error = raised
            with self._told:
                self._busy.discard(job.key)
                self._told.notify_all()
            self._end(operation, result, error)
            del job, operation, result, error  # while it waits it keeps nothing

    def _next(self) -> _Job | None:
        """The first job of a model that nobody is changing; None: no more will come."""
        with self._told:
            while True:
                for at, job in enumerate(self._waiting):
                    if job.key not in self._busy:
                        del self._waiting[at]
                        self._busy.add(job.key)
                        return job
                if self._closed:
                    self._alive -= 1
                    self._told.notify_all()
                    return None
                self._idle += 1
                self._told.wait()
                self._idle -= 1

    def _end(self, operation: Operation, result: Any, error: BaseException | None) -> None:
        operation.ended = time.time()
        if isinstance(result, Entry):
            operation.entry, operation.model, operation.version = result, result.name, result.version
        what = f"{operation.kind} {operation.model or '?'}:{operation.version or 'default'}"
        what += f" ({operation.detail})" if operation.detail else ""
        took = operation.ended - operation.started
        if error is None:
            operation.state = DONE
            _log.info("%s by %s: done after %.2f s", what, operation.who or "the server", took)
            know(operation, None)
            operation.future.set_result(result)
        else:
            _let_go_of_frames(error)
            operation.error, operation.state = error, FAILED
            why = " ".join(str(error).split())  # it may have line breaks of a runtime's
            _log.warning("%s by %s: failed after %.2f s: %.500s", what, operation.who or "the server", took, why)
            if not operation.known.done():
                operation.known.set_exception(error)
            operation.future.set_exception(error)


def know(operation: Operation, entry: Entry[Served] | None) -> None:
    """Nothing is wrong with what was asked; it is `entry`, if that is known."""
    if entry is not None:
        operation.model, operation.version = entry.name, entry.version
    if not operation.known.done():
        operation.known.set_result(None)


def _let_go_of_frames(error: BaseException) -> None:
    """An operation is kept for long; what a failed load had in hand is not."""
    there: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is not None and one not in there:  # nothing forbids a circle
            there.append(one)
            one.__traceback__ = None
            todo += [one.__cause__, one.__context__]
