"""One request of a connection, from the end of its headers to its reply. No Task and no Future: it is called back."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from headrace.errors import TooLarge
from headrace.server.head import Head
from headrace.server.heads import Known
from headrace.server.parts import gather
from headrace.server.priority import level_said
from headrace.server.reply import next_number
from headrace.server.streaming import Streaming
from headrace.server.tokens import INFERENCE
from headrace.serving.inflight import InFlight
from headrace.serving.served import Served

if TYPE_CHECKING:
    from headrace.server.bridge import Bridge
    from headrace.server.door import Route
    from headrace.server.protocol import Connection

COMING, DECODING, READY, RUNNING, STREAMING, OVER = range(6)
"""Where a request is: its body comes in; the codec thread has it; it goes to its model at the end of this turn of the
loop; the model has it; the model has answered in part; nothing is held for it any more."""


class Exchange:
    """A request, and the place of its reply in the pipeline of its connection. Used on the event loop alone, but for
    `decode` and `deliver`.

    `number`: whose `request_id` it has. `out` is the reply's bytes (with `rest`, if its body is large), None until it
    is there; `stream` what has come of it, where it comes in parts. `last`: the connection ends after it. `complete`:
    its body has come in. `served`: the model it is for, once that is known. `began`: when its headers had come;
    `since`: when its decoding began; `decoding`, `encoding`: the seconds that took; all where somebody wants to know,
    else 0. `target`: as it was sent.
    """

    __slots__ = (
        "began", "bridge", "complete", "connection", "context", "decoded", "decoding", "encoding", "head", "inside",
        "last", "method", "number", "old", "out", "parts", "path", "rest", "route", "served", "since", "size", "stage",
        "stream", "target",
    )  # fmt: skip

    head: Head | None
    route: Route | None
    inside: InFlight | None
    served: Served | None
    bridge: Bridge | None
    stream: Streaming | None
    parts: list[bytes | bytearray]
    context: Any
    decoded: Any
    out: bytes | None

    def __init__(self, connection: Connection, method: str, path: str, last: bool, old: bool) -> None:
        self.connection = connection
        self.method, self.path = method, path
        self.last, self.old = last, old  # old: HTTP/1.0
        self.number = next_number()
        # Several to a statement, because this is the hot path: their types are told above.
        self.began = 0.0 if connection.front.traffic is None else monotonic()
        self.since = self.decoding = self.encoding = 0.0
        self.head = self.route = self.inside = self.served = self.bridge = self.stream = None
        self.context = self.decoded = self.out = None
        self.target = self.rest = b""
        self.parts = []
        self.size, self.stage, self.complete = 0, OVER, False

    def open(self, head: Head, route: Route) -> None:
        """Its headers are here. Pin a model and hold a permit for its body, or raise why not."""
        self.head, self.route = head, route
        front = self.connection.front
        if front.tokens is not None:
            front.tokens.check(INFERENCE, head.authorization)
        route.door.check(head)
        length, limit = head.content_length or 0, front.limits.body_size
        if length > limit:
            raise TooLarge("a request body", limit=limit, size=length)
        self.inside = inside = front.service.open(route.name, route.version, length)
        self.served = inside.served
        self.stage = COMING
        if not inside.served.custom:
            head.check_coding()

    def take(self, part: bytes) -> None:
        """Of its body. TooLarge, Overloaded: it has become too much."""
        self.size += len(part)
        head, inside = self.head, self.inside
        assert head is not None
        assert inside is not None
        if head.content_length is None:
            limit = self.connection.front.limits.body_size
            if self.size > limit:
                raise TooLarge("a request body", limit=limit)
            inside.permit.grow(len(part))
        gather(self.parts, part)

    def take_whole(self, known: Known, body: bytes) -> None:
        """All of it is here, and its head has been let in before: as `open`, `take` and `go`, in one."""
        self.head, self.target, self.size = known.head, known.target, known.length
        self.route = route = known.route
        self.complete = True
        self.inside = inside = self.connection.front.service.open(route.name, route.version, known.length)
        self.served = inside.served
        self._have(body)

    def go(self) -> None:
        """Its body is here: have it decoded and run. Raises what is wrong with it."""
        parts, self.parts = self.parts, []
        # One part is bytes, as it came: `gather`.
        self._have(parts[0] if len(parts) == 1 else b"".join(parts))  # type: ignore[arg-type]

    def _have(self, body: bytes) -> None:
        served, route = self.served, self.route
        assert served is not None
        assert route is not None
        self.stage = COMING
        if served.measures is not None:
            self.since = monotonic()
        if route.door.heavy(served, self.head, len(body)):  # type: ignore[arg-type]
            self.stage = DECODING
            self.connection.front.codec.submit(self._decode, body)
        else:
            self._start(route.door.decode(served, body, self.head, route, self.number))  # type: ignore[arg-type]

    def _decode(self, body: bytes) -> None:
        """On the codec thread."""
        inside, route = self.inside, self.route
        assert inside is not None
        assert route is not None
        try:
            self.decoded = route.door.decode(inside.served, body, self.head, route, self.number)  # type: ignore[arg-type]
        except Exception as error:
            self.decoded = error
        self.connection.front.box.post(_decoded, self)

    def _start(self, decoded: tuple[tuple[Any, ...], tuple[str, ...] | None, Any]) -> None:
        if self.since:
            self.decoding = monotonic() - self.since
        self.decoded = decoded
        front = self.connection.front
        if front.box.waiting:
            self.stage = READY
            front.start_later(self)
        else:  # nothing is on its way: nobody it could go together with
            self.start()

    def start(self) -> None:
        """Have it run. Raises what is wrong with it."""
        inside, front = self.prepare(), self.connection.front
        front.box.expect()
        front.service.start(inside, inside.inputs, self.deliver, inside.names)

    def prepare(self) -> InFlight:
        """The first half of `start`; whoever calls it counts it by `expect`, and has it run. InvalidInput."""
        inside = self.inside
        assert inside is not None
        if inside.served.special:
            self._look_at(inside)
        (inside.inputs, inside.names, self.context), self.decoded = self.decoded, None
        inside.receiver = self.deliver
        self.stage = RUNNING
        return inside

    def _look_at(self, inside: InFlight) -> None:
        """Of a model whose requests must be looked at. InvalidInput: its priority is no level."""
        served, head = inside.served, self.head
        assert head is not None
        if served.priorities is not None:
            inside.priority = served.priorities.of(level_said(head, self.decoded[2]))
        if served.custom:
            inside.listener = self

    def deliver(self, _: InFlight) -> None:
        """On the stream."""
        box = self.connection.front.box
        box._items.append((_answered, self))  # as `post`, without the call
        if not (box._armed or box.promised):
            box.announce()

    def deliver_part(self, part: Any, nbytes: int, read: Callable[[int], object]) -> None:
        """On the worker's thread."""
        self.connection.front.box.post(_has_part, (self, part, nbytes, read))

    def drop(self) -> None:
        """Nobody waits for it any more: work that has not begun is never run, and its permit goes back."""
        stage, inside = self.stage, self.inside
        self.stage = OVER
        self.parts = []
        if stage in (RUNNING, STREAMING):
            self.connection.front.box.waiting -= 1
            self.inside = None
            assert inside is not None
            inside.depart()
        elif stage in (COMING, READY):
            self.inside = self.decoded = None
            assert inside is not None
            self.connection.front.service.refuse(inside)
        elif self.bridge is not None:
            self.bridge.leave()
        # DECODING: the codec thread reads the body, so it counts until that is done.


