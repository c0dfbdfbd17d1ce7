"""JSON schemas, as OpenAPI 3.0 has them, of what a model takes and gives and of what is told. Pure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headrace.serving.served import Served
from headrace.tensor import TensorSpec, datatype_of

Json = dict[str, Any]
_BYTES: Json = {"type": "string", "format": "binary"}
_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/bmp", "image/webp", "application/octet-stream")
_TEXT = {"type": "string"}
_FIELDS: Json = {"type": "object", "additionalProperties": _TEXT}
_FORMS: Json = {kind: {"schema": _FIELDS} for kind in ("application/x-www-form-urlencoded", "multipart/form-data")}
_DIMENSIONS: Json = {"type": "array", "items": {"type": "integer"}}


def reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def body_of(served: Served | None) -> tuple[Json, Json]:
    """(what `/predictions` takes, what it gives), by media type. None: of any model."""
    if served is None or (served.handler is None and served.model.inputs is None):
        anything = {"application/json": {"schema": {}}, "text/plain": {"schema": _TEXT}}
        anything["application/octet-stream"] = {"schema": _BYTES}
        return {**anything, **_FORMS}, anything
    if served.handler is not None:
        labels = {"type": "object", "additionalProperties": {"type": "number"}}
        takes: Json = {kind: {"schema": _BYTES} for kind in _PICTURES}
        picture = {"type": "object", "required": ["data"], "properties": {"data": _BYTES}}
        takes["multipart/form-data"] = {"schema": picture}
        return takes, {"application/json": {"schema": labels}}
    inputs, outputs = served.model.inputs or (), served.model.outputs or ()
    by_name = _object(inputs)
    takes = {"application/json": {"schema": by_name}}
    if len(inputs) == 1:
        takes["application/json"] = {"schema": {"oneOf": [_nested(inputs[0]), by_name]}}
        if (raw := _raw(inputs[0])) is not None:
            takes["application/octet-stream"] = {"schema": raw}
    one = len(outputs) == 1
    gives = _nested(outputs[0], answer=True) if one else _object(outputs, answer=True)
    return takes, {"application/json": {"schema": gives}}


def needs_a_body(served: Served | None) -> bool:
    """Whether `/predictions` without one is refused: a callable may take nothing for something."""
    if served is None or served.custom:
        return False
    return served.handler is not None or served.model.inputs is not None


def infer_of(served: Served | None) -> tuple[Json, Json]:
    """(what `/v2/models/…/infer` takes, what it gives), by media type. None: of any model."""
    if served is not None and served.custom:
        return body_of(served)
    request = reference("InferRequest")
    if served is not None and served.model.inputs is not None:
        inputs = served.model.inputs
        each: Json = {"oneOf": [_input(spec) for spec in inputs]} if len(inputs) > 1 else _input(inputs[0])
        tensors = {"type": "array", "minItems": len(inputs), "maxItems": len(inputs), "items": each}
        request = {"allOf": [request, {"type": "object", "properties": {"inputs": tensors}}]}
    response = reference("InferResponse")
    return {"application/json": {"schema": request}}, {"application/json": {"schema": response}}


def _input(spec: TensorSpec) -> Json:
    shape: Json = {**_DIMENSIONS, "minItems": len(spec.shape), "maxItems": len(spec.shape)}
    if None not in spec.shape:
        shape["description"] = f"Always {list(spec.shape)}"
    flat: Json = {"type": "array", "items": _element(spec)}
    if None not in spec.shape:
        flat |= dict.fromkeys(("minItems", "maxItems"), math.prod(size or 0 for size in spec.shape))
    data = flat if len(spec.shape) < 2 else {"anyOf": [flat, _nested(spec)]}
    return {
        "type": "object",
        "required": ["name", "datatype", "shape", "data"],
        "properties": {
            "name": {"type": "string", "enum": [spec.name]},
            "datatype": {"type": "string", "enum": [datatype_of(spec.dtype)]},
            "shape": shape,
            "data": data,
            "parameters": reference("Parameters"),
        },
    }


def _object(specs: tuple[TensorSpec, ...], *, answer: bool = False) -> Json:
    return {
        "type": "object",
        "required": [spec.name for spec in specs],
        "properties": {spec.name: _nested(spec, answer=answer) for spec in specs},
        "additionalProperties": False,
    }


def _nested(spec: TensorSpec, *, answer: bool = False) -> Json:
    """Lists in lists. Of an answer the sizes are not said: a model may give another shape than it has declared."""
    schema = _element(spec, answer=answer)
    for size in reversed(spec.shape):
        schema = {"type": "array", "items": schema}
        if not answer:
            schema |= {"minItems": 1} if size is None else {"minItems": size, "maxItems": size}
    return {**schema, "description": str(spec)}


def _element(spec: TensorSpec, *, answer: bool = False) -> Json:
    kind = spec.dtype.kind
    if kind == "b":
        return {"type": "boolean"}
    if kind not in "iuf":
        return {"type": "string"}
    if answer:  # NaN and infinities are null
        return {"type": "number", "nullable": True} if kind == "f" else {"type": "integer"}
    if kind == "f":
        # Twice as near to zero as the largest: what is rounded up on its way must not get out of range.
        largest = float(np.finfo(spec.dtype).max) / 2
        return {"type": "number", "minimum": -largest, "maximum": largest}
    bounds = np.iinfo(spec.dtype)
    return {"type": "integer", "minimum": int(bounds.min), "maximum": int(bounds.max)}


def _raw(spec: TensorSpec) -> Json | None:
    """The input's bytes, where they say its shape."""
    inner = [size for size in spec.shape[1:] if size is not None]
    if spec.dtype.kind not in "biuf" or len(inner) < len(spec.shape) - 1:
        return None
    row = math.prod(inner) * spec.dtype.itemsize
    return {**_BYTES, "description": f"{spec}, little-endian and row-major: {row:,} bytes a row"}


