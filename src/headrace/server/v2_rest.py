"""Open Inference Protocol v2 over JSON: `/v2`, health, metadata, `/v2/models/{model}[/versions/{version}]/infer`.

Health answers carry both the JSON key one kind of client reads and the status the other kind reads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from headrace.codecs import v2_json
from headrace.errors import BackendError, InvalidInput
from headrace.server.custom import decoded, is_heavy, reply_of
from headrace.server.door import HEAVY, Route
from headrace.server.head import Head
from headrace.server.reply import Reply
from headrace.server.status import MethodNotAllowed, NotFound
from headrace.serving.registry import State
from headrace.serving.served import Served
from headrace.serving.service import Service
from headrace.tensor import Array
from headrace.version import __version__

_SERVER = orjson.dumps({"name": "headrace", "version": __version__, "extensions": []})
_LIVE = orjson.dumps({"live": True})


def server_metadata() -> Reply:
    return Reply(_SERVER)


def live() -> Reply:
    return Reply(_LIVE)


def ready(service: Service) -> Reply:
    """200 if no model has failed, else 503."""
    is_ready = service.registry.is_healthy()
    return Reply(orjson.dumps({"ready": is_ready, "live": True}), status=200 if is_ready else 503)


def model_ready(service: Service, name: str, version: str | None) -> Reply:
    is_ready = service.registry.find(name, version).state is State.READY
    return Reply(orjson.dumps({"name": name, "ready": is_ready}), status=200 if is_ready else 503)


def model_metadata(service: Service, name: str, version: str | None) -> Reply:
    registry = service.registry
    served = registry.ready(name, version)
    model = served.model
    versions = registry.versions(name) if version is None else [version]
    return Reply(
        v2_json.encode_metadata(
            name=name, versions=versions, platform=model.platform, inputs=model.inputs, outputs=model.outputs
        )
    )


class Infer:
    """The door of `/v2/models/{model}[/versions/{version}]/infer`."""

    def check(self, head: Head) -> None:
        if head.method != "POST":
            raise MethodNotAllowed(head.method, head.path, "POST")
        if head.json_length is not None:
            raise InvalidInput(
                "tensors as bytes after the JSON (Inference-Header-Content-Length) are not taken in this version: send "
                "JSON data; with tritonclient.http, set_data_from_numpy(array, binary_data=False)"
            )

    def heavy(self, served: Served, head: Head, nbytes: int) -> bool:
        return is_heavy(head, nbytes) if served.custom else nbytes > HEAVY

    def decode(
        self, served: Served, body: bytes, head: Head, route: Route, number: int
    ) -> tuple[tuple[Any, ...], tuple[str, ...] | None, v2_json.InferRequest | tuple[str, str] | None]:
        if served.custom:  # as in TorchServe: what it means is the handler's, or its envelope's, affair
            return decoded(served, body, head, route, number)
        asked = v2_json.decode_request(body, served.model.inputs)
        inputs, names = _arguments(served, asked)
        asked.inputs = {}  # the request holds them from here on, and lets go of them when it has run
        return inputs, names, asked

    def encode(
        self, served: Served, outputs: list[Any], context: v2_json.InferRequest | tuple[str, str] | None
    ) -> Reply:
        if not isinstance(context, v2_json.InferRequest):
            return reply_of(outputs[0], v2=served.reasons, reasons=served.reasons, more=context)
        wanted = _wanted(_named(served, outputs), context.outputs)
        body = v2_json.encode_response(
            model_name=served.name, model_version=served.version, id=context.id, outputs=wanted
        )
        return Reply(body)


class Explain(Infer):
    """The door of `/v2/models/{model}/explain`."""

    def decode(
        self, served: Served, body: bytes, head: Head, route: Route, number: int
    ) -> tuple[tuple[Any, ...], tuple[str, ...] | None, v2_json.InferRequest | tuple[str, str] | None]:
        if not served.custom:
            raise NotFound(f"model {served.name} has no explanations: a model with a handler of its own may have some")
        return super().decode(served, body, head, route, number)


def _arguments(served: Served, asked: v2_json.InferRequest) -> tuple[tuple[Any, ...], tuple[str, ...] | None]:
    """The inputs in the model's order; for a callable, the names they are passed by."""
    model = served.model
    if model.inputs is not None:
        if asked.outputs is not None and model.outputs is not None:
            known = [spec.name for spec in model.outputs]
            for name in asked.outputs:
                if name not in known:
                    raise InvalidInput(f"the model has no output {name!r}; its outputs are {', '.join(known)}")
        return tuple(asked.inputs[spec.name] for spec in model.inputs), None
    if model.max_batch_size > 1:
        raise InvalidInput("this callable takes lists of requests (max_batch_size above 1): use /predictions")
    names = tuple(asked.inputs)
    if model.parameters is not None:
        for name in names:
            if name not in model.parameters:
                takes = ", ".join(model.parameters) or "nothing"
                raise InvalidInput(f"the model has no input {name!r}; it takes {takes}")
    missing = [name for name in model.required if name not in asked.inputs]
    if missing:
        raise InvalidInput(f"input {missing[0]!r} is missing; the model takes {', '.join(model.parameters or missing)}")
    return tuple(asked.inputs.values()), names


def _named(served: Served, outputs: list[Any]) -> dict[str, Array]:
    specs = served.model.outputs
    if specs is not None:
        return {spec.name: output for spec, output in zip(specs, outputs)}
    value = outputs[0]
    found = value if isinstance(value, dict) else {"output": value}
    return {str(name): _array(name, element) for name, element in found.items()}


def _array(name: object, value: Any) -> Array:
    """A callable's answer as a tensor: it returns an array, numbers or text, or a dict of them by name."""
    try:
        array: Array = np.asarray(value)
    except ValueError as error:
        raise BackendError(f"output {name!r} is not a tensor: {error}") from None
    if array.dtype.kind not in "biufUSO":
        raise BackendError(f"output {name!r} is a {type(value).__name__}, which is not a tensor")
    return array


def _wanted(outputs: dict[str, Array], names: tuple[str, ...] | None) -> dict[str, Array]:
    if names is None:
        return outputs
    missing = [name for name in names if name not in outputs]
    if missing:
        raise InvalidInput(f"the model has no output {missing[0]!r}; its outputs are {', '.join(outputs)}")
    return {name: outputs[name] for name in names}
