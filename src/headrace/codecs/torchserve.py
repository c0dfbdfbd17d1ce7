"""The bodies of `/predictions`, as TorchServe and Multi Model Server have them.

Rule 1: bytes in, values out, and back. No sockets, clocks or threads.
Rule 2: the content type decides, never a guess; but curl's default for `-d` says "form" of every body, so a form that
        begins as JSON is read as JSON.
Rule 3: a tensor is as strict here as on /v2 (see `arrays`). In particular no dimension is added: a picture without its
        batch dimension is refused, with the shape that was expected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
import orjson

from headrace.codecs.arrays import (
    array_from_nested,
    check_names,
    check_shape,
    describe,
    native,
    nested_shape,
    parse_json,
    quoted,
)
from headrace.codecs.forms import MULTIPART, URLENCODED, Field, Fields, form_kind, parse_form
from headrace.errors import BackendError, InvalidInput
from headrace.tensor import Array, TensorSpec

_RAW = (bytes, bytearray, memoryview)  # a union would be made anew at each look
_BINARY = "application/octet-stream"
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
_CHARSETS = {
    "utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "ascii", "ascii": "ascii", "iso-8859-1": "iso-8859-1",
    "latin-1": "iso-8859-1", "latin1": "iso-8859-1", "iso-8859-15": "iso-8859-15", "windows-1252": "cp1252",
    "utf-16": "utf-16",
}  # fmt: skip
_INSTEAD = {
    "complex": "[x.real, x.imag]",
    "bytes": "bytes alone, or base64 text in what is JSON",
    "timedelta": "x.total_seconds()",
    "Fraction": "float(x), or str(x)",
    "coroutine": "what it gives: declare the function with `async def`, and serve it in worker processes",
}
"""Of what JSON cannot hold."""
_PRETTY = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


class Form(dict[str, Field]):
    """A body of form fields."""


def decode_body(body: bytes, content_type: str | None) -> object:
    """What a callable is given: parsed JSON, a str, or the bytes as they came; or a Form."""
    kind = _kind(content_type)
    if kind == _JSON or (kind == URLENCODED and body.lstrip()[:1] in (b"{", b"[")):
        return parse_json(body)
    if kind in (URLENCODED, MULTIPART):
        return Form(parse_form(body, content_type))
    if kind.startswith("text/"):
        charset = _charset(content_type)
        try:
            return body.decode(charset)
        except UnicodeDecodeError as error:
            raise InvalidInput(f"the body is {kind} but not {charset.upper()} at byte {error.start}") from error
    return body


@lru_cache(64)
def _charset(content_type: str | None) -> str:
    """What text is encoded in; UTF-8 if that is not said. InvalidInput if it is none of `_CHARSETS`."""
    for parameter in (content_type or "").split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            asked = value.strip().strip('"').lower()
            charset = _CHARSETS.get(asked)
            if charset is None:
                raise InvalidInput(f"text is taken in {', '.join(_CHARSETS)}, {describe(asked)} came: send UTF-8")
            return charset
    return "utf-8"


@lru_cache(64)  # the same few, again and again
def _kind(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()


def values_of(form: Form) -> dict[str, object]:
    """What a callable is given of a form: text as a str, JSON parsed, files as their bytes."""
    return {name: _value_of(field) for name, field in form.items()}


def _value_of(field: Field) -> object:
    if form_kind(field.content_type) is not None:  # a form in a form: whoever sends that takes it apart
        return field.value
    if field.content_type is not None or field.is_file:
        return decode_body(field.value, field.content_type or _BINARY)
    try:
        return field.value.decode()
    except UnicodeDecodeError:
        return field.value


def picture_of(fields: Fields) -> bytes:
    """The file in the field `data` or `body`, or the only one there is. InvalidInput if it is not clear which."""
    for name in ("data", "body"):
        if name in fields:
            return fields[name].value
    files = [field for field in fields.values() if field.is_file]
    if len(files) != 1 and len(fields) != 1:
        there = quoted(fields) if fields else "none"
        raise InvalidInput(f"the picture goes in the field 'data' (curl -F data=@FILE); fields that came: {there}")
    return (files or list(fields.values()))[0].value


def tensors_from_form(form: Form, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The inputs of a tensor model: in each field the JSON, or in a file the bytes, of the input of its name.

    Of a model with one input the only field may be called anything.
    """
    if len(specs) == len(form) == 1:
        form = Form({specs[0].name: next(iter(form.values()))})
    check_names(form, specs)
    found: dict[str, Array] = {}
    for spec in specs:
        field = form[spec.name]
        if field.is_file and _kind(field.content_type) != _JSON:
            found |= tensors_from_bytes(field.value, [spec])
        else:
            found[spec.name] = _tensor(parse_json(field.value), spec)
    return found