def _of(required: Json, **optional: Json) -> Json:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


_TENSOR_METADATA = _of({"name": _TEXT, "datatype": _TEXT, "shape": _DIMENSIONS})
_SIZES: Json = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_ID: Json = {"type": "string", "nullable": True}
_TENSOR = {"name": _TEXT, "datatype": _TEXT, "shape": _SIZES, "data": {"type": "array", "items": {}}}
SCHEMAS: Json = {
    "Error": _of({"code": {"type": "integer"}, "type": _TEXT, "message": _TEXT}),
    "V2Error": _of({"error": _TEXT}),
    "Description": _of({"openapi": _TEXT, "info": {"type": "object"}, "paths": {"type": "object"}}),
    "Health": _of({"status": {"type": "string", "enum": ["Healthy", "Unhealthy"]}}),
    "Server": _of({"name": _TEXT, "version": _TEXT, "extensions": {"type": "array", "items": _TEXT}}),
    "Live": _of({"live": {"type": "boolean"}}),
    "Ready": _of({"ready": {"type": "boolean"}, "live": {"type": "boolean"}}),
    "ModelReady": _of({"name": _TEXT, "ready": {"type": "boolean"}}),
    "Model": _of(
        {
            "name": _TEXT,
            "versions": {"type": "array", "items": _TEXT},
            "platform": _TEXT,
            "inputs": {"type": "array", "items": _TENSOR_METADATA},
            "outputs": {"type": "array", "items": _TENSOR_METADATA},
        }
    ),
    "Parameters": {
        "type": "object",
        "nullable": True,
        "additionalProperties": {"anyOf": [{"type": kind} for kind in ("string", "number", "boolean")]},
    },
    "Tensor": _of(_TENSOR, parameters=reference("Parameters")),
    "InferRequest": _of(
        {"inputs": {"type": "array", "items": reference("Tensor")}},
        id=_ID,
        parameters=reference("Parameters"),
        outputs={
            "type": "array",
            "nullable": True,
            "items": _of({"name": _TEXT}, parameters=reference("Parameters")),
        },
    ),
    "InferResponse": _of(
        {"model_name": _TEXT, "outputs": {"type": "array", "items": reference("Tensor")}},
        model_version=_TEXT,
        id=_ID,
    ),
}
