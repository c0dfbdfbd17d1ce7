"""The inference API of MMS and TorchServe: `/ping` and `/predictions/{model}[/{version}]`.

A model with a built-in handler takes what the handler takes (a picture). A tensor model takes JSON, or the raw bytes of
its input. A callable takes the parsed JSON, or text, or bytes, as its one argument, whatever its type.
"""

from __future__ import annotations

from typing import Any

from headrace.codecs import torchserve
from headrace.server.door import HEAVY
from headrace.server.head import Head
from headrace.server.reply import Reply
from headrace.server.status import MethodNotAllowed
from headrace.serving.served import Served
from headrace.serving.service import Service

_HEALTHY = b'{\n  "status": "Healthy"\n}\n'
_UNHEALTHY = b'{\n  "status": "Unhealthy"\n}\n'


def ping(service: Service) -> Reply:
    """200 if no model has failed, else 500: load balancers read the status."""
    if service.registry.is_healthy():
        return Reply(_HEALTHY)
    return Reply(_UNHEALTHY, status=500)


class Predictions:
    """The door of `/predictions`."""

    def check(self, head: Head) -> None:
        # Any verb with a body: `curl -T FILE` is a PUT, and the old servers took it.
        if head.method in ("OPTIONS", "DELETE", "TRACE", "CONNECT"):
            raise MethodNotAllowed(head.method, head.path, "POST, PUT")

    def heavy(self, served: Served, nbytes: int) -> bool:
        return served.handler is not None or nbytes > HEAVY

    def decode(self, served: Served, body: bytes, head: Head) -> tuple[tuple[Any, ...], None, None]:
        handler, specs = served.handler, served.model.inputs
        if handler is not None:
            if body.startswith(b"--"):  # what curl calls a form without fields, of a picture's bytes, is the picture
                torchserve.refuse_form(head.content_type)
            return tuple(handler.preprocess(body).values()), None, None
        value = torchserve.decode_body(body, head.content_type)
        if specs is None:
            return (value,), None, None
        if isinstance(value, bytes):
            tensors = torchserve.tensors_from_bytes(value, specs)
        else:
            tensors = torchserve.tensors_from_json(value, specs)
        return tuple(tensors.values()), None, None

    def encode(self, served: Served, outputs: list[Any], context: None) -> Reply:
        answer, content_type = torchserve.encode(_shown(served, outputs))
        return Reply(answer, content_type.encode())


def _shown(served: Served, outputs: list[Any]) -> object:
    """What is written: the handler's answer, a callable's value, a tensor, or several by name."""
    if served.handler is not None:
        return served.handler.postprocess(outputs)
    specs = served.model.outputs
    if specs is None or len(specs) == 1:
        return outputs[0]
    return {spec.name: output for spec, output in zip(specs, outputs)}
