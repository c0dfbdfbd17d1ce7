"""A reply, and its bytes.

The headers every answer carries are written once for each status and content type: on the hot path a reply is one
formatting of bytes.
"""

from __future__ import annotations

from http import HTTPStatus
from uuid import uuid4

# What MMS and TorchServe send with every answer.
ALWAYS = (
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
)
LARGE = 64 * 1024
"""Bytes from which a body is not copied behind its headers."""
# A UUID is made once; each request counts on in its last twelve digits. uuid4 for each would cost more than routing.
_prefix = str(uuid4())[:24]
_count = int(uuid4()) & 0xFFFF_FFFF
_reasons = {status.value: status.phrase.encode() for status in HTTPStatus}
_blocks: dict[tuple[int, bytes, bytes], bytes] = {}
KEEP, CLOSE, KEEP_1_0 = b"", b"connection: close\r\n", b"connection: keep-alive\r\n"
"""What is said of the connection. One that stays is only mentioned to a client of HTTP/1.0."""


def next_request_id() -> str:
    global _count
    _count += 1
    return f"{_prefix}{_count & 0xFFFF_FFFF_FFFF:012x}"


class Reply:
    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        body: bytes = b"",
        content_type: bytes = b"application/json",
        status: int = 200,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        self.body, self.content_type, self.status, self.headers = body, content_type, status, headers


def status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, _reasons.get(status, b"-"))


def headers_of(reply: Reply, request_id: str, connection: bytes) -> bytes:
    """The reply's bytes up to its body. `connection` is one of KEEP, CLOSE and KEEP_1_0."""
    key = (reply.status, reply.content_type, connection)
    block = _blocks.get(key)
    if block is None:
        always = b"".join(b"%b: %b\r\n" % header for header in ALWAYS)
        content_type = b"content-type: %b\r\n" % reply.content_type
        block = status_line(reply.status) + content_type + always + connection + b"x-request-id: "
        if len(_blocks) < 1000:  # a door that makes up content types must not fill the memory
            _blocks[key] = block
    more = b"".join(b"%b: %b\r\n" % header for header in reply.headers) if reply.headers else b""
    return b"%b%b\r\n%bcontent-length: %d\r\n\r\n" % (block, request_id.encode(), more, len(reply.body))
