"""Open Inference Protocol v2 over JSON: bodies <-> tensors.

Rule 1: bytes in, tensors out, and back. No sockets, clocks or threads.
Rule 2: what is refused is refused with the name of the tensor, what was expected and what came.
Rule 3: unknown keys are let pass (that is how the protocol grows); a key that asks for what is not done here, and whose
        being ignored would be noticed only in the numbers, is refused.

Rule 4: a key that comes twice in one object is refused: parsers differ in which of the two they take, and ours takes
        the last without a word.

`null` in an optional key counts as the key left out: clients made with pydantic write it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from headrace.codecs.arrays import (
    array_from_flat,
    array_from_nested,
    check_count,
    check_names,
    check_shape,
    datatype_name,
    describe,
    native,
    parse_json,
    quoted,
)
from headrace.errors import BackendError, InvalidInput
from headrace.tensor import DATATYPES, Array, TensorSpec, datatype_of

Parameters = dict[str, bool | int | float | str]

_NOT_JSON_INPUT = ("binary_data_size", "shared_memory_region")
# `binary_data` is not among them: it says which form the client would like, and those who ask read JSON as well.
_NOT_JSON_OUTPUT = ("shared_memory_region", "classification")


@dataclass(slots=True)
class InferRequest:
    """One inference request. `outputs` are the names wanted, None for all."""

    id: str | None
    inputs: dict[str, Array]
    outputs: tuple[str, ...] | None
    parameters: Parameters


def decode_request(body: bytes | memoryview, specs: Sequence[TensorSpec] | None) -> InferRequest:
    """The request in `body`, checked against the model's inputs. InvalidInput says what is wrong with it.

    `specs` None: the model is a plain callable, and any names, datatypes and shapes are taken as declared.
    Whether the model has the outputs that are asked for is the caller's to check.
    """
    request = _typed(parse_json(body), dict, "the body")
    known = None if specs is None else {spec.name: spec for spec in specs}
    inputs: dict[str, Array] = {}
    for index, entry in enumerate(_required(request, "inputs", list, "the body")):
        tensor = _typed(entry, dict, f"inputs[{index}]")
        name = _required(tensor, "name", str, f"inputs[{index}]")
        if name in inputs:
            raise InvalidInput(f"input {quoted([name])} came twice")
        if known is not None and name not in known:
            raise InvalidInput(f"the model has no input {quoted([name])}; its inputs are {quoted(known)}")
        inputs[name] = _decode_tensor(tensor, f"input {quoted([name])}", None if known is None else known[name])
    if specs is not None:
        check_names(inputs, specs)
    _refuse_twice(body, request)
    return InferRequest(
        id=_optional(request, "id", str, "the body"),
        inputs=inputs,
        outputs=_wanted(_optional(request, "outputs", list, "the body")),
        parameters=_parameters(request, "the body"),
    )


def encode_response(
    *, model_name: str, model_version: str | None, id: str | None, outputs: Mapping[str, Array]
) -> bytes:
    """The response body, `data` flat in row-major order.

    JSON has no NaN and no infinity: non-finite floats become null. Text that is not UTF-8, and a dtype that the
    protocol has no name for, are a BackendError.
    """
    response: dict[str, Any] = {"model_name": model_name}
    if model_version is not None:
        response["model_version"] = model_version
    if id is not None:
        response["id"] = id
    response["outputs"] = [_encode_tensor(name, array) for name, array in outputs.items()]
    try:
        return orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:  # a lone surrogate in an output's text
        raise BackendError(f"the outputs cannot be written as JSON: {error}") from error


def encode_metadata(
    *,
    name: str,
    versions: Iterable[str],
    platform: str,
    inputs: Sequence[TensorSpec] | None,
    outputs: Sequence[TensorSpec] | None,
) -> bytes:
    """What `GET /v2/models/{name}` answers. Free dimensions are -1; None, for a model that has not said, is []."""
    return orjson.dumps(
        {
            "name": name,
            "versions": list(versions),
            "platform": platform,
            "inputs": [_metadata(spec) for spec in inputs or ()],
            "outputs": [_metadata(spec) for spec in outputs or ()],
        }
    )


def _decode_tensor(tensor: dict[str, Any], where: str, spec: TensorSpec | None) -> Array:
    parameters = _parameters(tensor, where)
    if asked := [key for key in _NOT_JSON_INPUT if key in parameters]:
        raise InvalidInput(f"{where}: {quoted(asked)} came, but only JSON data is taken in this version")
    datatype = _required(tensor, "datatype", str, where)
    dtype = DATATYPES.get(datatype)
    if spec is not None and datatype != (expected := datatype_name(spec.dtype)):
        raise InvalidInput(f"{where}: datatype {expected} was expected, {describe(datatype)} came")
    if dtype is None:
        raise InvalidInput(f"{where}: {describe(datatype)} is no datatype; there are {', '.join(DATATYPES)}")
    shape = tuple(_required(tensor, "shape", list, where))
    for size in shape:
        if type(size) is not int or size < 0:
            raise InvalidInput(f"{where}: a dimension of the shape must be an integer from 0 up, {describe(size)} came")
    check_count(shape, dtype, where)
    if spec is not None:
        check_shape(where, shape, spec)
    data = _required(tensor, "data", list, where)
    if len(shape) > 1 and data and type(data[0]) is list:
        return array_from_nested(data, dtype, shape, where)
    return array_from_flat(data, dtype, shape, where)


def _refuse_twice(body: bytes | memoryview, request: dict[str, Any]) -> None:
    """InvalidInput if an object in `body`, which has been parsed as `request`, has a key twice.

    Each string is two quotes in the body. If there are no more of them than the strings that were kept account for, no
    key was dropped. Else it may be an escaped quote, and the body is parsed again, slowly. `request` is valid.
    """
    raw = body if isinstance(body, bytes) else bytes(body)
    quotes = raw.count(b'"')
    least = len(request) + 6 * len(request["inputs"])  # a tensor's four keys, its name and its datatype
    try:
        if quotes != 2 * least and quotes != 2 * _strings(request):
            json.loads(raw, object_pairs_hook=_once)
    except RecursionError:
        raise InvalidInput("the body is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InvalidInput(f"the key {quoted([twice])} came twice in one object")
    return found


def _strings(value: dict[str, Any]) -> int:
    """How many strings are in it, keys as well; too few where counting costs more than it is worth, never too many."""
    count = len(value)
    for key, one in value.items():
        kind = type(one)
        if kind is str:
            count += 1
        elif kind is dict:
            count += _strings(one)
        elif kind is list and one:
            first = type(one[0])
            if first is dict:
                count += sum(map(_strings, one)) if set(map(type, one)) == {dict} else 0
            elif first is str:
                count += list(map(type, one)).count(str)
            elif first is list and key == "data" and value.get("datatype") == "BYTES":
                count += _texts_in(one)
    return count


def _texts_in(nested: list[Any]) -> int:
    return sum(_texts_in(one) if type(one) is list else type(one) is str for one in nested)


def _wanted(outputs: list[Any] | None) -> tuple[str, ...] | None:
    names: list[str] = []
    for index, entry in enumerate(outputs or ()):
        output = _typed(entry, dict, f"outputs[{index}]")
        name = _required(output, "name", str, f"outputs[{index}]")
        if name in names:
            raise InvalidInput(f"output {quoted([name])} was asked for twice")
        if asked := [key for key in _NOT_JSON_OUTPUT if key in _parameters(output, f"output {quoted([name])}")]:
            raise InvalidInput(f"output {quoted([name])}: {quoted(asked)} is not done in this version")
        names.append(name)
    return tuple(names) or None


def _parameters(owner: dict[str, Any], where: str) -> Parameters:
    parameters: Parameters = _optional(owner, "parameters", dict, where) or {}
    for key, value in parameters.items():
        if not isinstance(value, bool | int | float | str):
            raise InvalidInput(
                f"{where}: parameter {quoted([key])} must be a string, a number, true or false, {describe(value)} came"
            )
    return parameters


_KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}


def _typed(value: Any, kind: type, where: str) -> Any:
    if type(value) is not kind:
        raise InvalidInput(f"{where} must be {_KINDS[kind]}, {describe(value)} came")
    return value


def _required(owner: dict[str, Any], key: str, kind: type, where: str) -> Any:
    if key not in owner:
        raise InvalidInput(f"{where} has no {key!r}, {_KINDS[kind]} was expected")
    return _typed(owner[key], kind, f"{where}: {key!r}")


def _optional(owner: dict[str, Any], key: str, kind: type, where: str) -> Any:
    value = owner.get(key)
    return None if value is None else _typed(value, kind, f"{where}: {key!r}")


def _encode_tensor(name: str, array: Array) -> dict[str, Any]:
    try:
        datatype = datatype_of(array.dtype)
    except KeyError:
        raise BackendError(f"output {name!r} is {array.dtype}, which the v2 protocol has no name for") from None
    flat = native(array).reshape(-1)
    data = _texts(name, flat) if datatype == "BYTES" else flat
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": data}


def _texts(name: str, flat: Array) -> list[str]:
    texts = []
    for item in flat.tolist():
        if isinstance(item, bytes):
            try:
                item = item.decode()
            except UnicodeDecodeError as error:
                raise BackendError(f"output {name!r} has bytes that are not UTF-8, JSON cannot carry them") from error
        elif not isinstance(item, str):
            raise BackendError(f"output {name!r} should hold text and has {type(item).__name__}")
        texts.append(item)
    return texts


def _metadata(spec: TensorSpec) -> dict[str, Any]:
    shape = [-1 if size is None else size for size in spec.shape]
    return {"name": spec.name, "datatype": datatype_name(np.dtype(spec.dtype)), "shape": shape}
