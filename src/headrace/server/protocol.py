"""One connection of the inference port: bytes to exchanges, and their replies back in the order of the requests.

Rule 1: a request is refused, or let in, at the end of its headers: what is refused is never decoded.
Rule 2: replies leave in the order of their requests, whatever order they are ready in: `flush` writes what stands at
        the head of the pipeline.
Rule 3: whatever is wrong with the framing ends the connection, because nobody knows where the next request begins.
        What came before it is answered first.
Rule 4: a client that sends more than is answered, or does not read, is not read from; one that does nothing is cut off
        (`look`). Nothing a client does makes us hold more than a bounded part of it.
Rule 5: what a reply says does not depend on how the bytes of its request were cut into pieces. (But for an extension of
        a chunk far beyond the limits: whether it is told of may.)
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from headrace.codecs.forms import form_kind
from headrace.errors import Closed, TooSlow
from headrace.server.bridge import Bridge
from headrace.server.door import Route
from headrace.server.exchange import COMING, OVER, Exchange
from headrace.server.head import Head
from headrace.server.heads import END, LONGEST, Known, learn, size_of_head
from headrace.server.limits import DISCARDED, LINGER, PIPELINED, SLICE
from headrace.server.refusing import ends_the_connection, refusal
from headrace.server.reply import CLOSE, KEEP_1_0, LARGE, Reply, bytes_of, request_id
from headrace.server.routes import tell
from headrace.server.status import ConnectionEnds
from headrace.server.streaming import Streaming
from headrace.server.traffic import LEFT

if TYPE_CHECKING:
    from headrace.server.front import Front

IDLE, HEAD, BODY, LINGERING, LOST = range(5)
"""What a connection is doing: between requests; within the headers of one; within its body; ended by us, and read from
so that the reply is not lost; gone."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
OTHERS = frozenset(
    ("SOURCE", "DESCRIBE", "ANNOUNCE", "SETUP", "PLAY", "PAUSE", "TEARDOWN", "GET_PARAMETER", "SET_PARAMETER",
     "REDIRECT", "RECORD", "FLUSH")
)  # fmt: skip
"""Methods of ICE and RTSP, which the parser takes as well, and of which it does not tell us."""


class _Ended(Exception):
    """Nothing more is taken from this connection: what stops the parser in the middle of its bytes."""


