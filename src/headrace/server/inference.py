"""The inference API of MMS and TorchServe: `/ping` and `/predictions/{model}[/{version}]`.

A model with a built-in handler takes what the handler takes (a picture). A tensor model takes JSON, or the raw bytes of
its input. A callable takes the parsed JSON, or text, or bytes, as its one argument, whatever its type.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from headrace.codecs import torchserve
from headrace.server.answering import HEAVY, Answering
from headrace.server.asgi import Reply, Request
from headrace.serving.inflight import InFlight

_HEALTHY = b'{\n  "status": "Healthy"\n}\n'
_UNHEALTHY = b'{\n  "status": "Unhealthy"\n}\n'


def ping(answering: Answering) -> Reply:
    """200 if every model is READY, else 500: load balancers read the status."""
    if answering.service.registry.all_ready():
        return Reply(_HEALTHY)
    return Reply(_UNHEALTHY, status=500)


async def predict(answering: Answering, request: Request, name: str, version: str | None) -> Reply:
    inside = answering.open(request, name, version)
    try:
        body = await answering.read(request, inside)
        began = monotonic()
        inputs = await _inputs(answering, request, inside, body)
        inside.served.has_decoded(began)
    except BaseException:
        answering.service.refuse(inside)
        raise
    outputs = await answering.answer(request, inside, inputs)
    began = monotonic()
    answer, content_type = torchserve.encode(_shown(inside, outputs))
    inside.served.has_encoded(began)
    return Reply(answer, content_type.encode())


async def _inputs(answering: Answering, request: Request, inside: InFlight, body: bytes) -> tuple[Any, ...]:
    served = inside.served
    handler, specs = served.handler, served.model.inputs
    if handler is not None:
        if body.startswith(b"--"):  # what curl calls a form without fields, of a picture's bytes, is the picture
            torchserve.refuse_form(request.content_type)
        picture = await answering.decode(lambda: handler.preprocess(body), heavy=True)
        return tuple(picture.values())
    if specs is None:
        return (await answering.decode(lambda: _value(body, request), heavy=len(body) > HEAVY),)
    return await answering.decode(lambda: tuple(_tensors(body, request, specs).values()), heavy=len(body) > HEAVY)


def _value(body: bytes, request: Request) -> object:
    return torchserve.decode_body(body, request.content_type)


def _tensors(body: bytes, request: Request, specs: Any) -> dict[str, Any]:
    value = torchserve.decode_body(body, request.content_type)
    if isinstance(value, bytes):
        return torchserve.tensors_from_bytes(value, specs)
    return torchserve.tensors_from_json(value, specs)


def _shown(inside: InFlight, outputs: list[Any]) -> object:
    """What is written: the handler's answer, a callable's value, a tensor, or several by name."""
    served = inside.served
    if served.handler is not None:
        return served.handler.postprocess(outputs)
    specs = served.model.outputs
    if specs is None or len(specs) == 1:
        return outputs[0]
    return {spec.name: output for spec, output in zip(specs, outputs)}
