"""Something of a model that can take a batch: here, a Session in this process.

Rule 1: every request gets an outcome of its own; `run` raises nothing.
Rule 2: one bad request in a batch fails alone: when a joined run fails, its members are run one by one.
Rule 3: a run that gives anything but a list of as many outputs as the model says has failed, whoever asked and in
        whatever form: nobody further on has to look again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from headrace.backends.base import Session, Stop
from headrace.errors import BackendError, HeadraceError
from headrace.model.failure import failure_of
from headrace.model.joining import join, split, split_list
from headrace.model.pending import Pending

_log = logging.getLogger("headrace.model")


class Instance(Protocol):
    """Where it has `hear(request, seconds)` as well, who waits for a request calls that first: it may hear the answer
    itself, and gives what is left of `seconds`."""

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
    """A Session in this process.

    `in_lists`: a callable that is given a list of requests, and returns a list. `outputs`: how many tensors the model
    gives; None: it is a callable, which gives anything, in a list of one.
    """

    def __init__(self, session: Session, in_lists: bool = False, outputs: int | None = None) -> None:
        self._session = session
        self._tensors, self._outputs = outputs is not None, 1 if outputs is None else outputs
        self._gives_one = outputs == 1
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
            else:
                run = self._session.run
                outputs = (
                    run(request.inputs, request.names) if stop is None else run(request.inputs, request.names, stop)
                )
                if (  # as `_checked` would say: this is the hot path
                    type(outputs) is list
                    and len(outputs) == self._outputs
                    and (not self._tensors or (self._gives_one and type(outputs[0]) is np.ndarray))
                ):
                    request.outcome = outputs
                else:
                    request.outcome = self._checked(outputs)
        except HeadraceError as error:  # a callable may say itself what is wrong: InvalidInput, Overloaded
            request.failure = error
        except BaseException as error:  # also SystemExit: it must end the request, not the stream
            request.failure = failure_of("raised", error)

    def _as_rows(self, batch: list[Pending], stop: Stop | None) -> list[Any]:
        inputs = join([request.inputs for request in batch])
        outputs = self._session.run(inputs) if stop is None else self._session.run(inputs, None, stop)
        return split(self._checked(outputs), [request.rows for request in batch])

    def _as_list(self, batch: list[Pending], stop: Stop | None) -> list[Any]:
        (answer,) = self._checked(self._session.run(([request.inputs[0] for request in batch],)))
        return [part if isinstance(part, BaseException) else [part] for part in split_list(answer, len(batch))]

    def _checked(self, outputs: Any) -> list[Any]:
        if not isinstance(outputs, list):
            raise BackendError(f"the model's run gave a {type(outputs).__name__} instead of a list of its outputs")
        if len(outputs) != self._outputs:
            raise BackendError(f"the model has {self._outputs} outputs, and its run gave {len(outputs)}")
        if self._tensors:
            for output in outputs:
                if not isinstance(output, np.ndarray):
                    raise BackendError(f"the model's run gave a {type(output).__name__} where an output is an array")
        return outputs


def _give(request: Pending, answer: Any) -> None:
    """An exception in the place of an answer is that request's error."""
    if isinstance(answer, HeadraceError):
        request.failure = answer
    elif isinstance(answer, BaseException):
        request.failure = failure_of("answered with", answer)
    else:
        request.outcome = answer


class Closes(Protocol):
    def close(self) -> None: ...


def close_all(each: Iterable[Closes], name: str) -> None:
    """Close every one, whatever the others raise: that is logged. `name`: the model they are of."""
    interrupt: KeyboardInterrupt | None = None
    for one in each:
        try:
            one.close()
        except KeyboardInterrupt as error:
            interrupt = error
        except BaseException:  # a session's own code
            _log.exception("a session of model %s could not be closed", name)
    if interrupt is not None:
        raise interrupt
