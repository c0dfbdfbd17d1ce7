"""Which tensors of an ONNX file lie outside of it, and where. Pure; worker processes load this file by its path.

It reads the few fields of the file's protocol buffers that say so, because neither we nor a worker's environment need
the `onnx` package. Only the main graph is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

GRAPH, INITIALIZER = 7, 5  # of a model, of its graph
DIMS, TYPE, NAME, EXTERNAL, LOCATION = 1, 2, 8, 13, 14  # of a tensor
KEY, VALUE = 1, 2  # of what is said of its file
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Tensor(NamedTuple):
    name: str
    type: int
    """As ONNX numbers element types."""
    dims: tuple[int, ...]
    file: str
    offset: int
    nbytes: int


def external(model: Any) -> list[Tensor]:
    """`model`: the bytes of the file. ValueError if it is none, or says something of a file that cannot be."""
    model = memoryview(model)
    found = []
    for number, graph in _fields(model):
        if number == GRAPH:
            for inner, tensor in _fields(graph):
                if inner == INITIALIZER:
                    read = _tensor(tensor)
                    if read is not None:
                        found.append(read)
    return found


def _tensor(data: Any) -> Tensor | None:
    name, kind, dims, about, is_external = "", 0, [], {}, False
    for number, value in _fields(data):
        if number == NAME:
            name = bytes(value).decode()
        elif number == TYPE:
            kind = value
        elif number == LOCATION:
            is_external = value == 1
        elif number == DIMS:
            dims += [value] if isinstance(value, int) else list(_packed(value))
        elif number == EXTERNAL:
            entry = dict(_fields(value))
            about[bytes(entry.get(KEY, b"")).decode()] = bytes(entry.get(VALUE, b"")).decode()
    if not is_external:
        return None
    offset, nbytes = int(about.get("offset", 0)), int(about["length"]) if "length" in about else -1
    if offset < 0 or nbytes < 0 or not about.get("location"):
        raise ValueError(f"tensor {name!r} does not say where it lies")
    return Tensor(name, kind, tuple(dims), about["location"], offset, nbytes)


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """Each field's number, and its value: a whole number, or bytes."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == VARINT:
            value, at = _varint(data, at)
        else:
            if kind == BYTES:
                size, at = _varint(data, at)
            elif kind in (FIXED32, FIXED64):
                size = 4 if kind == FIXED32 else 8
            else:
                raise ValueError("this is no protocol buffer")
            if size > end - at:
                raise ValueError("a protocol buffer is cut off")
            value = data[at : at + size]
            at += size
        yield tag >> 3, value


def _packed(data: Any) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: Any, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a protocol buffer is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
