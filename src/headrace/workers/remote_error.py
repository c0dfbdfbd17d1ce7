"""What was raised in a worker, as an error of ours. Only text comes out of a worker, never an exception's own class."""

from __future__ import annotations

import json
from functools import lru_cache

from headrace.errors import BackendError, HeadraceError, InvalidInput, OutOfMemory
from headrace.model.failure import failure_of
from headrace.workers.messages import MessageError
from headrace.workers.values import Raised

_NO_MEMORY = ("bad_alloc", "Failed to allocate memory", "bad allocation")
"""What ONNX Runtime says where Python says MemoryError."""


CANNOT_ARRIVE = "CannotArrive"
"""What a worker says of requests that it cannot read, and has not begun."""


class RaisedInWorker(Exception):
    """Stands for what a callable raised in its worker, under that exception's name. Its notes have the traceback."""


def error_of(payload: bytes, memory_limit: int | None) -> HeadraceError:
    """MessageError if the payload is none."""
    try:
        module, kind, text, trace = json.loads(payload)
        raised = Raised(str(module), str(kind), str(text), str(trace))
    except (ValueError, TypeError):
        raise MessageError("what a worker's callable raised cannot be read") from None
    return made(raised, memory_limit)


def made(raised: Raised, memory_limit: int | None = None) -> HeadraceError:
    """A callable may say itself what is wrong with a request; everything else is the model's failure."""
    if raised.kind == "InvalidInput" and raised.module.startswith("headrace"):
        return InvalidInput(raised.text)
    if raised.kind == "CannotLeave" and not raised.module:  # the callable has returned it
        failure = BackendError(f"the answer of the model cannot leave its worker: {raised.text}")
        failure.__cause__ = _with_trace(_kind("CannotLeave")(raised.text), raised.trace)
        return failure
    if raised.kind == CANNOT_ARRIVE and not raised.module:
        failure = BackendError(f"the request cannot be read by its worker: {raised.text}")
        failure.__cause__ = _with_trace(_kind(CANNOT_ARRIVE)(raised.text), raised.trace)
        return failure
    cause = _with_trace(_kind(raised.kind)(raised.text), raised.trace)
    if memory_limit is not None and (raised.kind == "MemoryError" or any(word in raised.text for word in _NO_MEMORY)):
        what = f"{raised.kind}: {raised.text}" if raised.text else raised.kind
        lack = OutOfMemory(what, memory_limit)
        lack.__cause__ = cause
        return lack
    return failure_of("raised", cause)


def _with_trace(cause: RaisedInWorker, trace: str) -> RaisedInWorker:
    if trace:
        cause.add_note(f"in the worker:\n{trace.rstrip()}")
    return cause


@lru_cache(maxsize=256)
def _kind(name: str) -> type[RaisedInWorker]:
    return type(name if name.isidentifier() else "RaisedInWorker", (RaisedInWorker,), {"__module__": "worker"})
