"""Something of a model that can take a batch: here, a Session in this process.

Rule 1: every request gets an outcome of its own; `run` raises nothing.
Rule 2: one bad request in a batch fails alone: when a joined run fails, its members are run one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from headrace.backends.base import Session, Stop
from headrace.errors import HeadraceError
from headrace.model.failure import failure_of
from headrace.model.joining import join, split, split_list
from headrace.model.pending import Pending


class Instance(Protocol):
    stoppable: bool
    """Whether `run` heeds its `stop`."""
    kill: Callable[[Any], object]
    """Has the run that left a `handle` in its Stop end soon."""

    def run(self, batch: list[Pending], stop: Stop | None = None) -> None:
        """Give each request its `outcome` (the list of outputs) or its `failure`."""

    def run_one(self, request: Pending, stop: Stop | None) -> None:
        """As `run`, of one."""

    def close(self) -> None: ...


class LocalInstance:
    """A Session in this process. `in_lists`: a callable that is given a list of requests, and returns a list."""

    def __init__(self, session: Session, in_lists: bool = False) -> None:
        self._session = session
        self._run_joined: Callable[[list[Pending], Stop | None], list[Any]]
        self._run_joined = self._as_list if in_lists else self._as_rows
        self._in_lists = in_lists
        self.stoppable = getattr(session, "stoppable", False)
        if self.stoppable:
            self.kill = session.stop  # type: ignore[attr-defined]

    def run(self, batch: list[Pending], stop: Stop | None = None) -> None:
        if len(batch) == 1:
            self.run_one(batch[0], stop)
            return
        try:
            answers = self._run_joined(batch, stop)
        except BaseException as error:
            for request in batch:
                if request._done:  # it was cancelled meanwhile, perhaps to stop this very run
                    request.failure = failure_of("raised", error)
                else:
                    self.run_one(request, stop)
            return
        for request, answer in zip(batch, answers):
            _give(request, answer)

    def close(self) -> None:
        self._session.close()

    def run_one(self, request: Pending, stop: Stop | None) -> None:
        try:
            if self._in_lists:
                _give(request, self._as_list([request], stop)[0])
            elif stop is not None:
                request.outcome = self._session.run(request.inputs, request.names, stop)
            else:
                request.outcome = self._session.run(request.inputs, request.names)
        except HeadraceError as error:  # a callable may say itself what is wrong: InvalidInput, Overloaded
            request.failure = error
        except BaseException as error:  # also SystemExit: it must end the request, not the stream
            request.failure = failure_of("raised", error)

    def _as_rows(self, batch: list[Pending], stop: Stop | None) -> list[Any]:
        inputs = join([request.inputs for request in batch])
        outputs = self._session.run(inputs) if stop is None else self._session.run(inputs, None, stop)
        return split(outputs, [request.rows for request in batch])

    def _as_list(self, batch: list[Pending], stop: Stop | None) -> list[Any]:
        answer = self._session.run(([request.inputs[0] for request in batch],))[0]
        return [part if isinstance(part, BaseException) else [part] for part in split_list(answer, len(batch))]


def _give(request: Pending, answer: Any) -> None:
    """An exception in the place of an answer is that request's error."""
    if isinstance(answer, HeadraceError):
        request.failure = answer
    elif isinstance(answer, BaseException):
        request.failure = failure_of("answered with", answer)
    else:
        request.outcome = answer
