"""From a request to what a handler is given, and from what it returns to an answer. Loaded by its path in workers.

Rule 1: as both servers do it, byte for byte: the content type decides, and `application/json; charset=utf-8` is not
        `application/json`: handlers were written against that. Beyond them, text is read in the charset it names.
Rule 2: an answer is data: bytes; what the context was told beside them; or an error with its status.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import Any

_log = logging.getLogger("headrace.handler")
INTERNAL = "InternalServerException"
_decoder: Any = json.JSONDecoder()
_text, _infinity = json.encoder.encode_basestring_ascii, float("inf")

CHARSETS = {
    "utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "ascii", "ascii": "ascii", "iso-8859-1": "iso-8859-1",
    "latin-1": "iso-8859-1", "latin1": "iso-8859-1", "iso-8859-15": "iso-8859-15", "windows-1252": "cp1252",
    "utf-16": "utf-16",
}  # fmt: skip
"""Those of `codecs/torchserve`, which workers do not have; not all that Python knows, which include what is no text."""


def _parse(text: str) -> Any:
    """As `json.loads`, which looks for space around a value before and behind: 2 us."""
    try:
        value, end = _decoder.scan_once(text, 0)
    except StopIteration:
        end = -1
    return value if end == len(text) else _decoder.decode(text)


class Unsupported(Exception):
    """No answer can be made of what a handler returned."""


def _charset(content_type: str) -> str | None:
    """What text is encoded in; UTF-8 if that is not said, None if it is none of CHARSETS."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return CHARSETS.get(value.strip().strip('"').lower())
    return "utf-8"


def value_of(data: Any, content_type: Any, decode: bool) -> Any:
    """Of a body, a form field or a query parameter; None: nobody said what it is."""
    if not content_type:
        return bytearray(data)
    if decode and content_type == "application/json":
        try:
            return _parse(str(data, "utf-8"))  # `json.loads` would guess the encoding of bytes: 1 us
        except (ValueError, RecursionError) as error:
            _log.warning("what came as application/json is none, the handler is given the bytes: %s", error)
    elif decode and content_type.startswith("text"):
        charset = _charset(content_type) if ";" in content_type else "utf-8"
        if charset is None:
            _log.warning(
                "what came as %.200s is in no charset that is read, the handler is given the bytes", content_type
            )
            return bytearray(data)
        try:
            return bytes(data).decode(charset)
        except UnicodeDecodeError as error:
            _log.warning(
                "what came as %.200s is not %s, the handler is given the bytes: %s",
                content_type,
                charset.upper(),
                error,
            )
    return bytearray(data)


def read(headers: Any, body: Any, decode: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what the handler is given of a request, what the context says of it)."""
    if isinstance(body, (bytes, bytearray, memoryview)):
        content_type = ""
        for name, value in headers:
            if len(name) == 12 and name.lower() == "content-type":
                content_type = value
        return {"body": value_of(body, content_type, decode)}, dict(headers)
    row, about = {}, {}
    for name, content_type, data in body:
        row[name] = value_of(data, content_type, decode)  # of several with one name the last one stays
        about[name] = {"content-type": content_type or ""}
    about.update(headers)
    return row, about


def answer_of(value: Any) -> bytes:
    """Unsupported if there is none."""
    kind = type(value)
    if kind is bytes:
        return value  # type: ignore[no-any-return]
    if kind is str:
        try:
            return value.encode()  # type: ignore[no-any-return]
        except UnicodeEncodeError as error:
            raise Unsupported(f"text that is not Unicode: {error}") from None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, getattr(torch, "Tensor", ())):
        file = io.BytesIO()
        torch.save(value, file)
        return file.getvalue()
    try:
        return _json(value).encode()
    except (TypeError, ValueError, RecursionError, UnicodeEncodeError) as error:
        raise Unsupported(f"{kind.__name__}: {error}") from None


def _json(value: Any) -> str:
    try:
        return _indented(value, "\n", 0)
    except _Odd:
        pass
    try:
        return json.dumps(value, indent=2, default=_plain)
    except TypeError:  # a NumPy scalar for a key is refused before `_plain` is asked
        return json.dumps(_plain_keys(value), indent=2, default=_plain)


class _Odd(Exception):
    """`json` has to say what this is, or what is wrong with it."""


def _indented(value: Any, margin: str, depth: int) -> str:
    """What `json.dumps(value, indent=2)` gives, which takes four times as long: with `indent` it is Python through and
    through. `margin`: a line break, and the space before what stands there. _Odd for what is not plain."""
    kind = type(value)
    if kind is str:
        return _text(value)
    if kind is int:
        return int.__repr__(value)
    if kind is float:
        if value != value or value in (_infinity, -_infinity):
            raise _Odd
        return float.__repr__(value)
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if depth > 50 or (kind is not dict and kind is not list and kind is not tuple):
        raise _Odd
    if not value:
        return "{}" if kind is dict else "[]"
    inner, depth = margin + "  ", depth + 1
    if kind is dict:
        parts = []
        for key, each in value.items():
            if type(key) is not str:
                raise _Odd
            parts.append(_text(key) + ": " + _indented(each, inner, depth))
        return "{" + inner + ("," + inner).join(parts) + margin + "}"
    return "[" + inner + ("," + inner).join([_indented(each, inner, depth) for each in value]) + margin + "]"


def _plain(value: Any) -> Any:
    """The servers refused these; there is but one thing they can mean."""
    for method in ("tolist", "asnumpy"):  # NumPy's and torch's; MXNet's
        if callable(getattr(value, method, None)):
            plain = getattr(value, method)()
            return plain.tolist() if method == "asnumpy" else plain
    if isinstance(value, (set, frozenset)):
        return list(value)
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} has no form in JSON")


def _plain_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key.item() if hasattr(key, "item") else key: _plain_keys(each) for key, each in value.items()}
    return [_plain_keys(each) for each in value] if isinstance(value, (list, tuple)) else value


def answers(values: list[Any], processors: Any) -> list[Any]:
    """One for each; what cannot be sent is an error of that one alone."""
    made: list[Any] = []
    for value, processor in zip(values, processors):
        try:
            body = value if type(value) is bytes else answer_of(value)
        except Unsupported as error:
            _log.error("an answer cannot be sent: %s", error)
            made.append((503, INTERNAL, f"Unsupported model output data type. ({error})"))
            continue
        if processor._status_code == 200 and not processor._response_header and not processor._reason_phrase:
            made.append(body)
        else:
            made.append(with_head(body, processor))
    return made


def with_head(body: bytes, processor: Any) -> tuple[bytes, Any, int, Any, tuple[tuple[str, str], ...]]:
    """(body, content type or None, status, reason or None, other headers)."""
    told = processor._response_header
    if len(told) == 1 and processor._status_code == 200 and not processor._reason_phrase:
        content_type = told.get("content-type")
        if type(content_type) is str:
            return body, content_type, 200, None, ()
    content_type, headers = None, []
    for name, value in told.items():
        if str(name).lower() == "content-type":
            content_type = None if value is None else str(value)
        elif value is not None:
            headers.append((str(name), str(value)))
    phrase = processor._reason_phrase
    return body, content_type, int(processor._status_code), (str(phrase) if phrase else None), tuple(headers)
