"""The OpenAPI 3.0 document of the inference API, made from the routes that are declared and the models that are served.

Rule 1: what is not declared is not routed, and what is routed is in the document: both come from the same table.
Rule 2: each model has paths of its own, with what it takes and gives; the templates are for those that come later.
Rule 3: the statuses are those of `status`; nothing here knows one by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from headrace.server.door import Door
from headrace.server.reply import Reply
from headrace.server.schemas import SCHEMAS, body_of, infer_of, needs_a_body, reference
from headrace.server.status import codes
from headrace.serving.served import Served
from headrace.serving.service import Service

Json = dict[str, Any]
Tell = Callable[[Service, str, "str | None"], Reply]
"""Told the model's name and version, where the path has them."""


@dataclass(frozen=True)
class Declared:
    """One route. `path` may have {model} and {version} in it."""

    path: str
    methods: tuple[str, ...]
    """Those in the document, and of what is told those that are taken; GET takes HEAD as well."""
    summary: str
    door: Door | None = None
    tell: Tell | None = None
    answer: str = ""
    """The schema of what is told."""
    more: tuple[int, ...] = ()
    """Statuses of what is told, beside 200, that have the same schema."""
    explains: bool = False
    query: bool = False
    """Whether handlers of a model's own are given its query as fields."""
    of_each: bool = False
    """Whether each model is in the document under this path, with what it takes and gives."""

    @property
    def segments(self) -> tuple[str, ...]:
        return tuple(self.path.split("/")[1:])

    @property
    def names_a_model(self) -> bool:
        return "{model}" in self.path


def describe(routes: Iterable[Declared], models: Iterable[Served], version: str) -> Json:
    """`models`: what is served under each name when no version is said."""
    routes, models = list(routes), list(models)
    paths: Json = {}
    for served in models:  # first: they are what most look for
        for each in routes:
            if each.of_each and (served.custom or not each.explains):
                path = each.path.replace("{model}", quote(served.name, safe=""))
                paths.setdefault(path, {}).update(_operations(each, served))
    for each in routes:
        paths.setdefault(each.path, {}).update(_operations(each, None))
    return _document(paths, version)


def describe_model(routes: Iterable[Declared], served: Served, version: str | None, of_us: str) -> Json:
    """As `describe`, of one model alone; `version`: of it, where one was asked for."""
    paths: Json = {}
    for each in routes:
        if each.names_a_model and each.door is not None and ("{version}" in each.path) == (version is not None):
            if (each.explains and not served.custom) or "{url_path}" in each.path:
                continue
            path = each.path.replace("{model}", quote(served.name, safe=""))
            path = path.replace("{version}", quote(served.version, safe=""))
            paths.setdefault(path, {}).update(_operations(each, served))
    return _document(paths, of_us)


def _document(paths: Json, version: str) -> Json:
    about = "Predictions in the form of TorchServe and Multi Model Server, and the Open Inference Protocol v2."
    return {
        "openapi": "3.0.3",
        "info": {"title": "Headrace inference API", "version": version, "description": about},
        "paths": paths,
        "components": {"schemas": SCHEMAS, "headers": HEADERS, "responses": _refusals()},
    }


def _operations(declared: Declared, served: Served | None) -> Json:
    """The path's item: of one model, or of any."""
    operations: Json = {}
    if served is None and declared.names_a_model:
        names = [name for name in ("model", "version", "url_path") if "{" + name + "}" in declared.path]
        operations["parameters"] = [path_parameter(name) for name in names]
    for method in declared.methods:
        operations[method.lower()] = _operation(declared, served)
    return operations


def _operation(declared: Declared, served: Served | None) -> Json:
    form = "V2Error" if declared.path.startswith("/v2") else "Error"
    summary = declared.summary if served is None else f"{declared.summary}: {served.name}"
    if declared.door is None:
        answers = dict.fromkeys((200, *declared.more), json_of(reference(declared.answer)))
        refusals = codes(model=declared.names_a_model, body=False)
        operation: Json = {"summary": summary}
    else:
        takes, gives = (infer_of if form == "V2Error" else body_of)(served)
        answers = {200: gives}
        refusals = codes(model=True, body=True)
        operation = {
            "summary": summary,
            "requestBody": {"required": form == "V2Error" or needs_a_body(served), "content": takes},
        }
    responses: Json = {str(code): {"$ref": f"#/components/responses/{form}{code}"} for code in refusals}
    for code, content in answers.items():
        if code in refusals:  # one status, two forms: what is told, and the refusal
            content = json_of({"oneOf": [reference(declared.answer), reference(form)]})
        responses[str(code)] = answered(code, refusals.get(code, "The answer"), content)
    if declared.door is not None and (served is None or served.custom):
        responses["default"] = {"description": "What the model's own handler has answered", "content": _ANYTHING}
        if served is not None:
            responses["200"] = {"description": "What the model's own handler has answered"}
    return {**operation, "responses": dict(sorted(responses.items()))}


def _refusals() -> Json:
    """Each refusal in both forms: most operations have most of them."""
    return {
        f"{form}{code}": answered(code, why, json_of(reference(form)))
        for form in ("Error", "V2Error")
        for code, why in codes(model=True, body=True).items()
    }


def answered(code: int, why: str, content: Json) -> Json:
    names = ["x-request-id", *(["allow"] if code == 405 else [])]
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    return {"description": why, "headers": headers, "content": content}


def path_parameter(name: str) -> Json:
    about = {
        "model": "The name of a model",
        "version": "A version of it",
        "operation": "What `location` ended with",
        "url_path": "What its handler is told as the header url_path; it may have slashes in it",
    }[name]
    return {
        "name": name, "in": "path", "required": True, "description": about, "schema": {"type": "string", "minLength": 1}
    }  # fmt: skip


def json_of(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


_ANYTHING: Json = {"*/*": {"schema": {}}}
HEADERS: Json = {
    "x-request-id": {
        "description": "What the server's log calls this request",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
    },
    "allow": {"description": "The verbs this path takes", "required": True, "schema": {"type": "string"}},
}
