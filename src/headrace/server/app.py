"""The plain ASGI app: routes to doors, errors to replies. Runs under any ASGI server.

Whatever goes wrong with one request is answered, logged where it is ours, and costs no other request anything.
"""

from __future__ import annotations

import asyncio
import contextlib

from headrace.errors import Closed
from headrace.server.answering import Answering
from headrace.server.asgi import ClientLeft, Receive, Request, Scope, Send, send_reply
from headrace.server.refusing import ends_the_connection, refusal
from headrace.server.reply import next_request_id
from headrace.server.routes import route, tell
from headrace.serving.service import Service


class App:
    def __init__(self, service: Service, *, max_body_size: int, body_timeout: float = 60.0) -> None:
        self.service = service
        self._answering = Answering(service, max_body_size, body_timeout)
        self.codec = self._answering.codec
        self.unanswered = 0
        """Requests that had come in whole, and were told that the server could not wait for their outcome."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "lifespan":
            await _lifespan(receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    def close(self, *, wait: bool = True) -> None:
        """End the codec thread; `wait` for it."""
        self._answering.close(wait=wait)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = None
        request_id = next_request_id()
        path, head, close = scope["path"], scope["method"] == "HEAD", False
        try:
            request = Request(scope, receive)
            found = route(path)
            if found is not None:
                reply = await self._answering.through(request, found)
            else:
                reply = tell(self.service, scope["method"], path)
        except ClientLeft:
            return
        except Exception as error:
            reply, close = refusal(error, path, request_id), ends_the_connection(error)
        except asyncio.CancelledError:
            # The time to drain is up. Who was accepted is answered all the same: with a refusal.
            if request is None:
                raise
            self.unanswered += request.complete
            reply = refusal(Closed("the server has stopped, and could not wait for this"), path, request_id)
            with contextlib.suppress(TimeoutError):  # a client that does not read must not keep the server from ending
                async with asyncio.timeout(1):
                    await send_reply(reply, send, request_id, head=head)
            return
        await send_reply(reply, send, request_id, head=head, close=close)


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing to do: whoever made the Service starts and stops it."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
