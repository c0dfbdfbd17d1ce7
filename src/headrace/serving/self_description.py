"""Asks the handlers of a model what they say of themselves: `describe_handle`, in one of its workers.

It is a request like any other, so it waits for its turn, counts as inside, and the model does not go before it is
answered. But it is like no other one, so it is never in one batch with another.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from headrace.serving.inflight import InFlight
from headrace.serving.service import Service

HEADERS = (("describe", "True"),)
"""What `archives/calling` and handlers look for, as in TorchServe."""


def ask(service: Service, name: str, version: str | None, request_id: str) -> tuple[InFlight, Future[Any]] | None:
    """The request (`depart` it), and its outcome: an answer of a handler's. None: there is nobody who could be asked.

    ModelNotFound, ModelNotReady, Overloaded.
    """
    inside = service.open(name, version, 0)
    served = inside.served
    crew = served.model.crew
    if not served.custom or crew is None or not crew.describes:
        service.refuse(inside)
        return None
    outcome: Future[Any] = Future()
    inside.alike = object()
    try:
        service.start(inside, ((request_id, HEADERS, b""),), lambda request: _tell(request, outcome))
    except BaseException:
        service.refuse(inside)
        raise
    return inside, outcome


def _tell(request: InFlight, outcome: Future[Any]) -> None:
    failure = request.take_failure()
    if failure is not None:
        outcome.set_exception(failure)
    else:
        outcome.set_result(request._value[0])
