"""The management API as a plain ASGI app, and as a port with a life of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable

from headrace.errors import Closed, TooLarge, TooSlow
from headrace.server.asgi import ClientLeft, Receive, Request, Scope, Send, send_reply
from headrace.server.asking import Asked
from headrace.server.front import Front
from headrace.server.limits import Limits
from headrace.server.listener import Listener
from headrace.server.management import ManagementDoor
from headrace.server.parameters import Parameters
from headrace.server.refusing import ends_the_connection
from headrace.server.reply import Reply, next_number
from headrace.server.reply import request_id as id_of
from headrace.server.traffic import LEFT, Traffic, sent_path

BODY = 1 << 20
"""Bytes of a body: parameters, no model."""
LAST_WORDS = 1.0
_log = logging.getLogger("headrace.server")


class ManagementApp:
    """Answers each request by its door; whatever goes wrong with one costs no other anything."""

    def __init__(self, door: ManagementDoor, *, body_timeout: float = 60.0, traffic: Traffic | None = None) -> None:
        self.door, self._body_timeout, self._traffic = door, body_timeout, traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the management API speaks HTTP, not {scope['type']}")
        door, path, head = self.door, scope["path"], scope["method"] == "HEAD"
        request_id = id_of(next_number())
        request: Request | None = None
        asked: Asked | None = None
        error: Exception | None = None
        began = time.monotonic()
        try:
            request = Request(scope, receive)
            route, named = door.check(request.head, _header(scope["headers"], b"origin"))
            request.head.check_coding()
            body = await self._body(request)
            query = scope.get("query_string", b"").decode("latin-1")
            parameters = Parameters.of(query, body, request.head.content_type, texts=door.compat.is_old)
            client = scope.get("client")
            who = f"{client[0]}:{client[1]}, request {request_id}" if client else f"request {request_id}"
            asked = Asked(request.head, parameters, body, named, who)
            reply = await door.answer(route, asked)
        except ClientLeft:
            self._tell(scope, None, began, request_id, None)
            return
        except asyncio.CancelledError:
            # The time to drain is up. Who was accepted is answered all the same: with a refusal.
            error = Closed("the server has stopped, and could not wait for this")
            reply = door.refuse(error, None, path, request_id, asked)
            self._tell(scope, reply, began, request_id, error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await send_reply(reply, send, request_id, head=head)
            return
        except Exception as raised:
            error = raised
            reply = door.refuse(error, None, path, request_id, asked)
        self._tell(scope, reply, began, request_id, error)
        close = (error is not None and ends_the_connection(error)) or reply.status >= door.compat.closes_from
        await send_reply(reply, send, request_id, head=head, close=close)

    def takes(self, path: str) -> bool:
        return self.door.takes(path)

    async def _body(self, request: Request) -> bytes:
        length = request.head.content_length or 0
        if length > BODY:
            raise TooLarge("a request body", limit=BODY, size=length)
        try:
            async with asyncio.timeout(self._body_timeout):
                return await request.body(BODY, _grow)
        except TimeoutError:
            raise TooSlow(self._body_timeout) from None

    def _tell(self, scope: Scope, reply: Reply | None, began: float, request_id: str, error: Exception | None) -> None:
        """Whoever counts and logs. `reply` None: the client has left."""
        traffic = self._traffic
        if traffic is None:
            return
        status = LEFT if reply is None else reply.status
        sent = 0 if reply is None or scope["method"] == "HEAD" else len(reply.body)
        traffic.answered(None, status, 0, sent, began, error)
        if traffic.access is not None:
            traffic.log(scope.get("client"), scope["method"], sent_path(scope), status, sent, began, request_id)


class ManagementPort:
    """Where it listens, where that is a port of its own."""

    def __init__(self, app: ManagementApp, listener: Listener, limits: Limits, url: str) -> None:
        self.url = url
        self._listener, self._front = listener, Front(app, limits, app.door.compat)

    def open(self) -> None:
        """On the loop of the server."""
        self._front.listen(self._listener)
        _log.info("management API on %s", self.url)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # its loop has been closed, and took the reader along
            self._listener.close()

    async def drain(self, timeout: float) -> None:
        """On the loop: no new connections; what was asked is answered, for at most so many seconds."""
        self._listener.close()
        await self._listener.wait_closed(min(LAST_WORDS, timeout))
        await self._front.drain(timeout)


def _header(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> str | None:
    return next((value.decode("latin-1") for name, value in headers if name == wanted), None)


def _grow(_: int) -> None:
    """Bodies are small, and there are few of them: nobody counts them."""
