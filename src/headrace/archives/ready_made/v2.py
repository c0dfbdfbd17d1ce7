"""Tensors as the v2 protocol has them in JSON: `{"name", "shape", "datatype", "data"}` each.

Rule 1: inputs are told by their names; all of the model's are expected, and no others.
Rule 2: a datatype is what the model takes, or, where the model does not say, what the client says. Nothing is cast.
Rule 3: as everywhere on /v2: `data` is nested or flat, row by row; what is not finite is null in an answer.
"""

from __future__ import annotations

import re
from typing import Any, Sequence

import numpy as np

_DATATYPE = re.compile(r"BOOL|(U?INT)(8|16|32|64)|(FP)(16|32|64)")
_KINDS = {"INT": "i", "UINT": "u", "FP": "f"}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def datatype_of(dtype: Any) -> str:
    dtype = np.dtype(dtype)
    if dtype.kind in "OSU":  # texts
        return "BYTES"
    return "BOOL" if dtype.kind == "b" else f"{_NAMES[dtype.kind]}{dtype.itemsize * 8}"


def inputs_of(request: dict[str, Any], specs: Sequence[Any], arrays: Any, bad: type[Exception]) -> dict[str, Any]:
    """The model's inputs, by name, of a request whose `inputs` are a list."""
    known = {spec.name: spec for spec in specs}
    found: dict[str, Any] = {}
    for index, tensor in enumerate(request["inputs"]):
        where = f"inputs[{index}]"
        name = _has(tensor, "name", str, where, bad)
        where = f"input {name!r:.80}"
        if name not in known:
            raise bad(f"the model has no input {name!r:.80}; its inputs are {_quoted(known)}")
        if name in found:
            raise bad(f"{where} came twice")
        spec = known[name]
        dtype = _dtype(_has(tensor, "datatype", str, where, bad), spec, where, bad)
        shape = tuple(_has(tensor, "shape", list, where, bad))
        if any(type(size) is not int or size < 0 for size in shape):
            raise bad(f"{where}: a shape is a list of whole numbers from 0 up, {list(shape)!s:.80} came")
        arrays.check_shape(shape, spec, bad)
        data = _has(tensor, "data", list, where, bad)
        found[name] = arrays.array_of(data, spec._replace(dtype=dtype), bad, shape)
    missing = [name for name in known if name not in found]
    if missing:
        raise bad(f"the input {_quoted(missing)} is missing; {_quoted(found)} came")
    return {name: found[name] for name in known}


def outputs_of(
    request: dict[str, Any], found: Sequence[Any], names: Sequence[str] | None, arrays: Any, bad: type[Exception]
) -> list[Any]:
    """Those that the request asks for, or all. `names`: of the model's; None where it has none: they are counted."""
    named = dict(zip(names or [f"output_{index}" for index in range(len(found))], found))
    asked = request.get("outputs") or []
    if not isinstance(asked, list):
        raise bad(f"'outputs' is a JSON array of objects with a name; a JSON {_kind(asked)} came")
    wanted = [_has(one, "name", str, f"outputs[{index}]", bad) for index, one in enumerate(asked)] or list(named)
    unknown = [name for name in wanted if name not in named]
    if unknown:
        raise bad(f"the model has no output {_quoted(unknown)}; its outputs are {_quoted(named)}")
    outputs = []
    for name in wanted:
        array = np.asarray(named[name])
        data = arrays.plain(array.reshape(-1))
        outputs.append({"name": name, "shape": list(array.shape), "datatype": datatype_of(array.dtype), "data": data})
    return outputs


def _dtype(datatype: str, spec: Any, where: str, bad: type[Exception]) -> Any:
    if spec.dtype is not None:
        if datatype != datatype_of(spec.dtype):
            raise bad(f"{where}: datatype {datatype_of(spec.dtype)} is expected, {datatype!r:.80} came")
        return spec.dtype
    match = _DATATYPE.fullmatch(datatype)
    if match is None:
        raise bad(
            f"{where}: {datatype!r:.80} is no datatype that is taken; BOOL, INT8 to INT64, UINT8 to UINT64, FP16, FP32 "
            "and FP64 are"
        )
    whole, whole_bits, real, real_bits = match.groups()
    kind, bits = (whole, whole_bits) if whole else (real, real_bits)
    return np.dtype(np.bool_) if kind is None else np.dtype(f"{_KINDS[kind]}{int(bits) // 8}")


def _has(owner: Any, key: str, kind: type, where: str, bad: type[Exception]) -> Any:
    word = "string" if kind is str else "array"
    if not isinstance(owner, dict):
        raise bad(f"{where}: a JSON object is expected, a JSON {_kind(owner)} came")
    if key not in owner:
        raise bad(f"{where} has no {key!r}: a JSON {word} is expected")
    if not isinstance(owner[key], kind):
        raise bad(f"{where}: {key!r} is a JSON {word}; a JSON {_kind(owner[key])} came")
    return owner[key]


def _kind(value: Any) -> str:
    words = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return words.get(type(value), "number")


def _quoted(names: Any) -> str:
    shown = ", ".join(repr(name) for name in names) or "none"
    return shown if len(shown) <= 300 else shown[:300] + "..."
