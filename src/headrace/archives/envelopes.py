"""What is put around a handler, so that it need not know the form in which requests come (TorchServe's
`service_envelope`). Loaded by its path in workers.

Rule 1: `open` gives the handler's data of all requests of a batch, `close` one answer for each request.
Rule 2: a request may hold several instances. The handler sees those of all requests as one list; what it returns is
        divided as they came, and `context.owners` says whose each of them is. TorchServe looked at the first request of
        a batch alone.
"""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

NAMES = ("body", "json", "kserve", "kservev2")
_DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip


class Misformed(Exception):
    """A request is not in the form of its envelope. Says what was expected."""


def made(name: Any) -> Any:
    """An envelope by its name, or None without one. ValueError for a name that is none."""
    if not name:
        return None
    kinds: dict[str, Any] = {"body": Body, "json": Instances, "kserve": KServe, "kservev2": KServeV2}
    if name not in kinds:
        raise ValueError(f"service_envelope is one of {', '.join(NAMES)}, not {name!r}")
    return kinds[name]()


def _body(row: dict[str, Any]) -> Any:
    return row.get("data") or row.get("body")


def _object(row: dict[str, Any], key: str) -> Any:
    """The JSON object a request brings, or Misformed."""
    body = _body(row)
    if isinstance(body, (bytes, bytearray, str)):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Misformed(f"a JSON object with {key!r} was expected: {error}") from None
    if body is None:
        body = row
    if not isinstance(body, dict):
        raise Misformed(f"a JSON object with a list {key!r} was expected, a {type(body).__name__} came")
    if not isinstance(body.get(key), list):
        there = f"a {type(body[key]).__name__}" if key in body else f"it has {', '.join(map(repr, body)) or 'nothing'}"
        raise Misformed(f"a JSON object with a list {key!r} was expected: {there:.200}")
    return body


class Body:
    def open(self, rows: list[dict[str, Any]], context: Any) -> list[Any]:
        return [_body(row) for row in rows]

    def close(self, outputs: Any, context: Any) -> Any:
        return outputs


class Instances:
    """TensorFlow Serving's `{"instances": [...]}` to `{"predictions": [...]}`."""

    key = "instances"

    def open(self, rows: list[dict[str, Any]], context: Any) -> list[Any]:
        requests = [self.parts(_object(row, self.key)) for row in rows]
        self._counts = [len(each) for each in requests]
        context.owners = [index for index, count in enumerate(self._counts) for _ in range(count)]
        return [instance for each in requests for instance in each]

    def parts(self, request: Any) -> list[Any]:
        return [_without_base64(each) for each in request[self.key]]

    def close(self, outputs: Any, context: Any) -> Any:
        if not isinstance(outputs, (list, tuple)):
            return outputs
        if len(self._counts) == 1:
            return [self.packed(list(outputs), 0, context)]
        if len(outputs) != sum(self._counts):
            raise ValueError(f"a batch of {sum(self._counts)} instances came back as {len(outputs)} answers")
        answers, at = [], 0
        for index, count in enumerate(self._counts):
            answers.append(self.packed(list(outputs[at : at + count]), index, context))
            at += count
        return answers

    def packed(self, outputs: list[Any], index: int, context: Any) -> Any:
        return {"predictions": outputs}


class KServe(Instances):
    def parts(self, request: Any) -> list[Any]:
        return list(request[self.key])

    def packed(self, outputs: list[Any], index: int, context: Any) -> Any:
        return {"explanations" if _is_explain(context, index) else "predictions": outputs}


class KServeV2(Instances):
    """The handler is given the inputs, `{"name", "shape", "datatype", "data"}` each, and returns a value for each."""

    key = "inputs"

    def open(self, rows: list[dict[str, Any]], context: Any) -> list[Any]:
        self._ids: list[Any] = []
        return super().open(rows, context)

    def parts(self, request: Any) -> list[Any]:
        self._ids.append(request.get("id"))
        return list(request[self.key])

    def packed(self, outputs: list[Any], index: int, context: Any) -> Any:
        asked = self._ids[index]
        answer: dict[str, Any] = {"id": context.get_request_id(index) if asked is None else asked}
        model = (context.manifest or {}).get("model") or {}
        answer["model_name"] = model.get("modelName") or context.model_name
        if model.get("modelVersion") is not None:
            answer["model_version"] = model["modelVersion"]
        name = "explain" if _is_explain(context, index) else "predict"
        answer["outputs"] = [_output(name, each) for each in outputs]
        return answer


class WholeKServeV2(KServeV2):
    """For a handler that knows tensors: it is given each request as it came, and returns a list of its outputs as the
    protocol has them. An object in its place is a refusal, as all our errors are, and is told in the protocol's form as
    well."""

    def parts(self, request: Any) -> list[Any]:
        super().parts(request)
        return [request]

    def packed(self, outputs: list[Any], index: int, context: Any) -> Any:
        (value,) = outputs
        if isinstance(value, dict):
            return {"error": value["message"], **value}
        return {**super().packed([], index, context), "outputs": value}


def _output(name: str, value: Any) -> dict[str, Any]:
    import numpy as np

    array = np.asarray(value)
    datatype = _DATATYPES.get(array.dtype.name, "BYTES")
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}


def _is_explain(context: Any, index: int) -> bool:
    return bool(context.get_request_header(index, "explain") == "True")


def _without_base64(instance: Any) -> Any:
    """`{"b64": ...}`, as an instance or as one of its columns, is bytes."""
    if not isinstance(instance, dict):
        return instance
    if list(instance) == ["b64"]:
        return _bytes_of(instance["b64"])
    return {
        key: _bytes_of(value["b64"]) if isinstance(value, dict) and list(value) == ["b64"] else value
        for key, value in instance.items()
    }


def _bytes_of(text: Any) -> bytes:
    try:
        return b64decode(text)
    except (TypeError, ValueError) as error:
        raise Misformed(f"a text in base64 was expected for 'b64': {error}") from None
