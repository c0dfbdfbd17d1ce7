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


class NotJson:
    """In the place of what was said to be JSON and is none."""

    def __init__(self, why: Exception, what: str) -> None:
        self.why, self.what = why, what

    def told(self) -> str:
        return (
            f"{self.what} came as application/json and is not JSON ({self.why}): send the numbers as JSON, in nested "
            "lists or in an object by the names of the inputs, or raw bytes as application/octet-stream"
        )


def parsed(rows: Sequence[Any], context: Any) -> list[Any]:
    """The rows, and what is JSON in them and still bytes as what it says: bodies and fields that came as
    application/json (its charset beside it, or by `--decode-input-request no`), and fields of forms that do not say
    what they are (`curl -F x='[1, 2]'`)."""
    if getattr(context, "owners", None) is not None:
        return list(rows)  # they come out of JSON
    return [_row(row, context, index) for index, row in enumerate(rows)]


def _row(row: Any, context: Any, index: int) -> Any:
    if isinstance(row, dict) and list(row) != ["body"]:
        return {key: _field(value, context.get_request_header(index, key), key) for key, value in row.items()}
    value = row["body"] if isinstance(row, dict) else row  # as it is in the envelope `body`
    if not isinstance(value, (bytes, bytearray)):
        return row
    headers = context.get_all_request_header(index)
    content_type = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    return {"body": _json(value, "the body")} if _is_json(content_type) else row


def _field(value: Any, about: Any, key: str) -> Any:
    content_type = about.get("content-type") if isinstance(about, dict) else None
    if not isinstance(value, (bytes, bytearray)) or (key == "body" and not content_type):
        return value
    if content_type:
        return _json(value, f"the field {key!r:.80}") if _is_json(content_type) else value
    found = _json(value, key)
    return value if isinstance(found, NotJson) else found  # bytes of a tensor, then


def _is_json(content_type: Any) -> bool:
    return str(content_type).partition(";")[0].strip().lower() == "application/json"


def _json(value: Any, what: str) -> Any:
    try:
        return json.loads(bytes(value))
    except (ValueError, RecursionError) as error:
        return NotJson(error, what)


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
            answers[index] = refuse(context, index, str(error))
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


def refuse(context: Any, index: int, message: str) -> Any:
    """The body of an error, as the server writes all of them. `index`: of the row; its request has the status."""
    owners = getattr(context, "owners", None)
    if owners is not None:
        index = owners[index]
    context.set_response_status(400, "Bad Request", index)
    context.set_response_content_type(index, "application/json")
    return {"code": 400, "type": "BadRequestException", "message": message}
