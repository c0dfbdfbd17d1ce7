"""From a path to what answers it: a door, or something that is only told. Each route is declared once."""

from __future__ import annotations

import orjson

from headrace.server import inference, v2_rest
from headrace.server.description import Declared, Json, describe
from headrace.server.door import Route
from headrace.server.inference import Predictions
from headrace.server.reply import Reply
from headrace.server.status import MethodNotAllowed, NotFound
from headrace.server.v2_rest import Infer
from headrace.serving.registry import State
from headrace.serving.service import Service
from headrace.version import __version__

_READ = ("GET",)
_V2, _OF_VERSION = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"


def document(service: Service) -> Json:
    """The OpenAPI document of the inference API."""
    registry = service.registry
    ready = [
        entry.served
        for entry in registry
        if entry.served is not None and entry.state is State.READY and entry is registry.find(entry.name)
    ]
    return describe(ROUTES, ready, __version__)


def _described(service: Service, model: str, version: str | None) -> Reply:
    return Reply(orjson.dumps(document(service), option=orjson.OPT_INDENT_2))


_predictions, _infer = Predictions(), Infer()
ROUTES = (
    # Of any verb with a body; these are the ones clients use.
    Declared("/predictions/{model}", ("POST", "PUT"), "Predict", door=_predictions),
    Declared("/predictions/{model}/{version}", ("POST", "PUT"), "Predict by one version", door=_predictions),
    Declared(f"{_V2}/infer", ("POST",), "Infer", door=_infer),
    Declared(f"{_OF_VERSION}/infer", ("POST",), "Infer by one version", door=_infer),
    Declared("/ping", _READ, "Whether every model is ready", tell=lambda service, *_: inference.ping(service),
             answer="Health", more=(500,)),
    Declared("/v2", _READ, "The server's name and version", tell=lambda *_: v2_rest.server_metadata(), answer="Server"),
    Declared("/v2/health/live", _READ, "Whether it runs", tell=lambda *_: v2_rest.live(), answer="Live"),
    Declared("/v2/health/ready", _READ, "Whether every model is ready", tell=lambda service, *_: v2_rest.ready(service),
             answer="Ready", more=(503,)),
    Declared(_V2, _READ, "Inputs and outputs", tell=v2_rest.model_metadata, answer="Model"),
    Declared(_OF_VERSION, _READ, "Inputs and outputs of one version", tell=v2_rest.model_metadata, answer="Model"),
    Declared(f"{_V2}/ready", _READ, "Whether a model is ready", tell=v2_rest.model_ready, answer="ModelReady",
             more=(503,)),
    Declared(f"{_OF_VERSION}/ready", _READ, "Whether one version is ready", tell=v2_rest.model_ready,
             answer="ModelReady", more=(503,)),
    Declared("/", ("OPTIONS",), "This document", tell=_described, answer="Description"),
    Declared("/api-description", _READ, "This document", tell=_described, answer="Description"),
)  # fmt: skip
TOLD = frozenset(("/ping", "/v2/health/live", "/v2/health/ready"))
"""Paths that load balancers ask for again and again; `tell` answers them, and costs nothing worth a Task."""
_DOORS = [declared for declared in ROUTES if declared.door is not None]
_TELLS = [declared for declared in ROUTES if declared.tell is not None]


def route(path: str) -> Route | None:
    """The door `path` leads to, or None."""
    found = _find(_DOORS, path)
    if found is None:
        return None
    declared, (name, version) = found
    return Route(declared.door, name, version) if declared.door is not None and name and version != "" else None


def tell(service: Service, method: str, path: str) -> Reply:
    """What needs no model's work. NotFound, MethodNotAllowed."""
    found = _find(_TELLS, path.rstrip("/") or "/")
    if found is None:
        raise NotFound(f"there is no {path!r:.200}; GET /api-description says what there is")
    declared, (name, version) = found
    allowed = (*declared.methods, "HEAD") if "GET" in declared.methods else declared.methods
    if method not in allowed:
        raise MethodNotAllowed(method, path, ", ".join(allowed))
    assert declared.tell is not None
    return declared.tell(service, name, version)


def _find(routes: list[Declared], path: str) -> tuple[Declared, tuple[str, str | None]] | None:
    """(the first that is of this form, the model's name and version in it)."""
    segments = path.split("/")[1:]
    for declared in routes:
        wanted = declared.segments
        if len(wanted) == len(segments):
            named: dict[str, str] = {}
            for want, came in zip(wanted, segments):
                if want[:1] == "{":
                    named[want] = came
                elif want != came:
                    break
            else:
                return declared, (named.get("{model}", ""), named.get("{version}"))
    return None
