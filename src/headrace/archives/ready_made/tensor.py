"""The handler called `tensor`: JSON or raw bytes in, JSON out, for a model of any runtime. `arrays` says what is taken.

An answer is the output as nested lists or, of several, an object by their names.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "neighbours.py")
_spec = importlib.util.spec_from_file_location("_headrace_neighbours", _PATH)
assert _spec is not None and _spec.loader is not None  # noqa: PT018
neighbours = sys.modules["_headrace_neighbours"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(neighbours)

arrays, requests, runtimes = (neighbours.load(name) for name in ("arrays", "requests", "runtimes"))


class Tensor:
    def __init__(self) -> None:
        self.runtime: Any = None

    def initialize(self, context: Any) -> None:
        self.runtime = runtimes.open_model(context)
        config = runtimes.config_of(context)
        specs = arrays.declared(config.get("inputs"))
        if specs is not None:
            self.runtime.inputs = specs

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        return requests.answer_all(data, context, self.runtime, self.read, self.write)  # type: ignore[no-any-return]

    def read(self, row: Any) -> dict[str, Any]:
        value, specs = requests.body_of(row), self.runtime.inputs
        if isinstance(value, (bytes, bytearray, memoryview)):
            return arrays.from_bytes(value, specs, requests.Bad)  # type: ignore[no-any-return]
        return arrays.from_json(value, specs, requests.Bad)  # type: ignore[no-any-return]

    def write(self, outputs: list[Any]) -> Any:
        if len(outputs) == 1:
            return arrays.plain(outputs[0])
        names = self.runtime.outputs or [f"output_{index}" for index in range(len(outputs))]
        return {name: arrays.plain(output) for name, output in zip(names, outputs)}
