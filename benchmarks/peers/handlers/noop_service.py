"""A model that does nothing, in the shape of Multi Model Server's services: a class, and a function that calls it."""

from __future__ import annotations

from typing import Any


class NoopService:
    def __init__(self) -> None:
        self.initialized = False
        self.context: Any = None

    def initialize(self, context: Any) -> None:
        self.context = context
        self.initialized = True

    def preprocess(self, data: list[Any]) -> list[Any]:
        return data

    def inference(self, rows: list[Any]) -> list[str]:
        return ["ok!"] * len(rows)

    def postprocess(self, found: list[str]) -> list[dict[str, str]]:
        return [{"prediction": each} for each in found]

    def handle(self, data: list[Any], context: Any) -> list[dict[str, str]]:
        context.set_response_content_type(0, "application/json")
        return self.postprocess(self.inference(self.preprocess(data)))


_service = NoopService()


def handle(data: list[Any] | None, context: Any) -> list[dict[str, str]] | None:
    if not _service.initialized:
        _service.initialize(context)
    return None if data is None else _service.handle(data, context)
