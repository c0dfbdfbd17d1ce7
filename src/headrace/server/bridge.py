"""One request on its way through the plain ASGI app, for the routes that are not hot: a Task, and messages both ways.

Rule 1: the body waits in parts, at most HIGH bytes before the connection is not read from until the app has taken them.
Rule 2: parts of the reply wait until it is its turn in the pipeline; the app waits while HIGH bytes of it do.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from headrace.server.parts import gather
from headrace.server.refusing import refusal
from headrace.server.reply import CLOSE, KEEP_1_0, request_id, status_line

if TYPE_CHECKING:
    from headrace.server.exchange import Exchange

HIGH = 64 * 1024
_log = logging.getLogger("headrace.server")


class Bridge:
    def __init__(self, exchange: Exchange, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self._exchange, self._connection = exchange, exchange.connection
        self._parts: deque[bytes | bytearray] = deque()
        self._nbytes = 0
        self._whole = self._taken = self._left = False  # the body is here; the app has it; the client has gone
        self._out: list[bytes] = []
        self._nout = 0
        self._wake: asyncio.Event = asyncio.Event()
        self._start: MutableMapping[str, Any] | None = None
        self._chunked = self._no_body = False
        self.begun = False
        """Something of its reply has been written, or waits to be."""
        self.over = False
        """The app has said all it has to say."""
        front = self._connection.front
        raw_path, _, query = target.partition(b"?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.0" if exchange.old else "1.1",
            "method": exchange.method,
            "scheme": "http",
            "path": exchange.path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in headers],
            "extensions": {"headrace.headers": headers},
            "client": self._connection.client,
            "server": None,
            "state": {},
        }
        task = front.loop.create_task(self._run(scope))
        front.tasks.add(task)
        task.add_done_callback(front.tasks.discard)

    # ---- what the connection calls

    @property
    def is_full(self) -> bool:
        return self._nbytes > HIGH and not self.over

    def feed(self, part: bytes) -> None:
        gather(self._parts, part)
        self._nbytes += len(part)
        self._wake.set()
        if self.is_full:
            self._connection.hold()

    def feed_end(self) -> None:
        self._whole = True
        self._wake.set()

    def leave(self) -> None:
        """The client has gone."""
        self._left = True
        self._parts.clear()
        self._wake.set()

    def take(self) -> list[bytes]:
        """What can be written of the reply: it is its turn."""
        out, self._out, self._nout = self._out, [], 0
        self._wake.set()
        return out

    def wake(self) -> None:
        self._wake.set()

    # ---- what the app calls

    async def _receive(self) -> MutableMapping[str, Any]:
        if not (self._parts or self._whole):
            self._connection.go_on(self._exchange)
        while not self._left and (self._taken or not (self._parts or self._whole)):
            await self._until_woken()
        if self._left:
            return {"type": "http.disconnect"}
        body = b"".join(self._parts)
        self._parts.clear()
        self._nbytes = 0
        self._taken = self._whole
        self._connection.release()
        return {"type": "http.request", "body": body, "more_body": not self._whole}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        kind = message["type"]
        if self._left:
            return  # as other servers do: the app will hear of it
        if kind == "http.response.start":
            assert self._start is None, "a reply begins once"
            self._start = message
        elif kind == "http.response.body":
            assert self._start is not None, "a reply begins with http.response.start"
            more, body = bool(message.get("more_body", False)), bytes(message.get("body", b""))
            if not self.begun:
                self._begin(None if more else len(body))
            self._write(body, more)
            while self._nout > HIGH and not self._left:
                await self._until_woken()

    async def _until_woken(self) -> None:
        self._wake.clear()
        await self._wake.wait()

    # ----

    async def _run(self, scope: MutableMapping[str, Any]) -> None:
        exchange, connection = self._exchange, self._connection
        try:
            await connection.front.app(scope, self._receive, self._send)
            if not self.over and not self._left:
                raise RuntimeError("the app ended without a whole reply")
        except Exception as error:
            if self.begun:
                _log.exception("%r failed after its reply had begun", exchange.path)
                connection.abort()  # the client must not take what it has for all of it
            elif not self._left:
                connection.answer(exchange, refusal(error, exchange.path, request_id(exchange.number)))
                connection.flush()
        finally:
            self.over = True
            self._parts.clear()
            if not self._left:
                connection.release()
            # Its exchange has it: in a circle they would keep the connection and the reply until a collection.
            del self._exchange, self._connection

    def _begin(self, length: int | None) -> None:
        """Its status and headers. `length`: of its body, where that is known."""
        exchange, start = self._exchange, self._start
        assert start is not None
        self.begun = True
        self._connection.leave_unread(exchange)
        status, headers, sized = start["status"], [], False
        for name, value in start.get("headers", ()):
            name = name.lower()
            if name == b"connection":
                exchange.last |= b"close" in value.lower()
            elif name != b"transfer-encoding":
                sized |= name == b"content-length"
                headers.append(b"%b: %b\r\n" % (name, value))
        self._no_body = exchange.method == "HEAD" or status in (204, 304)
        if not sized and not self._no_body:
            if length is not None:
                headers.append(b"content-length: %d\r\n" % length)
            elif exchange.old:
                exchange.last = True  # where it ends, the body ends
            else:
                self._chunked = True
                headers.append(b"transfer-encoding: chunked\r\n")
        front = self._connection.front
        if status >= front.closes_from:
            self._connection.close_after(exchange)
        headers.append(CLOSE if exchange.last else KEEP_1_0 if exchange.old else front.keep)
        self._out.append(b"%b%b\r\n" % (status_line(status), b"".join(headers)))

    def _write(self, body: bytes, more: bool) -> None:
        if body and not self._no_body:
            self._out.append(b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body)
            self._nout += len(body)
        if not more:
            self.over = True
            if self._chunked:
                self._out.append(b"0\r\n\r\n")
            self._exchange.out = b"".join(self.take())
        self._connection.flush()
