"""The handler called `tensor`: JSON, raw bytes or a form of them in, JSON out, for a model of any runtime.

`arrays` says what is taken.

An answer is the output as nested lists or, of several, an object by their names. In the envelope `kservev2` requests
and answers are the v2 protocol's: `v2`.
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

arrays, requests, runtimes, v2 = (neighbours.load(name) for name in ("arrays", "requests", "runtimes", "v2"))


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
        rows = requests.parsed(data, context)
        return requests.answer_all(rows, context, self.runtime, self.read, self.write)  # type: ignore[no-any-return]

    def handle_v2(self, data: list[Any], context: Any) -> list[Any]:
        """`data`: v2 requests. Of each its outputs, or what it is refused with (`archives/envelopes`)."""
        runtime = self.runtime
        answers = requests.answer_all(
            data, context, runtime, lambda request: v2.inputs_of(request, runtime.inputs, arrays, requests.Bad), list
        )
        for index, (request, answer) in enumerate(zip(data, answers)):
            if isinstance(answer, list):
                try:
                    answers[index] = v2.outputs_of(request, answer, runtime.outputs, arrays, requests.Bad)
                except requests.Bad as error:
                    answers[index] = requests.refuse(context, index, str(error))
        return answers  # type: ignore[no-any-return]

    def read(self, row: Any) -> dict[str, Any]:
        specs = self.runtime.inputs
        if len(specs) > 1 and isinstance(row, dict) and {spec.name for spec in specs} <= set(row):
            # a form, with each input in the field of its name
            inputs = [self.one(row[spec.name], [spec]) for spec in specs]
            return {name: array for each in inputs for name, array in each.items()}
        return self.one(requests.body_of(row), specs)

    @staticmethod
    def one(value: Any, specs: Any) -> dict[str, Any]:
        if isinstance(value, requests.NotJson):
            raise requests.Bad(value.told())
        if isinstance(value, (bytes, bytearray, memoryview)):
            return arrays.from_bytes(value, specs, requests.Bad)  # type: ignore[no-any-return]
        return arrays.from_json(value, specs, requests.Bad)  # type: ignore[no-any-return]

    def write(self, outputs: list[Any]) -> Any:
        if len(outputs) == 1:
            return arrays.plain(outputs[0])
        names = self.runtime.outputs or [f"output_{index}" for index in range(len(outputs))]
        return {name: arrays.plain(output) for name, output in zip(names, outputs)}