def encode(value: object) -> tuple[bytes, str]:
    """The body and the content type of an answer.

    Bytes and text go as they are, everything else as JSON, in which non-finite floats become null. BackendError names
    the type that JSON cannot hold.
    """
    if isinstance(value, _RAW):
        return bytes(value), _BINARY
    try:
        if isinstance(value, str):
            return value.encode(), _TEXT
        try:
            return orjson.dumps(value, default=_plain, option=_PRETTY), _JSON
        except orjson.JSONEncodeError:
            # An array in the other byte order is the one thing orjson refuses without asking `_plain`.
            return orjson.dumps(_in_native_order(value), default=_plain, option=_PRETTY), _JSON
    except (orjson.JSONEncodeError, UnicodeEncodeError, RecursionError) as error:
        why = error.__cause__ or error  # what `_plain` said, where it was asked
        raise BackendError(f"an answer of type {type(value).__name__} cannot be sent as JSON or text: {why}") from error


def tensors_from_json(value: object, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The inputs of a tensor model: an object keyed by their names or, if there is only one, its nested lists."""
    if isinstance(value, dict):
        check_names(value, specs)
        return {spec.name: _tensor(value[spec.name], spec) for spec in specs}
    if len(specs) != 1:
        names = quoted(spec.name for spec in specs)
        raise InvalidInput(f"an object with the keys {names} was expected, {describe(value)} came")
    return {specs[0].name: _tensor(value, specs[0])}


def tensors_from_bytes(body: bytes, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The one input of a single-input model from its raw bytes, little-endian and row-major. A view, not a copy.

    Every dimension but the first must be fixed; the first follows from the length.
    """
    if len(specs) != 1:
        names = quoted(spec.name for spec in specs)
        raise InvalidInput(f"raw bytes are taken by models with one input; this one has {names}: send JSON")
    spec = specs[0]
    where = f"input {quoted([spec.name])}"
    if spec.dtype.kind not in "biuf":
        raise InvalidInput(f"{where} takes text, not raw bytes: send JSON")
    if None in spec.shape[1:]:
        raise InvalidInput(f"{where} has free dimensions ({spec}), so raw bytes do not say its shape: send JSON")
    inner = tuple(size for size in spec.shape[1:] if size is not None)
    row = math.prod(inner) * spec.dtype.itemsize
    expected = f"a row of {spec} has {row:,} bytes"
    rows, rest = divmod(len(body), row) if row else (0, 0)
    if rest or not rows or (rows > 1 and not spec.shape):
        raise InvalidInput(f"{where}: {expected}, {len(body):,} bytes came: that is not one or more whole rows")
    shape = (rows, *inner) if spec.shape else ()
    check_shape(f"{where}: {expected}, {len(body):,} bytes came", shape, spec)
    values: Array = np.frombuffer(body, spec.dtype.newbyteorder("<")).reshape(shape)
    if spec.dtype.kind == "b" and values.view(np.uint8).max() > 1:
        raise InvalidInput(f"{where}: a byte of BOOL must be 0 or 1, {values.view(np.uint8).max()} came")
    return {spec.name: values.astype(spec.dtype, copy=False)}


def error_body(code: int, type: str, message: str) -> bytes:
    """The body of every error: `code` is the HTTP status, `type` the name the old servers gave to it."""
    readable = message.encode(errors="replace").decode()  # a lone surrogate must not cost the client its answer
    return orjson.dumps(
        {"code": code, "type": type, "message": readable}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    )


def _tensor(value: object, spec: TensorSpec) -> Array:
    where = f"input {quoted([spec.name])}"
    shape = nested_shape(value, where)
    check_shape(where, shape, spec)
    return array_from_nested(value, spec.dtype, shape, where)


def _in_native_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _in_native_order(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_in_native_order(item) for item in value]
    return native(value) if isinstance(value, np.ndarray) and not value.dtype.isnative else value


def _plain(value: Any) -> Any:
    """What orjson does not take by itself, in a form that it takes."""
    if isinstance(value, np.ma.MaskedArray):  # null where it is masked
        return value.tolist()
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "f" and value.dtype.itemsize > 8:
            value = value.astype(np.float64)
        if value.dtype.kind in "biuf":
            return native(value) if value.ndim else value.item()
        if value.dtype.kind == "S":
            try:
                value = np.char.decode(value, "utf-8")
            except UnicodeDecodeError:
                raise TypeError("an array of bytes that are not UTF-8") from None
        if value.dtype.kind in "OUM":  # M: dates. orjson takes most by itself; what arrives here is not contiguous
            value = value.astype(str) if value.dtype.kind == "M" else value
            return value.tolist()
        raise TypeError(f"an array of {value.dtype} has no form in JSON")
    if isinstance(
        value, tuple
    ):  # orjson leaves out named tuples; `json` writes them as lists, and so did the old servers
        return list(value)
    if isinstance(value, set | frozenset):
        return list(value)
    if isinstance(value, Decimal):  # a float would be another number
        return str(value)
    hint = _INSTEAD.get(type(value).__name__, "numbers, text, lists or dicts")
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} has no form in JSON: return {hint}")
