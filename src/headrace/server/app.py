"""The plain ASGI app: routes to doors, errors to replies. Runs under any ASGI server.

Whatever goes wrong with one request is answered, logged where it is ours, and costs no other request anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import orjson

from headrace.codecs import torchserve
from headrace.errors import Closed, TooSlow
from headrace.log import of_request
from headrace.server import inference, v2_rest
from headrace.server.answering import Answering
from headrace.server.asgi import BadFraming, ClientLeft, Receive, Reply, Request, Scope, Send, next_request_id
from headrace.server.status import MethodNotAllowed, NotFound, message_of, reason_of, status_of
from headrace.server.traffic import LEFT, Traffic, sent_path
from headrace.serving.measures import Measures
from headrace.serving.served import Served
from headrace.serving.service import Service

_log = logging.getLogger("headrace.server")
_READ = ("GET", "HEAD")


class App:
    def __init__(
        self, service: Service, *, max_body_size: int, body_timeout: float = 60.0, traffic: Traffic | None = None
    ) -> None:
        """`traffic` is told of every request; None: nobody wants to know."""
        self._answering = Answering(service, max_body_size, body_timeout)
        self._traffic = traffic
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
        request_id = None
        try:
            request = Request(scope, receive)
            request_id = request.id
            reply = await self._route(request)
        except ClientLeft as error:
            self._tell(scope, request, None, error)
            return
        except Exception as error:
            request_id = request_id or next_request_id()
            reply = _refusal(error, scope["path"], request_id, None if request is None else request.served)
            self._tell(scope, request, reply, error, request_id)
        except asyncio.CancelledError:
            # The time to drain is up. Who was accepted is answered all the same: with a refusal.
            if request is None or request_id is None:
                raise
            self.unanswered += request.complete
            closed = Closed("the server has stopped, and could not wait for this")
            reply = _refusal(closed, scope["path"], request_id, request.served)
            self._tell(scope, request, reply, closed)
            with contextlib.suppress(TimeoutError):  # a client that does not read must not keep the server from ending
                async with asyncio.timeout(1):
                    await reply.send(send, request_id, head=scope["method"] == "HEAD")
            return
        else:
            if self._traffic is not None:
                self._tell(scope, request, reply)
        await reply.send(send, request_id, head=scope["method"] == "HEAD")

    def _tell(
        self,
        scope: Scope,
        request: Request | None,
        reply: Reply | None,
        error: Exception | None = None,
        request_id: str | None = None,
    ) -> None:
        """Whoever counts and logs. `request` None: its headers were no good; `reply` None: the client has left."""
        traffic = self._traffic
        if traffic is None:
            return
        measures: Measures | None = None
        received, began = 0, traffic.now()
        if request is not None:
            received, began, request_id = request.received, request.began, request.id
            if request.served is not None:
                measures = request.served.measures
        status, sent = (LEFT, 0) if reply is None else (reply.status, len(reply.body))
        if scope["method"] == "HEAD":
            sent = 0
        traffic.answered(measures, status, received, sent, began)
        if error is not None:
            traffic.refused["ClientLeft" if reply is None else reason_of(error)] += 1
        if traffic.access is not None:
            traffic.log(scope.get("client"), scope["method"], sent_path(scope), status, sent, began, request_id or "")

    async def _route(self, request: Request) -> Reply:
        match request.path.split("/")[1:]:
            case ["predictions", name] if name:
                return await self._predict(request, name, None)
            case ["predictions", name, version] if name and version:
                return await self._predict(request, name, version)
            case ["v2", "models", name, "infer"] if name:
                return await self._infer(request, name, None)
            case ["v2", "models", name, "versions", version, "infer"] if name and version:
                return await self._infer(request, name, version)
        reply = self._read(request.path.rstrip("/").split("/")[1:])
        if reply is None:
            raise NotFound(f"there is no {request.path!r:.200}; see the API document")
        if request.method not in _READ:
            raise MethodNotAllowed(request.method, request.path, "GET")
        return reply

    def _read(self, path: list[str]) -> Reply | None:
        """The routes that only tell something."""
        answering = self._answering
        match path:
            case ["ping"]:
                return inference.ping(answering)
            case ["v2"]:
                return v2_rest.server_metadata()
            case ["v2", "health", "live"]:
                return v2_rest.live()
            case ["v2", "health", "ready"]:
                return v2_rest.ready(answering)
            case ["v2", "models", name]:
                return v2_rest.model_metadata(answering, name, None)
            case ["v2", "models", name, "ready"]:
                return v2_rest.model_ready(answering, name, None)
            case ["v2", "models", name, "versions", version]:
                return v2_rest.model_metadata(answering, name, version)
            case ["v2", "models", name, "versions", version, "ready"]:
                return v2_rest.model_ready(answering, name, version)
        return None

    async def _predict(self, request: Request, name: str, version: str | None) -> Reply:
        # Any verb with a body: `curl -T FILE` is a PUT, and the old servers took it.
        if request.method in ("OPTIONS", "DELETE", "TRACE"):
            raise MethodNotAllowed(request.method, request.path, "POST, PUT")
        return await inference.predict(self._answering, request, name, version)

    async def _infer(self, request: Request, name: str, version: str | None) -> Reply:
        if request.method != "POST":
            raise MethodNotAllowed(request.method, request.path, "POST")
        return await v2_rest.infer(self._answering, request, name, version)


def _refusal(error: Exception, path: str, request_id: str, served: Served | None) -> Reply:
    status = status_of(error)
    about = of_request(request_id, None if served is None else f"{served.name}:{served.version}")
    if status.code == 500:  # %r: the path is the client's, and may have a line break in it
        _log.error("%r failed", path, exc_info=error, extra=about)
    else:
        _log.debug("%r was answered with %d: %r", path, status.code, str(error), extra=about)
    message = message_of(error, request_id)
    if path == "/v2" or path.startswith("/v2/"):
        body = orjson.dumps({"error": message.encode(errors="replace").decode()})
    else:
        body = torchserve.error_body(status.code, status.type, message)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if status.retry_after is not None:
        headers = ((b"retry-after", str(status.retry_after).encode()),)
    if isinstance(error, MethodNotAllowed):
        headers = ((b"allow", error.allowed.encode()),)
    if isinstance(error, BadFraming | TooSlow):  # what still comes of it must not be read as the next request
        headers = ((b"connection", b"close"),)
    return Reply(body, status=status.code, headers=headers)


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing to do: whoever made the Service starts and stops it."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
