"""A reply, and its bytes.

The headers every answer carries are written once for each status and content type: on the hot path a reply is one
formatting of bytes.
"""

from __future__ import annotations

from http import HTTPStatus
from itertools import count
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
_numbers = count(int(uuid4()) & 0xFFFF_FFFF)
next_number = _numbers.__next__
"""Of the request that comes next; `request_id` makes its id of it, where somebody reads that."""
_reasons = {status.value: status.phrase.encode() for status in HTTPStatus}
_blocks: dict[tuple[int, bytes | None, bytes], bytes] = {}
KEEP, CLOSE, KEEP_1_0 = b"", b"connection: close\r\n", b"connection: keep-alive\r\n"
"""What is said of the connection. One that stays is only mentioned to a client of HTTP/1.0, and by old servers."""


def request_id(number: int) -> str:
    return f"{_prefix}{number & 0xFFFF_FFFF_FFFF:012x}"


class Reply:
    """`content_type` None: nobody says what the body is. `reason`: a phrase of its own; None: the status's."""

    __slots__ = ("body", "content_type", "headers", "reason", "status")

    def __init__(
        self,
        body: bytes = b"",
        content_type: bytes | None = b"application/json",
        status: int = 200,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        reason: bytes | None = None,
    ) -> None:
        self.body, self.content_type, self.status, self.headers = body, content_type, status, headers
        self.reason = reason


def has_no_body(status: int) -> bool:
    """Whether a reply with it has none, whatever is said."""
    return status in (204, 304)


def status_line(status: int, reason: bytes | None = None) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, _reasons.get(status, b"-") if reason is None else reason)


def bytes_of(reply: Reply, number: int, connection: bytes, body: bytes) -> bytes:
    """The reply's headers, and `body` behind them. `connection` is one of KEEP, CLOSE and KEEP_1_0."""
    if reply.headers or reply.reason is not None or has_no_body(reply.status):
        if has_no_body(reply.status):  # its length would be of the body that is not there
            return b"%b\r\n" % head_of(reply, number, connection)
        return b"%bcontent-length: %d\r\n\r\n%b" % (head_of(reply, number, connection), len(reply.body), body)
    try:
        block = _blocks[reply.status, reply.content_type, connection]
    except KeyError:
        block = _block(reply.status, reply.content_type, connection)
    return b"%b%012x\r\ncontent-length: %d\r\n\r\n%b" % (block, number, len(reply.body), body)


def head_of(reply: Reply, number: int, connection: bytes) -> bytes:
    """All lines but those that say where its body ends, and the empty one."""
    block = _block(reply.status, reply.content_type, connection, reply.reason)
    more = b"".join(b"%b: %b\r\n" % header for header in reply.headers)
    return b"%b%012x\r\n%b" % (block, number & 0xFFFF_FFFF_FFFF, more)


def _block(status: int, content_type: bytes | None, connection: bytes, reason: bytes | None = None) -> bytes:
    """All that is the same in every such reply; the number of the request follows."""
    always = b"".join(b"%b: %b\r\n" % header for header in ALWAYS)
    says = b"" if content_type is None else b"content-type: %b\r\n" % content_type
    block = status_line(status, reason) + says + always + connection + b"x-request-id: " + _prefix.encode()
    if reason is not None:
        return block
    if len(_blocks) < 1000:  # a door that makes up content types must not fill the memory
        _blocks[status, content_type, connection] = block
    return block
