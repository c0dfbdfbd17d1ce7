"""What the connections of a port share, and who they are.

Rule 1: `drain` lets nothing new in, answers what was accepted, and ends. Who cannot be answered in time is told so.
        A reply that its client has not taken by then is no answer either: both are counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

from headrace.engine.mailbox import Mailbox
from headrace.errors import Closed
from headrace.model.model import Model
from headrace.server.app import App
from headrace.server.asgi import Receive, Scope, Send
from headrace.server.compat import Compat
from headrace.server.door import Route
from headrace.server.exchange import READY, Exchange
from headrace.server.heads import Heads
from headrace.server.limits import Limits, Watch
from headrace.server.listener import Listener
from headrace.server.protocol import Connection
from headrace.server.reply import KEEP, KEEP_1_0
from headrace.server.routes import TOLD, route
from headrace.server.target import path_of, query_of
from headrace.server.tokens import Tokens
from headrace.server.traffic import Traffic
from headrace.serving.inflight import InFlight
from headrace.serving.service import Service

ROUTES = 1000
"""Targets whose route is remembered."""
TURNED_AWAY = 1000
"""Connections over the bound that may be told so at once. More are closed without a word."""
LAST_WORDS = 1.0
"""Seconds for replies to leave, when the time to drain is up."""
UNSENT = 64 << 20
"""Bytes of replies that may wait for clients which do not read, if `--max-bytes` is less."""
_log = logging.getLogger("headrace.server")

Plain = Callable[[Scope, Receive, Send], Awaitable[None]]


class Front:
    """Of one event loop: made before it runs, opened on it."""

    box: Mailbox
    loop: asyncio.AbstractEventLoop
    service: Service
    codec: Executor

    def __init__(self, app: App | Plain, limits: Limits, compat: Compat = Compat.headrace) -> None:
        """An App's hot routes go around it, and are counted and logged here; of any other app all goes through it.
        `compat`: whose words it speaks; an App knows."""
        self.app, self.limits = app, limits
        self.traffic: Traffic | None = None
        self.told: frozenset[str] = frozenset()
        """Paths that are answered without asking the app."""
        self.tokens: Tokens | None = None
        self._hot = isinstance(app, App)
        self.unsent_limit = UNSENT
        if isinstance(app, App):
            self.unsent_limit = max(UNSENT, app.service.statistics().max_bytes or 0)
            self.service, self.codec, self.traffic, self.told = app.service, app.codec, app.traffic, TOLD
            self.tokens, compat = app.tokens, app.compat
        self.compat = compat
        self.closes_from = compat.closes_from
        self.keep = KEEP_1_0 if compat.is_old else KEEP
        """What is said of a connection that stays."""
        self.connections: set[Connection] = set()
        self.choked: dict[Connection, int] = {}
        """Those whose clients do not read, with the bytes that waited for them at the last look."""
        self.watch = Watch(self.connections, limits.tick, self.weigh)
        self.draining = False
        self.unanswered = 0
        """Requests that had come in whole, and were told that the server could not wait for their outcome, or whose
        connection was cut off within a reply (one for each such connection)."""
        self.tasks: set[asyncio.Task[None]] = set()  # of requests that go through the app
        self._turned_away = 0
        self._ready: list[Exchange] = []
        self._routes: dict[bytes, tuple[str, Route | None]] = {}
        self.heads: Heads = {}
        """What is known of heads that came before; of the app's own routes none."""
        self._nobody = asyncio.Event()
        self._listener: Listener | None = None

    def open(self) -> None:
        """On the loop it will serve."""
        self.loop, self.box = asyncio.get_running_loop(), Mailbox.here()

    def listen(self, listener: Listener) -> None:
        """Take the connections that come there."""
        self.open()
        self._listener = listener
        listener.open(self.connection, self.has_room)

    def has_room(self, making: int, encrypted: bool) -> bool:
        """Whether one more connection may be made, while `making` are: is counted before anything is spent on it.

        One over the bound is told so, within `TURNED_AWAY`. An encrypted one cannot be: it would have to be made first.
        """
        here, limit = len(self.connections) + making, self.limits.connections
        return here - self._turned_away < limit if encrypted else here < limit + TURNED_AWAY

    def connection(self) -> Connection:
        return Connection(self)

    def joined(self, connection: Connection) -> None:
        limit = self.limits.connections
        self.connections.add(connection)
        self.watch.begin()
        if self.draining:
            connection.stop()
        elif len(self.connections) - self._turned_away > limit:
            self._turned_away += 1
            connection.turn_away(limit, silently=self._turned_away > TURNED_AWAY)

    def left(self, connection: Connection, turned_away: bool) -> None:
        self.connections.discard(connection)
        self.choked.pop(connection, None)
        self._turned_away -= turned_away
        if self._listener is not None:
            self.loop.call_soon(self._listener.freed)  # once its descriptor has been closed
        if not self.connections:
            self._nobody.set()

    def weigh(self) -> None:
        """What waits for clients that do not read is bounded, over all of them: each tick, those for which no less
        waits than at the tick before are cut off, the most first, until the rest is within the bound."""
        if not self.choked:
            return
        before, self.choked = self.choked, {connection: connection.unsent for connection in self.choked}
        over = sum(self.choked.values()) - self.unsent_limit
        if over <= 0:
            return
        stuck = [(size, connection) for connection, size in self.choked.items() if 0 < before[connection] <= size]
        cut = 0
        for size, connection in sorted(stuck, key=lambda one: one[0], reverse=True):
            if over <= 0:
                break
            del self.choked[connection]
            connection.abort()
            over -= size
            cut += 1
        if cut:
            said = "%d clients that did not read were cut off: over %d bytes of replies waited for them"
            _log.warning(said, cut, self.unsent_limit)

    def find(self, target: bytes) -> tuple[str, Route | None]:
        """(the path, the door it leads to or None). The same few are asked for again and again."""
        found = self._routes.get(target)
        if found is None:
            path = path_of(target)
            found = path, route(path, query_of(target)) if self._hot else None
            if found[1] is not None and len(target) < 256:
                if len(self._routes) >= ROUTES:  # somebody makes names up
                    self._routes.clear()
                self._routes[target] = found
        return found

    def start_later(self, exchange: Exchange) -> None:
        """Have it run, with all others that are ready in this turn of the loop.

        Each by itself would wake a stream, which would fight this loop for the interpreter while the next one is read.
        """
        if not self._ready:
            self.loop.call_soon(self._start_ready)
        self._ready.append(exchange)

    def _start_ready(self) -> None:
        ready, self._ready = self._ready, []
        together: dict[Model, list[InFlight]] = {}
        for exchange in ready:
            if exchange.stage == READY:
                try:
                    request = exchange.prepare()
                except Exception as error:  # what it says of its priority is no level
                    exchange.connection.refuse(exchange, error)
                    exchange.connection.flush()
                    continue
                together.setdefault(request.served.model, []).append(request)
        for model, requests in together.items():
            self.box.expect(len(requests))
            self.service.start_all(model, requests)

    async def drain(self, timeout: float) -> None:
        """End every connection: idle ones now, the others with their last reply, at most `timeout` seconds from now."""
        self.draining = True
        for connection in list(self.connections):
            connection.stop()
        if not await self._empty(timeout):
            error = Closed("the server has stopped, and could not wait for this")
            for task in list(self.tasks):
                task.cancel()  # the app tells its client
            refused: set[Connection] = set()  # counted already: what they have not taken may be just that refusal
            for connection in list(self.connections):
                if count := connection.give_up(error):
                    self.unanswered += count
                    refused.add(connection)
            if not await self._empty(LAST_WORDS):
                for connection in list(self.connections):
                    self.unanswered += connection.unsent > 0 and connection not in refused
                    connection.abort()
                await self._empty(LAST_WORDS)
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=LAST_WORDS)
        self.watch.end()

    async def _empty(self, timeout: float) -> bool:
        self._nobody.clear()
        if not self.connections:
            return True
        try:
            async with asyncio.timeout(timeout):
                await self._nobody.wait()
        except TimeoutError:
            return False
        return True
