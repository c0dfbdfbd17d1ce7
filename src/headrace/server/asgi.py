"""The little of ASGI that the doors need: a request, its body under a limit, a reply.

One kind of object in, one out; no framework, because each layer of one costs as much as all of ours.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic
from typing import Any
from uuid import uuid4

from headrace.errors import InvalidInput, TooLarge
from headrace.serving.served import Served

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# What MMS and TorchServe send with every answer.
_ALWAYS = (
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
)
# A UUID is made once; each request counts on in its last twelve digits. uuid4 for each would cost more than routing.
_prefix = str(uuid4())[:24]
_count = int(uuid4()) & 0xFFFF_FFFF


def next_request_id() -> str:
    global _count
    _count += 1
    return f"{_prefix}{_count & 0xFFFF_FFFF_FFFF:012x}"


class ClientLeft(Exception):
    """The client closed the connection before its request was complete."""


class BadFraming(InvalidInput):
    """The body is not what the headers say. Where the next request begins is not known either."""


class Request:
    """One HTTP request. `content_length` None: it comes in chunks, or has no body. `complete`: its body is here."""

    __slots__ = (
        "_receive",
        "_upgrade",
        "began",
        "chunked",
        "complete",
        "content_length",
        "content_type",
        "id",
        "json_length",
        "method",
        "path",
        "received",
        "served",
    )

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.id = next_request_id()
        self.began = monotonic()
        self.content_type: str | None = None
        self.content_length: int | None = None
        self.json_length: str | None = None
        """`Inference-Header-Content-Length`: the body is JSON of that length, then tensors as bytes."""
        self.chunked = self.complete = self._upgrade = False
        self.served: Served | None = None
        """The model it is for, once that is known."""
        self.received = 0  # bytes of its body, once that is here
        self._receive = receive
        for name, value in scope["headers"]:
            if name == b"content-length":
                if not value.isdigit() or len(value) > 18:
                    raise InvalidInput(f"Content-Length is a whole number, not {value!r:.40}")
                self.content_length = int(value)
            elif name == b"content-type":
                self.content_type = value.decode("latin-1")
            elif name == b"transfer-encoding":
                self.chunked = True
            elif name == b"upgrade":
                self._upgrade = True
            elif name == b"inference-header-content-length":
                self.json_length = value.decode("latin-1")
            elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                raise InvalidInput(f"Content-Encoding {value.decode('latin-1')!r:.40} is not read in this version")

    async def body(self, limit: int, grow: Callable[[int], object]) -> bytes:
        """The whole body. TooLarge over `limit` bytes; `grow(n)` is told of bytes that no Content-Length announced."""
        body = await self._read(limit, grow)
        self.complete, self.received = True, len(body)
        # uvicorn loses the body of a request that offers an upgrade, as Java's HttpClient does by default (`h2c`): an
        # answer to the empty body would be wrong, and nobody would know.
        if self.content_length is not None and len(body) != self.content_length:
            lost = "; send it without `Upgrade`" if self._upgrade else ""
            raise BadFraming(f"Content-Length is {self.content_length:,}, but {len(body):,} bytes came{lost}")
        if self._upgrade and self.chunked and not body:
            raise BadFraming("a request with `Upgrade` came without its body; send it without `Upgrade`")
        return body

    async def _read(self, limit: int, grow: Callable[[int], object]) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            return self._checked(body, limit, grow)
        parts = [self._checked(body, limit, grow)]
        size = len(body)
        while message.get("more_body", False):
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise TooLarge("a request body", limit=limit)
            if self.content_length is None:
                grow(len(part))
            parts.append(part)
        return b"".join(parts)

    def _checked(self, body: bytes, limit: int, grow: Callable[[int], object]) -> bytes:
        if len(body) > limit:
            raise TooLarge("a request body", limit=limit)
        if self.content_length is None and body:
            grow(len(body))
        return body

    async def left(self) -> None:
        """Returns once the client has gone. Only after the body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


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

    async def send(self, send: Send, request_id: str, head: bool) -> None:
        headers = [
            (b"content-type", self.content_type),
            (b"content-length", str(len(self.body)).encode()),
            (b"x-request-id", request_id.encode()),
            *_ALWAYS,
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head else self.body})
