"""The inference API of MMS and TorchServe: `/predictions/{model}[/{version}]`, and its other names.

A model with a built-in handler takes what the handler takes (a picture). A tensor model takes JSON, or the raw bytes of
its input. A callable takes the parsed JSON, or text, or bytes, as its one argument, whatever its type. Each takes forms
as well. Handlers of a model's own get the request as it came (`custom`).
"""

from __future__ import annotations

from typing import Any

from headrace.codecs import torchserve
from headrace.codecs.forms import MULTIPART, form_kind, parse_form
from headrace.codecs.torchserve import Form
from headrace.server.custom import decoded, is_heavy, reply_of
from headrace.server.door import HEAVY, Route
from headrace.server.head import Head
from headrace.server.reply import Reply
from headrace.server.status import MethodNotAllowed, NotFound
from headrace.serving.served import Served


class Predictions:
    """The door of `/predictions`."""

    def check(self, head: Head) -> None:
        # Any verb: `curl -T FILE` is a PUT, and the old servers took it.
        if head.method in ("TRACE", "CONNECT"):
            raise MethodNotAllowed(head.method, head.path, "POST, PUT")

    def heavy(self, served: Served, head: Head, nbytes: int) -> bool:
        if served.custom:
            return is_heavy(head, nbytes)
        return served.handler is not None or nbytes > HEAVY

    def decode(
        self, served: Served, body: bytes, head: Head, route: Route, number: int
    ) -> tuple[tuple[Any, ...], None, tuple[str, str] | None]:
        if served.custom:
            return decoded(served, body, head, route, number)
        handler, specs = served.handler, served.model.inputs
        if handler is not None:
            # What curl calls a form without fields, of a picture's bytes, is the picture.
            if form_kind(head.content_type) == MULTIPART:
                body = torchserve.picture_of(parse_form(body, head.content_type))
            return tuple(handler.preprocess(body).values()), None, None
        if specs is None and not body and route.query:
            return ({name: said.decode(errors="replace") for name, _, said in route.query},), None, None
        value = torchserve.decode_body(body, head.content_type)
        if specs is None:
            return (torchserve.values_of(value) if isinstance(value, Form) else value,), None, None
        if isinstance(value, Form):
            tensors = torchserve.tensors_from_form(value, specs)
        elif isinstance(value, bytes):
            tensors = torchserve.tensors_from_bytes(value, specs)
        else:
            tensors = torchserve.tensors_from_json(value, specs)
        return tuple(tensors.values()), None, None

    def encode(self, served: Served, outputs: list[Any], context: tuple[str, str] | None) -> Reply:
        if served.custom:
            return reply_of(outputs[0], reasons=served.reasons, more=context)
        answer, content_type = torchserve.encode(_shown(served, outputs))
        return Reply(answer, content_type.encode())


class Explanations(Predictions):
    """The door of `/explanations`: handlers of a model's own may have some."""

    def decode(
        self, served: Served, body: bytes, head: Head, route: Route, number: int
    ) -> tuple[tuple[Any, ...], None, tuple[str, str] | None]:
        if not served.custom:
            raise NotFound(f"model {served.name} has no explanations: a model with a handler of its own may have some")
        return super().decode(served, body, head, route, number)


def _shown(served: Served, outputs: list[Any]) -> object:
    """What is written: the handler's answer, a callable's value, a tensor, or several by name."""
    if served.handler is not None:
        return served.handler.postprocess(outputs)
    specs = served.model.outputs
    if specs is None or len(specs) == 1:
        return outputs[0]
    return {spec.name: output for spec, output in zip(specs, outputs)}