class Connection(asyncio.Protocol):
    __slots__ = (
        "_before", "_came", "_choked", "_ended", "_exchange", "_headers", "_held", "_late", "_parser", "_phase",
        "_pipeline", "_resumed", "_since", "_size", "_stopping", "_taken", "_target", "_told", "_transport",
        "_turned_away", "_unfed", "_written", "front", "limits",
    )  # fmt: skip

    _transport: asyncio.Transport

    def __init__(self, front: Front) -> None:
        self.front, self.limits = front, front.limits
        self._parser: HttpRequestParser | None = HttpRequestParser(self)
        self._pipeline: deque[Exchange] = deque()  # those whose reply has not left, oldest first
        self._exchange: Exchange | None = None  # the one whose body comes in
        self._phase = IDLE
        self._since = 0.0  # when that began, by the watch
        self._ended = False  # nothing more is taken
        self._told = False  # it is we who end it, as a reply says: the client may have sent more meanwhile
        self._stopping = False  # the server is
        self._held = False  # not read from
        self._choked = False  # the client does not read
        self._written = 0  # bytes that were handed to the transport
        self._taken = 0  # those of them that had left it at the last look at which some had not
        self._late = 0.0  # when the client, if it takes nothing until then, is cut off; 0 where nothing waits for it
        self._unfed: memoryview | None = None  # bytes that have come, and have not been parsed
        self._resumed = False  # the parser is fed a head of ours
        self._turned_away = False
        self._target = b""
        self._before = b""  # the head of the last request that came in one piece
        self._headers: list[tuple[bytes, bytes]] = []
        # Bytes of the headers, or of the trailers: of those that are whole; of all that came and was no body.
        self._size = self._came = 0

    # ---- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.front.joined(self)
        self._since = self.front.watch.now

    def connection_lost(self, _: Exception | None) -> None:
        self._phase, self._ended = LOST, True
        self._parser = self._unfed = self._exchange = None  # the parser knows our methods, and so us
        pipeline, self._pipeline = self._pipeline, deque()
        for exchange in pipeline:
            exchange.drop()
            if exchange.out is None:
                self._tell(exchange, LEFT, 0)
        self.front.left(self, self._turned_away)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        if self._unfed is not None:
            self._unfed = memoryview(bytes(self._unfed) + data)
        elif len(data) <= SLICE:
            if self._phase == IDLE and not self._stopping:
                end = data.find(END, 0, LONGEST)
                known = self.front.heads.get(data[:end]) if end > 0 else None
                if known is not None and len(data) - end == known.length + len(END):
                    self._take_whole(known, data[end + len(END) :])
                else:
                    before = len(self._pipeline)
                    self._feed(data)
                    if len(self._pipeline) == before + 1:
                        self._learn(data)
            else:
                self._feed(data)
            if len(self._pipeline) >= PIPELINED:
                self.hold()
        else:
            self._unfed = memoryview(data)
            self._feed_slices()
        pipeline = self._pipeline
        if pipeline and pipeline[0].stage == OVER:
            self.flush()

    def eof_received(self) -> bool:
        """A client that will send no more is taken for one that has left. In the middle of a request it hears why."""
        if self._phase in (HEAD, BODY) and not self._ended:
            coming = self._exchange
            for exchange in self._pipeline:
                if exchange is not coming:
                    exchange.drop()
            came = f" after {coming.size:,} bytes of the body" if coming is not None else ""
            self._fail(ConnectionEnds(400, f"the connection was closed in the middle of a request{came}"))
            self.flush()
        return False

    def pause_writing(self) -> None:
        self._choked = True
        self.front.choked.setdefault(self, 0)
        self.hold()

    def resume_writing(self) -> None:
        self._choked = False
        self.front.choked.pop(self, None)
        for exchange in self._pipeline:
            if exchange.bridge is not None:
                exchange.bridge.wake()
        if self._pipeline and self._pipeline[0].stream is not None:
            self.flush()  # its model hears that it was read
        self.release()

    # ---- what the parser calls

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = []
        self._size = self._came = 0
        if self._resumed:
            return
        if self._ended:
            raise _Ended
        self._phase, self._since = HEAD, self.front.watch.now

    def on_url(self, url: bytes) -> None:
        self._target += url
        if len(self._target) > self.limits.url_length:
            raise ConnectionEnds(414, f"a request target may have at most {self.limits.url_length:,} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of a request, or a trailer behind its chunks: those are held to the same limits, and dropped."""
        headers, limits = self._headers, self.limits
        headers.append((name, value))
        self._size += len(name) + len(value) + 4
        if self._size > limits.header_size:
            raise self._too_many_bytes()
        if len(headers) > limits.header_count:
            raise ConnectionEnds(431, f"a request may have at most {limits.header_count:,} {self._lines}")

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers, []  # trailers are not headers: the app has the list of these
        self._size = self._came = 0
        if self._resumed:
            self._resumed = False
            return
        parser = self._parser
        assert parser is not None
        version = parser.get_http_version()
        exchange = Exchange(
            self, parser.get_method().decode("ascii"), "", not parser.should_keep_alive(), version == "1.0"
        )
        self._exchange = exchange
        self._pipeline.append(exchange)
        self._phase, self._since = BODY, self.front.watch.now
        try:
            self._open(exchange, version, headers)
        except Exception as error:
            self.refuse(exchange, error)

    def on_body(self, part: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._came = 0
        if exchange.stage == COMING:
            try:
                exchange.take(part)
            except Exception as error:
                self.refuse(exchange, error)
            return
        exchange.size += len(part)
        if exchange.bridge is not None and not exchange.bridge.over:
            exchange.bridge.feed(part)
        elif self._ended or exchange.size > DISCARDED:  # nobody wants it
            self._ended = exchange.last = True
            if exchange not in self._pipeline:  # it has had its reply
                self._end()
            raise _Ended

    def on_message_complete(self) -> None:
        exchange, parser = self._exchange, self._parser
        assert exchange is not None
        assert parser is not None
        if parser.should_upgrade() and exchange.head is not None and exchange.head.has_body:
            return  # the parser takes what follows for another protocol. It is the body: `_resume`
        self._exchange = None
        self._phase, self._since = IDLE, self.front.watch.now
        exchange.complete = True
        if exchange.last or self._stopping:
            self._ended = exchange.last = True
        if exchange.stage == COMING:
            try:
                exchange.go()
            except Exception as error:
                self.refuse(exchange, error)
        elif exchange.bridge is not None:
            exchange.bridge.feed_end()

    # ---- bytes in

    def _take_whole(self, known: Known, body: bytes) -> None:
        """A request of one piece, with a head that is known: as what the parser calls, one after the other."""
        exchange = Exchange(self, known.method, known.path, False, False)
        self._pipeline.append(exchange)
        try:
            exchange.take_whole(known, body)
        except Exception as error:
            self.refuse(exchange, error)

    def _learn(self, data: bytes) -> None:
        """One request has begun within `data`: what was parsed is its head, if it is all of `data`."""
        if self._phase != IDLE or self._ended or self.front.tokens is not None:  # tokens expire: each is looked at
            return
        exchange = self._pipeline[-1]
        head, route = exchange.head, exchange.route
        if head is None or route is None or exchange.inside is None or not head.is_plain or exchange.old:
            return
        if not route.name:  # whose the request is depends on what is served
            return
        size = size_of_head(data, exchange.size)
        # The parser skips empty lines before a request: they are not of its head.
        if size and head.content_length == exchange.size and data.startswith(b"%b " % exchange.method.encode()):
            raw = data[:size]
            if raw == self._before:
                known = Known(exchange.method, exchange.path, exchange.target, head, route, exchange.size)
                learn(self.front.heads, raw, known)
            self._before = raw

    def _feed_slices(self) -> None:
        """Parse what has come, as far as the pipeline has room."""
        while (unfed := self._unfed) is not None and not self._ended:
            if self._choked or len(self._pipeline) >= PIPELINED:
                self.hold()
                return
            exchange, size = self._exchange, SLICE
            if exchange is not None and exchange.head is not None and exchange.head.content_length is not None:
                size = max(size, exchange.head.content_length - exchange.size)
            self._unfed = unfed[size:] if len(unfed) > size else None
            self._feed(unfed[:size])
        if self._ended:
            self._unfed = None

    def _feed_more(self) -> None:
        """There may be room again for what was not parsed."""
        if self._phase != LOST:
            self._feed_slices()
            self.flush()

    def _feed(self, data: bytes | memoryview) -> None:
        while self._parser is not None:
            try:
                self._parser.feed_data(data)
                if self._phase == HEAD or self._phase == BODY:
                    self._count(len(data))
                return
            except HttpParserUpgrade as upgrade:
                if self._ended:
                    return
                data = data[upgrade.args[0] :]
                self._resume()
            except HttpParserError as error:
                if not self._ended:
                    self._fail(_why(error))
                return

    def _count(self, nbytes: int) -> None:
        """The headers, or the trailers, have not ended: the parser keeps what it has of one, puts each piece of it to
        that, and says nothing of it until it is whole. Extensions of chunks it passes over, without an end."""
        exchange = self._exchange
        if exchange is not None and (exchange.head is None or not exchange.head.chunked):
            return  # all that comes is body
        self._came += nbytes  # with what came before them in the same slice
        limits = self.limits
        if self._came > limits.header_size + limits.url_length + SLICE and not self._ended:
            if exchange is None:
                self._fail(self._too_many_bytes())
            else:
                said = "the trailers, and the extensions of a chunk, may have at most"
                self._fail(ConnectionEnds(431, f"{said} {limits.header_size:,} bytes"))

    def _too_many_bytes(self) -> ConnectionEnds:
        limit = self.limits.header_size
        return ConnectionEnds(431, f"the {self._lines} of a request may have at most {limit:,} bytes")

    @property
    def _lines(self) -> str:
        return "trailers" if self._phase == BODY else "headers"

    def _resume(self) -> None:
        """The parser has stopped behind headers that offer another protocol. We speak the one we have: the body of that
        request comes, if it has one, and then the next request."""
        parser = self._parser = HttpRequestParser(self)
        exchange = self._exchange
        if exchange is not None:
            head = exchange.head
            assert head is not None
            framing = (
                b"Transfer-Encoding: chunked" if head.chunked else b"Content-Length: %d" % (head.content_length or 0)
            )
            self._resumed = True
            parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)

    def _open(self, exchange: Exchange, version: str, headers: list[tuple[bytes, bytes]]) -> None:
        """Its headers are here. Raises what is wrong with it."""
        if exchange.method in OTHERS:
            said = "HTTP/1.1 and HTTP/1.0 are spoken here"
            raise ConnectionEnds(505, f"{exchange.method} is not a method of HTTP, and {said}")
        if version not in ("1.1", "1.0"):
            raise ConnectionEnds(505, f"HTTP/1.1 and HTTP/1.0 are spoken here, not HTTP/{version}")
        front = self.front
        exchange.target = self._target
        exchange.path, route = front.find(self._target)
        head = Head(exchange.method, exchange.path, headers)
        if head.hosts != 1 and (head.hosts or not exchange.old):
            raise ConnectionEnds(400, f"a request has one Host header, {head.hosts} came")
        if head.chunked and exchange.old:
            raise ConnectionEnds(400, "HTTP/1.0 has no Transfer-Encoding: send a Content-Length")
        exchange.head = head
        if head.expects is not None and head.expects != b"100-continue":
            raise ConnectionEnds(417, "100-continue is all that can be expected")
        if route is not None and exchange.method != "OPTIONS" and not self._is_named_by_body(head, route):
            exchange.open(head, route)
            if head.expects is not None:
                self.go_on(exchange)
        elif exchange.path in front.told:
            self.answer(exchange, tell(front.service, exchange.method, exchange.path, front.compat))
        else:
            exchange.bridge = Bridge(exchange, self._target, headers)

    def _is_named_by_body(self, head: Head, route: Route) -> bool:
        """Which model it is for is not known before its form is here: the app waits for that."""
        if route.name or form_kind(head.content_type) is None:
            return False
        return not self.front.service.registry.has_one

    def go_on(self, exchange: Exchange) -> None:
        """Tell a client that waits for it that its body is wanted; but not in the middle of another's reply."""
        head = exchange.head
        if head is None or not head.expects or exchange.old or exchange.size or not head.has_body:
            return
        if self._pipeline and self._pipeline[0] is exchange:
            head.expects = b""  # not None: it is not plain, and nobody may take it for that
            self._written += len(CONTINUE)
            self._transport.write(CONTINUE)

    # ---- replies out

    def answer(self, exchange: Exchange, reply: Reply, error: BaseException | None = None) -> None:
        """`reply` is what `exchange` is told, once it is its turn: `flush`. `error`: it is a refusal, for that."""
        if not exchange.complete:
            self.leave_unread(exchange)
        body = reply.body
        if self.front.traffic is not None:
            self._tell(exchange, reply.status, 0 if exchange.method == "HEAD" else len(body), error)
        if exchange.method == "HEAD":
            body = b""
        elif len(body) > LARGE:
            body, exchange.rest = b"", body
        if reply.status >= self.front.closes_from:
            self.close_after(exchange)
        connection = CLOSE if exchange.last else KEEP_1_0 if exchange.old else self.front.keep
        exchange.out = bytes_of(reply, exchange.number, connection, body)

    def close_after(self, exchange: Exchange) -> None:
        """The connection ends with its reply."""
        exchange.last = self._told = True
        self._ended |= exchange.complete

    def refuse(self, exchange: Exchange, error: BaseException) -> None:
        exchange.drop()
        if ends_the_connection(error) or exchange.head is None:
            exchange.last = self._ended = True
        reply = refusal(
            error, exchange.path, request_id(exchange.number), exchange.served,
            compat=self.front.compat, route=exchange.route,
        )  # fmt: skip
        if exchange.stream is None:
            self.answer(exchange, reply, error)
        else:
            self._break_off(exchange, exchange.stream, error)

    def is_first(self, exchange: Exchange) -> bool:
        """Whether it is its turn to be answered."""
        return bool(self._pipeline) and self._pipeline[0] is exchange

    def end_stream(self, exchange: Exchange, stream: Streaming, body: bytes) -> None:
        """The last part of a reply."""
        exchange.out = stream.end(body)
        self._tell(exchange, stream.status, stream.sent)

    def _break_off(self, exchange: Exchange, stream: Streaming, error: BaseException) -> None:
        """The rest of a reply that has begun will not come: its client must not take what it has for all of it."""
        exchange.last = self._ended = True
        exchange.out = stream.broken()
        self._tell(exchange, stream.status, stream.sent, error)
        if exchange.old and self.is_first(exchange):  # without chunks, a close says that it is whole
            self.abort()

    def _tell(self, exchange: Exchange, status: int, sent: int, error: BaseException | None = None) -> None:
        """Whoever counts and logs. What goes through the app is told of by the app."""
        traffic = self.front.traffic
        if traffic is None or exchange.bridge is not None:
            return
        began, served = exchange.began, exchange.served
        if error is None and status != LEFT and served is not None and served.measures is not None:  # most are
            served.measures.add(status, exchange.size, sent, monotonic() - began, exchange.decoding, exchange.encoding)
        else:
            if served is None and exchange.route is not None:  # refused at its headers
                served = self.front.service.registered(exchange.route.name, exchange.route.version)
            traffic.answered(served, status, exchange.size, sent, began, error, exchange.decoding, exchange.encoding)
        if traffic.access is not None:
            target = exchange.target.decode("latin-1") or exchange.path
            traffic.log(self.client, exchange.method, target, status, sent, began, request_id(exchange.number))

    @property
    def client(self) -> tuple[str, int] | None:
        """Its address and port."""
        name = self._transport.get_extra_info("peername")
        return (name[0], name[1]) if isinstance(name, tuple) and len(name) >= 2 else None

    def leave_unread(self, exchange: Exchange) -> None:
        """Its reply is there before its body. Whether the body is worth reading, so that another request can follow."""
        head = exchange.head
        if head is None or not head.has_body:
            return
        # A client that asked whether to send it may leave it out: then nobody knows what comes next.
        if head.expects or (head.content_length or 0) - exchange.size > DISCARDED:
            exchange.last = self._ended = True

    def flush(self) -> None:
        """Write the replies that stand at the head of the pipeline."""
        pipeline = self._pipeline
        if len(pipeline) == 1 and not self._stopping and not self._held and self._phase == IDLE:
            exchange = pipeline[0]  # what happens most
            if exchange.out is not None and not exchange.last and not exchange.rest:
                pipeline.popleft()
                self._written += len(exchange.out)
                self._transport.write(exchange.out)
                self._since = self.front.watch.now
                return
        if self._phase >= LINGERING:
            return
        writes: list[bytes] = []
        last = False
        while pipeline and not last:
            exchange = pipeline[0]
            if exchange.out is None:
                if exchange.bridge is not None:
                    writes += exchange.bridge.take()
                elif exchange.stream is not None:
                    writes += exchange.stream.take(reads=not self._choked)
                break
            pipeline.popleft()
            writes.append(exchange.out)
            if exchange.rest:
                writes.append(exchange.rest)
            last = exchange.last
        for each in writes:
            self._written += len(each)
        if len(writes) == 1:
            self._transport.write(writes[0])
        elif writes:
            self._transport.writelines(writes)
        if pipeline and writes and pipeline[0] is self._exchange and pipeline[0].bridge is None:
            self.go_on(pipeline[0])
        if last or (self._stopping and not pipeline and self._exchange is None):
            self._end()
            while pipeline:  # came behind the one that turned out to be the last: its client is told to send it again
                exchange = pipeline.popleft()
                exchange.drop()
                if exchange.out is None:
                    self._tell(exchange, LEFT, 0)
        elif self._held:
            self.release()
        if not pipeline and self._phase == IDLE:
            self._since = self.front.watch.now

    def _fail(self, error: Exception) -> None:
        """What came is not HTTP as we take it. Nobody knows where the next request begins."""
        self._ended = True
        exchange = self._exchange
        if exchange is None:
            self._phase = HEAD
            # As on a path of nobody's: until the headers have ended, how much of the target is known depends on how the
            # bytes were cut (rule 5).
            exchange = Exchange(self, "", "/", True, False)
            self._pipeline.append(exchange)
        exchange.last = True
        if exchange.out is None and (exchange.bridge is None or not exchange.bridge.begun):
            self.refuse(exchange, error)
        elif exchange not in self._pipeline:  # it has had its reply
            self._end()

    # ---- how it is read from, and how it ends

    def hold(self) -> None:
        """Read nothing more for now."""
        if not self._held and not self._transport.is_closing():
            self._held = True
            self._transport.pause_reading()

    def release(self) -> None:
        """Read again, if nothing is in the way any more."""
        exchange = self._exchange
        full = exchange is not None and exchange.bridge is not None and exchange.bridge.is_full
        if not self._held or self._choked or full or len(self._pipeline) >= PIPELINED:
            return
        if self._unfed is not None:
            self.front.loop.call_soon(self._feed_more)
        elif not self._transport.is_closing():
            self._held = False
            self._since = self.front.watch.now  # what it did not do meanwhile is not its fault
            self._transport.resume_reading()

    def _end(self) -> None:
        """Its last reply has been written."""
        self._ended, self._unfed = True, None
        if self._phase == LOST:
            return
        read, self._phase = self._phase == IDLE and not self._told, LINGERING
        self._since = self.front.watch.now
        if read or not self._transport.can_write_eof():
            self._transport.close()
        else:  # it still sends: closed now, its bytes would be answered by a reset, which takes the reply away from it
            self._transport.write_eof()
            if self._held:
                self._held = False
                self._transport.resume_reading()

    def look(self, now: float) -> None:
        """The watch's tick: end what is late."""
        limits, tick = self.limits, self.front.watch.tick
        unsent = self._transport.get_write_buffer_size()
        if unsent:
            taken = self._written - unsent  # what is unsent says nothing by itself: more replies may have come to it
            if not self._late or taken > self._taken:
                self._late, self._taken = now + limits.write_timeout, taken
            if now > self._late + tick:
                self._transport.abort()
            return
        self._late = 0.0
        since = now - self._since - tick
        if self._phase == LINGERING:
            if since > LINGER:
                self._transport.abort()
        elif self._held:
            pass
        elif self._phase == HEAD:
            if since > limits.header_timeout and not self._ended:
                said = f"the headers of a request must be here {limits.header_timeout:g} s after its first byte"
                self._fail(ConnectionEnds(408, said))
                self.flush()
        elif self._phase == BODY:
            if since > limits.body_timeout and not self._ended:
                self._fail(TooSlow(limits.body_timeout))
                self.flush()
        elif not self._pipeline and since > limits.idle_timeout:
            self._transport.close()
            self._phase = LINGERING

    def turn_away(self, limit: int, *, silently: bool) -> None:
        """There are too many connections."""
        self._ended = self._turned_away = True
        if silently:
            self._transport.abort()
        else:
            self._fail(ConnectionEnds(503, f"too busy: {limit:,} connections are open; try again later"))
            self.flush()

    def stop(self) -> None:
        """The server stops: end it with its last reply, now if it waits for none."""
        self._stopping = True
        if self._exchange is None:
            self._ended = True
        if self._pipeline:
            self._pipeline[-1].last = True
        elif self._phase != LOST:
            self._ended = True
            self._phase = LINGERING
            self._transport.close()

    def give_up(self, error: Closed) -> int:
        """The time to drain is up: refuse what has no reply. How many of those had come in whole."""
        unanswered = 0
        for exchange in list(self._pipeline):
            if exchange.out is None and exchange.bridge is None:
                unanswered += exchange.complete
                self.refuse(exchange, error)
        self.flush()
        return unanswered

    def abort(self) -> None:
        self._transport.abort()

    @property
    def unsent(self) -> int:
        """Bytes of its replies that the client has not taken, as far as the transport knows."""
        return self._transport.get_write_buffer_size()


def _why(error: HttpParserError) -> Exception:
    """What is wrong with the bytes: what a callback of ours said, or the parser."""
    cause = error.__context__
    if isinstance(cause, Exception):
        return cause
    if "PRI" in str(error):
        return ConnectionEnds(505, "HTTP/2 is not spoken here: send HTTP/1.1")
    if "Invalid HTTP version" in str(error):
        return ConnectionEnds(505, "HTTP/1.1 and HTTP/1.0 are spoken here, not the version of this request")
    return ConnectionEnds(400, f"this is not HTTP/1.1: {error}")
