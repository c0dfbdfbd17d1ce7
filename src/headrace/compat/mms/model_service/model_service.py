"""The services of Multi Model Server 0.4: `_preprocess`, `_inference`, `_postprocess` of a list of inputs.

Rule: a batch is answered request by request. The old server looked at the first request alone.
"""

from __future__ import annotations

import ast
import json
import os
import time
from typing import Any


class ModelService:
    """Made with the manifest of 0.4, whose files are under `Model`."""

    def __init__(self, model_name: Any = None, model_dir: Any = None, manifest: Any = None, gpu: Any = None) -> None:
        self.ctx: Any = None
        self._context: Any = None
        self._signature: Any = None

    @classmethod
    def _headrace_made(cls, context: Any) -> Any:
        """One of a worker's: what the loader of handlers asks for."""
        properties = context.system_properties
        return cls(context.model_name, properties["model_dir"], manifest_of(context), properties["gpu_id"])

    def initialize(self, context: Any) -> None:
        self._context = context
        if getattr(self, "_signature", None) is None:
            path = os.path.join(context.system_properties["model_dir"], manifest_of(context)["Model"]["Signature"])
            with open(path, encoding="utf-8") as file:
                self._signature = json.load(file)

    @property
    def signature(self) -> Any:
        return self._signature

    def inference(self, data: list[Any]) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no inference(data)")

    def ping(self) -> Any:
        return {"health": "healthy!"}

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        self._context = context
        return [self._answer(row) for row in data]

    def _answer(self, row: dict[str, Any]) -> Any:
        inputs = []
        for each in self._signature["inputs"]:
            value = next((row[key] for key in (each["data_name"], "body", "data") if row.get(key) is not None), None)
            if self._signature.get("input_type") == "application/json" and isinstance(value, (bytes, bytearray, str)):
                text = value if isinstance(value, str) else value.decode("utf-8")
                try:
                    value = json.loads(text)
                except ValueError:
                    value = ast.literal_eval(text)
            inputs.append(value)
        outputs = self.inference(inputs)
        return outputs[0] if isinstance(outputs, list) and len(outputs) == 1 else outputs


class SingleNodeService(ModelService):
    def inference(self, data: list[Any]) -> Any:
        times = [time.perf_counter()]
        for step in (self._preprocess, self._inference, self._postprocess):
            data = step(data)
            times.append(time.perf_counter())
        if self._context is not None and self._context.metrics is not None:
            for name, began, ended in zip(("PreprocessTime", "InferenceTime", "PostprocessTime"), times, times[1:]):
                self._context.metrics.add_time(name, round((ended - began) * 1000, 2))
        return data

    def _preprocess(self, data: Any) -> Any:
        return data

    def _inference(self, data: Any) -> Any:
        return data

    def _postprocess(self, data: Any) -> Any:
        return data


def manifest_of(context: Any) -> dict[str, Any]:
    """The manifest of 0.4, whatever the archive has: its own, or one that is made of the files there are."""
    if "Model" in (context.manifest or {}):
        return dict(context.manifest)
    folder = context.system_properties["model_dir"]
    for name in ("MANIFEST.json", "MANIFEST.legacy"):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
            if "Model" in found:
                return dict(found)
    files = sorted(os.listdir(folder))
    symbol = next((name for name in files if name.endswith("-symbol.json")), None)
    return {
        "Model": {
            "Signature": "signature.json",
            "Symbol": symbol,
            "Parameters": next((name for name in files if name.endswith(".params")), None),
            "Model-Name": context.model_name,
            "Model-Format": "MXNet-Symbolic" if symbol else "Gluon-Imperative",
        }
    }
