"""What a request has for a ready-made handler, and how its answer is told: one bad request fails by itself.

Rule 1: what a client did wrong is its own answer (400, with a reason); the others of the batch have theirs.
Rule 2: requests are run together where their arrays agree in all but the first dimension; else one after the other.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Callable, Sequence

import numpy as np


class Bad(Exception):
    """The request cannot be run as it is. Says what was expected and what came."""


def body_of(row: Any) -> Any:
    """`data`, or `body`: as handlers have always looked for it. A form of one field is that field."""
    if not isinstance(row, dict):
        return row
    for key in ("data", "body"):
        if row.get(key) is not None:
            return row[key]
    if len(row) == 1:
        return next(iter(row.values()))
    raise Bad("the request has no body, and no field called data: {} came".format(", ".join(sorted(row)) or "nothing"))


def with_parsed_fields(rows: Sequence[Any], context: Any) -> list[Any]:
    """The rows, and in those of forms the fields that do not say what they are (`curl -F x='[1, 2]'`) as their JSON."""
    if getattr(context, "owners", None) is not None:
        return list(rows)  # they come out of JSON
    return [
        {key: _parsed(value, context.get_request_header(index, key), key) for key, value in row.items()}
        if isinstance(row, dict) and list(row) != ["body"]
        else row
        for index, row in enumerate(rows)
    ]


def _parsed(value: Any, about: Any, key: str) -> Any:
    if key == "body" or not isinstance(about, dict) or about.get("content-type"):
        return value
    try:
        return json.loads(bytes(value)) if isinstance(value, (bytes, bytearray)) else value
    except (ValueError, RecursionError):
        return value  # bytes of a tensor, then


def bytes_of(value: Any, what: str) -> bytes:
    """Raw bytes, or base64 text of them."""
    if isinstance(value, dict) and set(value) == {"b64"}:
        value = value["b64"]
    if isinstance(value, str):
        text = value.partition("base64,")[2] if value.startswith("data:") else value
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise Bad(f"{what} is expected: its bytes as the body, or base64; other text came") from None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise Bad(f"{what} is expected: its bytes as the body, or base64; a JSON {_kind(value)} came")


def _kind(value: Any) -> str:
    return {dict: "object", list: "array", str: "string", bool: "boolean"}.get(type(value), "value")


def answer_all(
    rows: Sequence[Any],
    context: Any,
    runtime: Any,
    read: Callable[[Any], dict[str, Any]],
    write: Callable[[list[Any]], Any],
) -> list[Any]:
    """An answer for each of `rows`. `read` makes inputs of one, by name; `write` an answer of outputs."""
    joins = all(spec.shape is None or (spec.shape and spec.shape[0] is None) for spec in runtime.inputs)
    answers: list[Any] = [None] * len(rows)
    together: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
    for index, row in enumerate(rows):
        try:
            inputs = read(row)
        except Bad as error:
            answers[index] = _refuse(context, index, str(error))
            continue
        alike: tuple[Any, ...] = tuple(
            (name, array.dtype.str, array.shape[1:], array.ndim) for name, array in sorted(inputs.items())
        )
        counts = {len(array) for array in inputs.values() if array.ndim}
        if not joins or len(counts) != 1 or any(not array.ndim for array in inputs.values()):
            alike = (*alike, index)  # it has no rows to be joined by
        together.setdefault(alike, []).append((index, inputs))
    for members in together.values():
        for index, outputs in _run(members, runtime.run):
            answers[index] = write(outputs)
    return answers


def _run(
    members: list[tuple[int, dict[str, Any]]], run: Callable[[dict[str, Any]], list[Any]]
) -> list[tuple[int, list[Any]]]:
    if len(members) == 1:
        ((index, inputs),) = members
        return [(index, run(inputs))]
    names = list(members[0][1])
    sizes = [len(inputs[names[0]]) for _, inputs in members]
    outputs = run({name: np.concatenate([inputs[name] for _, inputs in members]) for name in names})
    total = sum(sizes)
    if any(not getattr(output, "ndim", 0) or len(output) != total for output in outputs):
        return [(index, run(inputs)) for index, inputs in members]  # what it gives is no row for each row
    ends = np.cumsum(sizes)
    return [
        (index, [output[end - size : end] for output in outputs])
        for (index, _), size, end in zip(members, sizes, ends.tolist())
    ]


def _refuse(context: Any, index: int, message: str) -> Any:
    """The body of an error, as the server writes all of them. `index`: of the row; its request has the status."""
    owners = getattr(context, "owners", None)
    if owners is not None:
        index = owners[index]
    context.set_response_status(400, "Bad Request", index)
    context.set_response_content_type(index, "application/json")
    return {"code": 400, "type": "BadRequestException", "message": message}
