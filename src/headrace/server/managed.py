"""The routes of the management API, each declared once, and the OpenAPI document that is made of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from headrace.server.description import HEADERS, Json, answered, json_of, path_parameter
from headrace.server.schemas import SCHEMAS, reference
from headrace.server.status import codes_of_managing
from headrace.serving.settings import SAID, Setting

_TEXT: Json = {"type": "string"}
_WHOLE: Json = {"type": "integer", "format": "int32"}
_LENIENT: Json = {"type": "string", "description": "A whole number; what is none is as if it had not been given"}
_FLAG: Json = {"type": "string", "description": "`true`, in any case; everything else is false"}
_SECONDS: Json = {"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 1_000_000}


@dataclass(frozen=True)
class Managed:
    """One verb of one path. `does`: the name of what answers it. `parameters`: of its query. `answer`: the schema of
    what it tells; empty: nothing. `body`: the schema of the JSON it takes."""

    method: str
    path: str
    does: str
    summary: str
    answer: str = "Status"
    parameters: tuple[str, ...] = ()
    body: str | None = None
    change: bool = False
    later: bool = False
    """It may be told 202: it has begun."""
    more: tuple[int, ...] = ()

    @property
    def segments(self) -> tuple[str, ...]:
        return tuple(self.path.split("/")[1:])


_MODEL, _VERSION = "/models/{model}", "/models/{model}/{version}"
_REGISTER = (
    *("url", "model_name", "model_version", "handler", "runtime", "batch_size", "max_batch_delay", "initial_workers"),
    *("max_workers", "synchronous", "response_timeout", "startup_timeout"),
)
_SCALE = (
    *("min_worker", "min_workers", "max_worker", "max_workers", "number_gpu", "timeout", "synchronous"),
)  # fmt: skip
_CHANGE = ("synchronous", "timeout")
_REPOSITORY = "/v2/repository/models/{model}"
ROUTES = (
    Managed("POST", "/models", "register", "Register a model", "Status", _REGISTER, "Register",
            change=True, later=True),
    Managed("GET", "/models", "list", "The models, by name", "Models", ("limit", "next_page_token", "detail")),
    Managed("GET", _MODEL, "describe", "What there is to say of the default version", "Described", ("customized",)),
    Managed("GET", _VERSION, "describe", "The same of one version, or of `all`", "Described", ("customized",)),
    Managed("PUT", _MODEL, "scale", "Change how many workers it has", "Status", (*_SCALE, "model_version"),
            change=True, later=True, more=(206, 210)),
    Managed("PUT", _VERSION, "scale", "The same of one version", "Status", _SCALE, change=True, later=True,
            more=(206, 210)),
    Managed("PATCH", _MODEL, "change", "Change settings of the default version while it serves", "Changed", _CHANGE,
            "Settings", change=True, later=True, more=(206, 210)),
    Managed("PATCH", _VERSION, "change", "The same of one version", "Changed", _CHANGE, "Settings", change=True,
            later=True, more=(206, 210)),
    Managed("DELETE", _MODEL, "unregister", "Unregister the default version", "Status", ("timeout",), change=True),
    Managed("DELETE", _VERSION, "unregister", "Unregister one version", "Status", ("timeout",), change=True),
    Managed("PUT", f"{_VERSION}/set-default", "set_default", "Make a version the default one", change=True),
    Managed("OPTIONS", _MODEL, "describe_api", "This document, of one model", "Description"),
    Managed("GET", "/v1/models/{model}", "v1_ready", "Whether a model is ready", "ModelReady"),
    Managed("GET", "/operations", "operations", "The last changes, the newest first", "Operations"),
    Managed("GET", "/operations/{operation}", "operation", "What became of a change", "Operation"),
    Managed("GET", "/token", "token", "Make a new key", "", ("type",), change=True),
    Managed("POST", "/v2/repository/index", "index", "The models, and those of the model store", "Index", (), "Index?"),
    Managed("POST", f"{_REPOSITORY}/load", "load", "Have a model READY", "", (), "Load", change=True),
    Managed("POST", f"{_REPOSITORY}/unload", "unload", "Let a model go, but know it", "", (), "Load", change=True),
    Managed("GET", "/ping", "ping", "Whether every model is ready", "Health", more=(500,)),
    Managed("OPTIONS", "/", "api", "This document", "Description"),
    Managed("GET", "/api-description", "api", "This document", "Description"),
)  # fmt: skip
OPEN = frozenset(("/ping", "/", "/api-description"))
"""Paths that need no token."""


def near(path: str) -> str:
    """What to look at instead of a path that there is not."""
    first = path.split("/")[1:2]
    paths = dict.fromkeys(each.path for each in ROUTES if first and list(each.segments[:1]) == first)
    whole = "GET /api-description says what there is"
    return f"there are {', '.join(paths)}; {whole}" if paths and len(paths) < 8 else whole


def find(path: str) -> list[tuple[Managed, dict[str, str]]]:
    """Those of that path, one for each verb it takes, with what is named in it."""
    segments = (path.rstrip("/") or "/").split("/")[1:]
    found = []
    for each in ROUTES:
        wanted = each.segments
        if len(wanted) == len(segments):
            named: dict[str, str] = {}
            for want, came in zip(wanted, segments):
                if want[:1] == "{" and came:
                    named[want[1:-1]] = came
                elif want != came:
                    break
            else:
                found.append((each, named))
    return found


def document(version: str, *, model: str | None = None, routes: Iterable[Managed] = ROUTES) -> Json:
    """`model`: of the management of that one."""
    routes = list(routes)
    if model is not None:
        of_model = [each for each in routes if each.path.startswith(_MODEL)]
        name = quote(model, safe="")
        routes = [replace(each, path=each.path.replace("{model}", name)) for each in of_model]
    paths: Json = {}
    for each in routes:
        item = paths.setdefault(each.path, {})
        names = [name for name in ("model", "version", "operation") if "{" + name + "}" in each.path]
        if names:
            item["parameters"] = [path_parameter(name) for name in names]
        item[each.method.lower()] = _operation(each)
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Headrace management API",
            "version": version,
            "description": "Models come, change and go: in the form of TorchServe and of Triton's model repository.",
        },
        "paths": paths,
        "components": components(),
    }


def components() -> Json:
    refusals: Json = {}
    for form in ("Error", "V2Error"):
        for code, why in codes_of_managing(change=True).items():
            refusals[f"Managing{form}{code}"] = answered(code, why, json_of(reference(form)))
    return {"schemas": {**SCHEMAS, **_SCHEMAS}, "headers": {**HEADERS, **_LOCATION}, "responses": refusals}


def _operation(each: Managed) -> Json:
    form = "V2Error" if each.path.startswith("/v2") else "Error"
    refusals = codes_of_managing(change=each.change)
    responses: Json = {str(code): {"$ref": f"#/components/responses/Managing{form}{code}"} for code in refusals}
    content = json_of(reference(each.answer)) if each.answer else {}
    for code in (200, *each.more):
        told = content
        if code in refusals:
            told = json_of({"oneOf": [reference(each.answer), reference(form)]})
        responses[str(code)] = answered(code, refusals.get(code, "It is so"), told)
    if each.later:
        later = answered(202, "It has begun", content)
        later["headers"]["location"] = {"$ref": "#/components/headers/location"}
        responses["202"] = later
    operation: Json = {"summary": each.summary, "responses": dict(sorted(responses.items()))}
    if each.parameters:
        operation["parameters"] = [_in_query(name, each) for name in each.parameters]
    if each.body is not None:
        schema = reference("IndexRequest" if each.body == "Index?" else each.body)
        operation["requestBody"] = {"required": each.method == "PATCH", "content": json_of(schema)}
    return operation


def _in_query(name: str, each: Managed) -> Json:
    about, schema = _ABOUT[name]
    if name == "timeout" and each.method in ("DELETE", "PATCH"):
        about, schema = "Seconds for what is inside to end", _SECONDS
    if name == "synchronous" and each.method == "PATCH":
        schema = {"type": "string", "enum": ["true", "false"], "default": "true"}
    return {"name": name, "in": "query", "required": False, "description": about, "schema": schema}


_ABOUT: dict[str, tuple[str, Json]] = {
    "url": ("Where the model is: a name in the model store, or a path. It may be in a JSON body instead", _TEXT),
    "model_name": ("What it is called; else as its archive says, or its file", _TEXT),
    "model_version": ("Its version; else as its archive says, or 1", _TEXT),
    "handler": ("In place of its archive's", _TEXT),
    "runtime": ("python, python2 or python3", _TEXT),
    "batch_size": ("Rows joined into one run", _LENIENT),
    "max_batch_delay": ("Milliseconds a free worker waits for company", _LENIENT),
    "initial_workers": ("Workers it begins with; 0: it is known, and not loaded", _LENIENT),
    "synchronous": ("Whether the answer waits until it is so", _FLAG),
    "response_timeout": ("Seconds a run in a worker process may take", _LENIENT),
    "startup_timeout": ("Seconds a load may take", _LENIENT),
    "min_worker": ("At least so many workers", _LENIENT),
    "min_workers": ("The same", _LENIENT),
    "max_worker": ("At most so many; else as many as at least", _LENIENT),
    "max_workers": ("At most so many workers; else as many as at least", _LENIENT),
    "number_gpu": ("Ignored, as by TorchServe", _LENIENT),
    "timeout": ("Seconds for what is inside the workers that go; what is not above 0 is the default", _LENIENT),
    "limit": ("Models on a page, from 0 to 100", _LENIENT),
    "next_page_token": ("Where the page begins", _LENIENT),
    "detail": ("Whether all there is to say of each comes with it, of every version", _FLAG),
    "customized": ("Whether its handler is asked, too", _FLAG),
    "type": ("management or inference", {"type": "string"}),
}


def _of(required: Json, **optional: Json) -> Json:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def _list(schema: Json) -> Json:
    return {"type": "array", "items": schema}


_WORKER = _of(
    {"id": _TEXT, "startTime": _TEXT, "status": _TEXT, "memoryUsage": {"type": "integer"}, "gpu": {"type": "boolean"}},
    pid={"type": "integer"}, gpuUsage=_TEXT,
)  # fmt: skip
_SHOWN = _of(
    {
        "modelName": _TEXT, "modelVersion": _TEXT, "modelUrl": _TEXT, "runtime": _TEXT, "minWorkers": _WHOLE,
        "maxWorkers": _WHOLE, "batchSize": _WHOLE, "maxBatchDelay": _WHOLE, "loadedAtStartup": {"type": "boolean"},
        "workers": _list(_WORKER),
    },
    state=_TEXT, reason=_TEXT, customizedMetadata=_TEXT,
    settings=_of({"priority_levels": _WHOLE}, queue=_WHOLE, default_priority_level=_WHOLE),
    jobQueueStatus=_of({"remainingCapacity": {"type": "integer"}, "pendingRequests": {"type": "integer"}}),
)  # fmt: skip
_LISTED = _of({"modelName": _TEXT, "modelUrl": _TEXT}, defaultVersion=_TEXT, versions=_list(_SHOWN))
_CHANGES: Json = {"type": "object", "additionalProperties": {"type": "object", "required": ["from", "to"]}}
_OPERATION = _of(
    {"id": _TEXT, "kind": _TEXT, "state": {"type": "string", "enum": ["running", "done", "failed"]}, "started": _TEXT},
    model=_TEXT, version=_TEXT, ended=_TEXT, error=reference("Error"), changed=_CHANGES,
)  # fmt: skip
_NUMBER: Json = {**_WHOLE, "nullable": True}
_YES: Json = {"type": "boolean", "nullable": True}
_MAYBE_TEXT: Json = {"type": "string", "nullable": True}
_OF_BODY: dict[str, Json] = {
    **dict.fromkeys(
        ("batch_size", "max_batch_delay", "initial_workers", "response_timeout", "startup_timeout", "max_workers"),
        _NUMBER,
    ),
    "synchronous": _YES,
}


def _setting(each: Setting) -> Json:
    kind = "integer" if each.scale is None else "number"
    told: Json = {"type": kind, "minimum": each.low, "maximum": each.high, "description": each.unit}
    return {**told, "nullable": True} if each.may_be_null else told


_SCHEMAS: dict[str, Any] = {
    "Status": _of({"status": _TEXT}),
    "Changed": _of({"status": _TEXT}, changed=_CHANGES),
    "Settings": {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": {name: _setting(each) for name, each in SAID.items()},
    },
    "Models": _of({"models": _list(_LISTED)}, nextPageToken=_TEXT),
    "Described": {"oneOf": [_list(_SHOWN), _SHOWN]},
    "Operation": _OPERATION,
    "Operations": _of({"operations": _list(_OPERATION)}),
    "Index": _list(_of({"name": _TEXT}, version=_TEXT, state=_TEXT, reason=_TEXT)),
    "IndexRequest": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
    "Load": {"type": "object", "properties": {"parameters": {"type": "object", "nullable": True}}},
    "Register": {"type": "object", "properties": {name: _OF_BODY.get(name, _MAYBE_TEXT) for name in _REGISTER}},
}
_LOCATION: Json = {
    "location": {"description": "Where to look how it goes", "required": True, "schema": {"type": "string"}}
}
