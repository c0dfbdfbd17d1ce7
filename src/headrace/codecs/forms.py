"""Form fields: `multipart/form-data` and `application/x-www-form-urlencoded`, and the query of a target.

Rule 1: bytes in, fields out. No sockets, clocks or threads.
Rule 2: one value to a name: of several the last, as TorchServe and Multi Model Server have it.
Rule 3: fields, and the headers of each, are bounded: a client chooses their number.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from headrace.errors import InvalidInput

URLENCODED, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"
MOST = 1000
"""Fields of one form, or of one query."""
HEADERS, HEADER_SIZE = 16, 4096
"""Of one field; bytes of one of them."""


class Field(NamedTuple):
    content_type: str | None
    """None: it was not said, or it cannot be."""
    value: bytes
    is_file: bool


Fields = dict[str, Field]


@lru_cache(64)  # the same few, again and again
def form_kind(content_type: str | None) -> str | None:
    """URLENCODED, MULTIPART, or None: the body is no form."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind if kind in (URLENCODED, MULTIPART) else None


def parse_form(body: bytes, content_type: str | None) -> Fields:
    """InvalidInput for what is no such form, or is cut off."""
    return _multipart(body, content_type or "") if form_kind(content_type) == MULTIPART else parse_urlencoded(body)


def parse_urlencoded(text: bytes) -> Fields:
    """A form, or the query of a target. A name without `=` has an empty value."""
    if text.count(b"&") >= MOST:
        raise InvalidInput(f"a form, or a query, may have at most {MOST:,} fields")
    fields: Fields = {}
    for each in text.split(b"&"):
        if each:
            name, _, value = each.replace(b"+", b" ").partition(b"=")
            fields[_text(unquote_to_bytes(name))] = Field(None, unquote_to_bytes(value), False)
    return fields


class _Collector:
    """What the parser calls."""

    def __init__(self) -> None:
        self.fields: Fields = {}
        self.ended = False
        self._count = 0
        self._headers: dict[bytes, bytes] = {}
        self._name, self._said, self._parts = b"", b"", []  # type: ignore[var-annotated]

    def begin(self) -> None:
        self._count += 1
        if self._count > MOST:
            raise InvalidInput(f"a form may have at most {MOST:,} fields")
        self._headers, self._parts = {}, []

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._said += data[start:end]

    def header_end(self) -> None:
        self._headers[self._name.lower()] = self._said
        self._name = self._said = b""

    def data(self, data: bytes, start: int, end: int) -> None:
        self._parts.append(data[start:end])

    def part_end(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition"))
        if kind != b"form-data" or b"name" not in options:
            raise InvalidInput("a part of a form says `Content-Disposition: form-data; name=…`; one came that does not")
        said = self._headers.get(b"content-type")
        content_type = None if said is None else said.decode("latin-1")
        value = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self.fields[_text(options[b"name"])] = Field(content_type, value, b"filename" in options)

    def end(self) -> None:
        self.ended = True


def _multipart(body: bytes, content_type: str) -> Fields:
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise InvalidInput(f"a form of {MULTIPART} says its boundary: Content-Type: {MULTIPART}; boundary=…")
    collector = _Collector()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": collector.begin,
                "on_header_field": collector.header_name,
                "on_header_value": collector.header_value,
                "on_header_end": collector.header_end,
                "on_part_data": collector.data,
                "on_part_end": collector.part_end,
                "on_end": collector.end,
            },
            max_header_count=HEADERS,
            max_header_size=HEADER_SIZE,
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidInput(f"the body is not the form its boundary says: {error}") from error
    if not collector.ended:
        raise InvalidInput(f"the form is cut off: no boundary ends it ({len(body):,} bytes came)")
    return collector.fields


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")