def _decoded(exchange: Exchange) -> None:
    inside, decoded, exchange.decoded = exchange.inside, exchange.decoded, None
    connection = exchange.connection
    assert inside is not None
    if exchange.stage == OVER:  # its client has left meanwhile
        exchange.inside = None
        connection.front.service.refuse(inside)
        return
    exchange.stage = COMING  # nothing has been started: whatever goes wrong now, the permit is ours to give back
    if isinstance(decoded, Exception):  # not raised: it would hold this frame, and this frame it, with the body
        connection.refuse(exchange, decoded)
    else:
        try:
            exchange._start(decoded)
        except Exception as error:
            connection.refuse(exchange, error)
    connection.flush()


def _answered(exchange: Exchange) -> None:
    """Its model has answered, or failed."""
    if exchange.stage != RUNNING:
        if exchange.stage == STREAMING:
            _ended(exchange)
        return
    connection, inside, route = exchange.connection, exchange.inside, exchange.route
    exchange.stage = OVER
    connection.front.box.waiting -= 1
    exchange.inside = None  # which knows `deliver`, and so this
    assert inside is not None
    assert route is not None
    if inside._error is not None:
        failure = inside.take_failure()
        assert failure is not None
        connection.refuse(exchange, failure)  # not raised, as above
    else:
        try:
            if exchange.since:
                began = monotonic()
                reply = route.door.encode(inside.served, inside._value, exchange.context)
                exchange.encoding = monotonic() - began
            else:
                reply = route.door.encode(inside.served, inside._value, exchange.context)
        except Exception as error:
            connection.refuse(exchange, error)
        else:
            connection.answer(exchange, reply)
    connection.flush()


def _has_part(came: tuple[Exchange, Any, int, Callable[[int], object]]) -> None:
    """Its model has answered in part."""
    exchange, part, nbytes, read = came
    if exchange.stage not in (RUNNING, STREAMING):
        read(nbytes)  # its client has left
        return
    connection, route = exchange.connection, exchange.route
    assert exchange.inside is not None
    assert route is not None
    try:
        reply = route.door.encode(exchange.inside.served, [part], exchange.context)
        if exchange.stream is None:
            if reply.status >= connection.front.closes_from:
                connection.close_after(exchange)
            exchange.stream = Streaming(exchange.method, exchange.old, reply, exchange.number, exchange.last)
            exchange.last |= exchange.old  # where its body ends, the connection does
            exchange.stage = STREAMING
        exchange.stream.add(reply.body, nbytes, read, waits=not connection.is_first(exchange))
    except Exception as error:
        connection.refuse(exchange, error)
    connection.flush()


def _ended(exchange: Exchange) -> None:
    """The last part is here, or will never come."""
    connection, inside, route, stream = exchange.connection, exchange.inside, exchange.route, exchange.stream
    assert inside is not None
    assert route is not None
    assert stream is not None
    if inside._error is not None:
        failure = inside.take_failure()
        assert failure is not None
        connection.refuse(exchange, failure)
    else:
        try:
            reply = route.door.encode(inside.served, inside._value, exchange.context)
        except Exception as error:
            connection.refuse(exchange, error)
        else:
            exchange.stage, exchange.inside = OVER, None
            connection.front.box.waiting -= 1
            connection.end_stream(exchange, stream, reply.body)
    connection.flush()
