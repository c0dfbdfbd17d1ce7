"""From a target to what answers it: a door, or something that is only told. Each route is declared once.

Rule 1: the first that fits answers. The old form `/{model}/predict` fits last, and never where the first segment is
        one of ours.
Rule 2: OPTIONS goes to no door: it asks for a document.
"""

from __future__ import annotations

import orjson

from headrace.codecs.forms import parse_urlencoded
from headrace.server import health, v2_rest
from headrace.server.compat import Compat
from headrace.server.description import Declared, Json, describe, describe_model
from headrace.server.door import Route
from headrace.server.inference import Explanations, Predictions
from headrace.server.reply import Reply
from headrace.server.status import MethodNotAllowed, NotFound
from headrace.server.v2_rest import Explain, Infer
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


def _described_model(service: Service, model: str, version: str | None) -> Reply:
    document = describe_model(ROUTES, service.registry.ready(model, version), version, __version__)
    return Reply(orjson.dumps(document, option=orjson.OPT_INDENT_2))


_VERBS = ("POST", "PUT")  # a model takes any verb; these are the ones clients use
_predictions, _explanations, _infer = Predictions(), Explanations(), Infer()
ROUTES = (
    Declared("/predictions/{model}", _VERBS, "Predict", door=_predictions, of_each=True),
    Declared("/predictions/{model}/{version}", _VERBS, "Predict by one version", door=_predictions),
    Declared("/predictions/{model}/{version}/{url_path}", _VERBS, "Predict; a handler is told the rest of the path",
             door=_predictions),
    Declared("/predictions/{model}", ("OPTIONS",), "The document of one model", tell=_described_model,
             answer="Description"),
    Declared("/predictions/{model}/{version}", ("OPTIONS",), "The document of one version", tell=_described_model,
             answer="Description"),
    Declared("/explanations/{model}", _VERBS, "Explain: of models with a handler of their own", door=_explanations,
             explains=True, of_each=True),
    Declared("/explanations/{model}/{version}", _VERBS, "Explain by one version", door=_explanations, explains=True),
    Declared("/explanations/{model}/{version}/{url_path}", _VERBS, "Explain; a handler is told the rest of the path",
             door=_explanations, explains=True),
    Declared("/invocations", _VERBS, "Predict, as SageMaker asks: by the model `model_name`, in the query or a form, or"
             " the only one", door=_predictions, query=True),
    Declared("/models/{model}/invoke", _VERBS, "Predict, as SageMaker asks for one of many", door=_predictions,
             query=True),
    Declared("/v1/models/{model}:predict", ("POST",), "Predict, by KServe's first name for it", door=_predictions),
    Declared("/v1/models/{model}:explain", ("POST",), "Explain, by KServe's first name for it", door=_explanations,
             explains=True),
    Declared("/v1/models/{model}", _READ, "Whether a model is ready", tell=v2_rest.model_ready, answer="ModelReady",
             more=(503,)),
    Declared(f"{_V2}/infer", ("POST",), "Infer", door=_infer, of_each=True),
    Declared(f"{_OF_VERSION}/infer", ("POST",), "Infer by one version", door=_infer),
    Declared(f"{_V2}/explain", ("POST",), "Explain: of models with a handler of their own", door=Explain(),
             explains=True),
    Declared("/ping", _READ, "Whether every model is ready", tell=lambda service, *_: health.ping(service),
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
    Declared("/{model}/predict", _VERBS, "Predict, as Multi Model Server 0.4 was asked", door=_predictions, query=True),
    Declared("/{model}/{version}/predict", _VERBS, "Predict by one version, as it was asked", door=_predictions,
             query=True),
)  # fmt: skip
TOLD = frozenset(("/ping", "/v2/health/live", "/v2/health/ready"))
"""Paths that load balancers ask for again and again; `tell` answers them, and costs nothing worth a Task."""
_DOORS = [declared for declared in ROUTES if declared.door is not None]
_TELLS = [declared for declared in ROUTES if declared.tell is not None]


_OURS = frozenset(first for declared in ROUTES if not (first := declared.segments[0]).startswith("{"))


def route(path: str, query: bytes = b"") -> Route | None:
    """The door that `path` leads to, or None. A slash at its end changes nothing."""
    found = _find(_DOORS, path)
    if found is None and path.endswith("/"):
        found = _find(_DOORS, path.rstrip("/"))
    if found is None:
        return None
    declared, named = found
    assert declared.door is not None
    name, version = named.get("model", ""), named.get("version")
    headers = (("url_path", named.get("url_path", "")), ("explain", "True" if declared.explains else "False"))
    said: tuple[tuple[str, None, bytes], ...] = ()
    if declared.query:
        fields = parse_urlencoded(query)
        said = tuple((key, None, field.value) for key, field in fields.items())
        if not name and "model_name" in fields:
            name = fields["model_name"].value.decode(errors="replace")
    return Route(declared.door, name, version, headers, said)


def tell(service: Service, method: str, path: str, compat: Compat = Compat.headrace) -> Reply:
    """What needs no model's work, in the words of that server. NotFound, MethodNotAllowed."""
    found = _find(_TELLS, path.rstrip("/") or "/")
    if found is None:
        other = _find(_DOORS, path.rstrip("/"))
        if other is not None and method == "OPTIONS":
            raise MethodNotAllowed(method, path, ", ".join(other[0].methods))
        raise NotFound(f"there is no {path!r:.200}; GET /api-description says what there is")
    declared, named = found
    name, version = named.get("model", ""), named.get("version")
    allowed = (*declared.methods, "HEAD") if "GET" in declared.methods else declared.methods
    if method not in allowed:
        raise MethodNotAllowed(method, path, ", ".join(allowed))
    if declared.path == "/ping":
        return health.ping(service, compat)
    assert declared.tell is not None
    return declared.tell(service, name, version)


def _find(routes: list[Declared], path: str) -> tuple[Declared, dict[str, str]] | None:
    """(the first that is of this form, what its names stand for: none of them for nothing, but the rest of a path)."""
    segments = path.split("/")[1:]
    for declared in routes:
        named = _match(declared.segments, segments)
        if named is not None:
            return declared, named
    return None


def _match(wanted: tuple[str, ...], segments: list[str]) -> dict[str, str] | None:
    rest = wanted[-1] == "{url_path}"
    if len(segments) < len(wanted) if rest else len(segments) != len(wanted):
        return None
    named: dict[str, str] = {}
    for at, (want, came) in enumerate(zip(wanted, segments)):
        if want == "{url_path}":
            named["url_path"] = "/".join(segments[at:])
        elif want[:1] == "{":
            name, _, ends = want[1:].partition("}")
            if not came.endswith(ends) or len(came) == len(ends) or (at == 0 and came in _OURS):
                return None
            named[name] = came.removesuffix(ends)
        elif want != came:
            return None
    return named
