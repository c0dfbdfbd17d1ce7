"""The little of ASGI that the doors need: a request, its body under a limit, a reply that is sent.

One kind of object in, one out; no framework, because each layer of one costs as much as all of ours.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic
from typing import Any

from headrace.errors import TooLarge
from headrace.server.head import BadFraming, Head
from headrace.server.parts import gather
from headrace.server.reply import ALWAYS, Reply, has_no_body
from headrace.serving.served import Served

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ClientLeft(Exception):
    """The client closed the connection before its request was complete."""


class Request:
    """One HTTP request. `complete`: its body is here."""

    __slots__ = ("_receive", "began", "complete", "head", "received", "served")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        # Our own protocol tells the headers as they came, too: ASGI has their names in lower case.
        headers = scope.get("extensions", {}).get("headrace.headers", scope["headers"])
        self.head = Head(scope["method"], scope["path"], headers)
        self.began = monotonic()
        self.complete = False
        self.received = 0  # bytes of its body, once that is here
        self.served: Served | None = None
        """The model it is for, once that is known."""
        self._receive = receive

    async def body(self, limit: int, grow: Callable[[int], object]) -> bytes:
        """The whole body. TooLarge over `limit` bytes; `grow(n)` is told of bytes that no Content-Length announced."""
        body = await self._read(limit, grow)
        self.complete, self.received = True, len(body)
        # uvicorn loses the body of a request that offers an upgrade, as Java's HttpClient does by default (`h2c`): an
        # answer to the empty body would be wrong, and nobody would know.
        head = self.head
        if head.content_length is not None and len(body) != head.content_length:
            lost = "; send it without `Upgrade`" if head.upgrades else ""
            raise BadFraming(f"Content-Length is {head.content_length:,}, but {len(body):,} bytes came{lost}")
        if head.upgrades and head.chunked and not body:
            raise BadFraming("a request with `Upgrade` came without its body; send it without `Upgrade`")
        return body

    async def _read(self, limit: int, grow: Callable[[int], object]) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            return self._checked(body, limit, grow)
        parts: list[bytes | bytearray] = [self._checked(body, limit, grow)]
        size = len(body)
        while message.get("more_body", False):
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise TooLarge("a request body", limit=limit)
            if self.head.content_length is None:
                grow(len(part))
            gather(parts, part)
        return b"".join(parts)

    def _checked(self, body: bytes, limit: int, grow: Callable[[int], object]) -> bytes:
        if len(body) > limit:
            raise TooLarge("a request body", limit=limit)
        if self.head.content_length is None and body:
            grow(len(body))
        return body

    async def left(self) -> None:
        """Returns once the client has gone. Only after the body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def send_reply(reply: Reply, send: Send, request_id: str, *, head: bool, close: bool = False) -> None:
    """`head`: the request was one. `close`: the connection is to end with it."""
    headers = _headers(reply, request_id)
    if not has_no_body(reply.status):
        headers.append((b"content-length", str(len(reply.body)).encode()))
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else reply.body})


def _headers(reply: Reply, request_id: str) -> list[tuple[bytes, bytes]]:
    """A reason phrase is not told: ASGI has none."""
    says = () if reply.content_type is None else ((b"content-type", reply.content_type),)
    return [*says, (b"x-request-id", request_id.encode()), *ALWAYS, *reply.headers]


class PartsSent:
    """A reply that comes in parts. `reply`: what its first part said, None before that; `sent`: bytes of its body."""

    def __init__(self, send: Send, request_id: str, *, head: bool) -> None:
        self._send, self._request_id, self._head = send, request_id, head
        self.reply: Reply | None = None
        self.sent = 0

    async def begin(self, reply: Reply) -> Callable[[bytes], Awaitable[object]]:
        self.reply = reply
        headers = [*_headers(reply, self._request_id), (b"ts_stream_next", b"true")]
        await self._send({"type": "http.response.start", "status": reply.status, "headers": headers})
        return self.more

    async def more(self, body: bytes, *, more: bool = True) -> None:
        assert self.reply is not None
        body = b"" if self._head or has_no_body(self.reply.status) else body
        self.sent += len(body)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
