"""The plain ASGI app: routes to doors, errors to replies. Runs under any ASGI server.

Whatever goes wrong with one request is answered, logged where it is ours, and costs no other request anything.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from headrace.errors import Closed, InvalidInput
from headrace.server.answering import Answering
from headrace.server.asgi import ClientLeft, PartsSent, Receive, Request, Scope, Send, send_reply
from headrace.server.compat import Compat
from headrace.server.door import Route
from headrace.server.refusing import ends_the_connection, refusal
from headrace.server.reply import Reply, next_number
from headrace.server.reply import request_id as id_of
from headrace.server.routes import TOLD, route, tell
from headrace.server.tokens import INFERENCE, Tokens
from headrace.server.traffic import LEFT, Traffic, sent_path
from headrace.serving.served import Served
from headrace.serving.service import Service

FREE = TOLD | {"/", "/api-description"}
"""Paths that need no token."""


class Beside(Protocol):
    def takes(self, path: str) -> bool:
        """Whether it answers that path."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class App:
    def __init__(
        self,
        service: Service,
        *,
        max_body_size: int,
        body_timeout: float = 60.0,
        traffic: Traffic | None = None,
        tokens: Tokens | None = None,
        compat: Compat = Compat.headrace,
    ) -> None:
        """`traffic` is told of every request; None: nobody wants to know. `tokens`: without one nobody is answered, but
        of health and of what there is to ask. `compat`: whose words refusals are told in."""
        self.service, self.traffic, self.tokens = service, traffic, tokens
        self.compat = compat
        self.management: Beside | None = None
        """Another app that answers some paths of this port."""
        self._answering = Answering(service, max_body_size, body_timeout)
        self.codec = self._answering.codec
        self.unanswered = 0
        """Requests that had come in whole, and were told that the server could not wait for their outcome."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            beside = self.management
            if beside is not None and beside.takes(scope["path"]) and route(scope["path"]) is None:
                await beside(scope, receive, send)
                return
            await self._http(scope, receive, send)
        elif kind == "lifespan":
            await _lifespan(receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    def close(self, *, wait: bool = True) -> None:
        """End the codec thread; `wait` for it."""
        self._answering.close(wait=wait)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request: Request | None = None
        found: Route | None = None
        number = next_number()
        request_id = id_of(number)
        path, head, close = scope["path"], scope["method"] == "HEAD", False
        parts = PartsSent(send, request_id, head=head)
        try:
            request = Request(scope, receive)
            if self.tokens is not None and path not in FREE:
                self.tokens.check(INFERENCE, request.head.authorization)
            found = _route(scope) if scope["method"] != "OPTIONS" else None
            if found is not None:
                reply = await self._answering.through(request, found, number, parts.begin)
            else:
                reply = tell(self.service, scope["method"], path, self.compat)
        except ClientLeft:
            self._tell(scope, request, None, request_id)
            return
        except Exception as error:
            reply = refusal(error, path, request_id, _served(request), compat=self.compat, route=found)
            close = ends_the_connection(error)
            if parts.reply is not None:
                self._tell(scope, request, parts.reply, request_id, error, parts.sent)
                raise BrokenOff from None  # the client must not take what it has for all of it
            self._tell(scope, request, reply, request_id, error)
        except asyncio.CancelledError:
            # The time to drain is up. Who was accepted is answered all the same: with a refusal.
            if request is None:
                raise
            self.unanswered += request.complete
            closed = Closed("the server has stopped, and could not wait for this")
            reply = refusal(closed, path, request_id, request.served)
            if parts.reply is not None:
                self._tell(scope, request, parts.reply, request_id, closed, parts.sent)
                raise BrokenOff from None
            self._tell(scope, request, reply, request_id, closed)
            with contextlib.suppress(TimeoutError):  # a client that does not read must not keep the server from ending
                async with asyncio.timeout(1):
                    await send_reply(reply, send, request_id, head=head)
            return
        else:
            if parts.reply is not None:
                self._tell(scope, request, parts.reply, request_id, None, parts.sent + len(reply.body))
                await parts.more(reply.body, more=False)
                return
            self._tell(scope, request, reply, request_id)
        close |= reply.status >= self.compat.closes_from
        await send_reply(reply, send, request_id, head=head, close=close)

    def _tell(
        self,
        scope: Scope,
        request: Request | None,
        reply: Reply | None,
        request_id: str,
        error: Exception | None = None,
        body: int | None = None,
    ) -> None:
        """Whoever counts and logs. `request` None: its headers were no good; `reply` None: the client has left; `body`:
        bytes of it, where it is more than the reply's own."""
        traffic = self.traffic
        if traffic is None:
            return
        received, began = (0, traffic.now()) if request is None else (request.received, request.began)
        status = LEFT if reply is None else reply.status
        sent = 0 if reply is None or scope["method"] == "HEAD" else len(reply.body) if body is None else body
        served = _served(request)
        if served is None and error is not None:  # refused at its headers
            with contextlib.suppress(InvalidInput):  # its query has too many fields
                if (found := _route(scope)) is not None:
                    served = self.service.registered(found.name, found.version)
        traffic.answered(served, status, received, sent, began, error)
        if traffic.access is not None:
            traffic.log(scope.get("client"), scope["method"], sent_path(scope), status, sent, began, request_id)


class BrokenOff(Exception):
    """The rest of a reply will not come; why has been logged and counted."""


def _route(scope: Scope) -> Route | None:
    return route(scope["path"], scope.get("query_string", b""))


def _served(request: Request | None) -> Served | None:
    return None if request is None else request.served


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing to do: whoever made the Service starts and stops it."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
