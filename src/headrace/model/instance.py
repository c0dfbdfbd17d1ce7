"""Something of a model that can take a batch: here, a Session in this process.

Rule 1: every request gets an outcome of its own; `run` raises nothing.
Rule 2: one bad request in a batch fails alone: when a joined run fails, its members are run one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from headrace.backends.base import Session
from headrace.errors import BackendError, HeadraceError
from headrace.model.joining import join, split, split_list
from headrace.model.pending import Pending


@dataclass(slots=True)
class Outcome:
    value: Any = None
    error: BaseException | None = None


class Instance(Protocol):
    def run(self, batch: list[Pending]) -> list[Outcome]:
        """One outcome for each request, in order."""

    def close(self) -> None: ...


class LocalInstance:
    """A Session in this process. `in_lists`: a callable that is given a list of requests, and returns a list."""

    def __init__(self, session: Session, in_lists: bool = False) -> None:
        self._session = session
        self._run_joined: Callable[[list[Pending]], list[Any]] = self._as_list if in_lists else self._as_rows
        self._in_lists = in_lists

    def run(self, batch: list[Pending]) -> list[Outcome]:
        if len(batch) == 1:
            return [self._alone(batch[0])]
        try:
            return [_outcome(answer) for answer in self._run_joined(batch)]
        except BaseException:
            return [self._alone(request) for request in batch]

    def close(self) -> None:
        self._session.close()

    def _alone(self, request: Pending) -> Outcome:
        try:
            if self._in_lists:
                return _outcome(self._as_list([request])[0])
            return Outcome(self._session.run(request.inputs, request.names))
        except HeadraceError as error:  # a callable may say itself what is wrong: InvalidInput, Overloaded
            return Outcome(error=error)
        except BaseException as error:  # also SystemExit: it must end the request, not the stream
            return Outcome(error=_failure("raised", error))

    def _as_rows(self, batch: list[Pending]) -> list[Any]:
        outputs = self._session.run(join([request.inputs for request in batch]))
        return split(outputs, [request.rows for request in batch])

    def _as_list(self, batch: list[Pending]) -> list[Any]:
        answer = self._session.run(([request.inputs[0] for request in batch],))[0]
        return [part if isinstance(part, BaseException) else [part] for part in split_list(answer, len(batch))]


def _outcome(answer: Any) -> Outcome:
    """An exception in the place of an answer is that request's error."""
    if isinstance(answer, HeadraceError):
        return Outcome(error=answer)
    if isinstance(answer, BaseException):
        return Outcome(error=_failure("answered with", answer))
    return Outcome(answer)


def _failure(what: str, error: BaseException) -> BackendError:
    try:
        text = str(error)
    except BaseException:  # a `__str__` of the model's own: it must not end the stream
        text = "(what it says cannot be shown)"
    failure = BackendError(f"the model {what} {type(error).__name__}: {text}")
    failure.__cause__ = error
    return failure
