"""multi-model-server and torchserve: ResNet-18 by ONNX Runtime, the body is the tensor. See `resnet_session`."""

from __future__ import annotations

from typing import Any

from resnet_session import answer, session

run = None


def handle(data: list[Any] | None, context: Any) -> list[list[float]] | None:
    global run
    if run is None:
        run = session()
    if data is None:  # the call that initialises
        return None
    return [answer(run, bytes(request.get("body") or request.get("data"))) for request in data]
