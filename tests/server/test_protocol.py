"""The protocol without sockets: order, bounds, times, and clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from wire import Behind, Wire, post, replies, until

from headrace.server.front import Front
from headrace.server.limits import PIPELINED, Limits
from headrace.testing import Gate


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def bodies(wire: Wire) -> list[bytes]:
    return [body for _, _, body in replies(wire.out)]


def statuses(wire: Wire) -> list[int]:
    return [status for status, _, _ in replies(wire.out)]


GET = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
METADATA = b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"  # a route that goes over the bridge


def test_replies_leave_in_the_order_of_their_requests_whatever_is_ready_first() -> None:
    async def main() -> None:
        gates = {b"a": Gate(), b"b": Gate()}
        behind = Behind(lambda x: (gates[x](), x)[1] if x in gates else x, scheduler="multi_stream", num_streams=2)
        wire = behind.wire()
        wire.send(post(b"a") + post(b"b") + METADATA + GET)
        await asyncio.to_thread(gates[b"a"].wait)
        await asyncio.to_thread(gates[b"b"].wait)
        gates[b"b"].open()  # the second is ready before the first
        await until(lambda: behind.service.statistics().inside == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert wire.out == b""
        gates[b"a"].open()
        await until(lambda: len(replies(wire.out)) == 4)
        assert bodies(wire)[:2] == [b"a", b"b"]
        assert b"headrace" in bodies(wire)[2]
        assert b"Healthy" in bodies(wire)[3]
        behind.end()

    run(main)


def test_more_than_so_many_requests_of_one_connection_are_not_read() -> None:
    async def main() -> None:
        gate = Gate()
        behind = Behind(lambda x: (gate(), x)[1])
        wire = behind.wire()
        wire.send(post(b"x"))
        await asyncio.to_thread(gate.wait)
        wire.send(b"".join(post(b"%d" % n) for n in range(5000)))
        assert not wire.reading
        assert behind.service.statistics().inside < PIPELINED + 300  # and what one slice of 16 KiB holds
        gate.open()
        await until(lambda: wire.reading and len(replies(wire.out)) == 5001)
        assert bodies(wire) == [b"x", *(b"%d" % n for n in range(5000))]
        behind.end()

    run(main)


def test_a_client_that_does_not_read_is_not_read_from_and_cut_off_after_a_time() -> None:
    async def main() -> None:
        behind = Behind(lambda x: b"y" * 100_000, limits=Limits(write_timeout=10))
        wire = behind.wire()
        wire.stuck = True
        wire.send(post(b"x"))
        await until(lambda: wire.out)
        assert not wire.reading
        now = asyncio.get_running_loop().time()
        wire.connection.look(now)
        wire.connection.look(now + 9)
        assert wire.closed is None
        wire.unread -= 1  # it has taken something
        wire.connection.look(now + 9.5)
        wire.connection.look(now + 18)
        assert wire.closed is None
        wire.connection.look(now + 22)
        assert wire.closed == "cut off"
        behind.end()

    run(main)


def test_a_client_that_reads_again_is_read_from_again() -> None:
    async def main() -> None:
        behind = Behind(lambda x: b"y" * 100_000)
        wire = behind.wire()
        wire.stuck = True
        wire.send(post(b"x"))
        await until(lambda: not wire.reading)
        wire.stuck, wire.unread = False, 0
        wire.connection.resume_writing()
        assert wire.reading
        wire.send(GET)
        assert statuses(wire) == [200, 200]
        behind.end()

    run(main)


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"G", b"30 s after its first byte"),
        (b"GET /ping HTTP/1.1\r\nHost: x\r\nX: ", b"30 s after its first byte"),
        (post(b"whole") + b"POST", b"30 s after its first byte"),
        (post(b"", b"Content-Length: 5", length=False) + b"hal", b"60 s after its headers"),
        (post(b"", b"Transfer-Encoding: chunked", length=False) + b"3\r\nhal", b"60 s after its headers"),
    ],
)
def test_a_request_that_comes_too_slowly_is_told_408_and_its_permit_goes_back(sent: bytes, says: bytes) -> None:
    async def main() -> None:
        behind = Behind(lambda x: x)
        wire = behind.wire()
        wire.send(sent)
        if sent.startswith(post(b"whole")):
            await until(lambda: wire.out)
        now, tick = asyncio.get_running_loop().time(), behind.front.watch.tick
        wire.connection.look(now + 29)
        before = wire.out
        assert wire.closed is None
        wire.connection.look(now + (60 if b"60" in says else 30) + 2 * tick)
        told = replies(wire.out[len(before) :])
        assert [status for status, _, _ in told] == [408]
        assert told[0][1]["connection"] == "close"
        assert says in told[0][2]
        assert wire.closed == "half"
        assert behind.service.statistics().inside == 0
        wire.connection.look(now + 100)
        assert wire.closed == "cut off"  # it still had not closed its side
        behind.end()

    run(main)


def test_a_drop_now_and_then_does_not_keep_a_request_alive() -> None:
    async def main() -> None:
        behind = Behind(lambda x: x, limits=Limits(header_timeout=10))
        wire = behind.wire()
        now = asyncio.get_running_loop().time()
        for second, byte in enumerate(b"GET /ping HTTP/1.1\r\n"):
            wire.send(bytes([byte]))
            wire.connection.look(now + second)
            if wire.out:
                break
        assert statuses(wire) == [408]
        behind.end()

    run(main)


def test_an_idle_connection_is_closed_and_one_that_waits_is_not() -> None:
    async def main() -> None:
        gate = Gate()
        behind = Behind(lambda x: (gate(), x)[1])
        idle, waiting = behind.wire(), behind.wire()
        waiting.send(post(b"x"))
        await asyncio.to_thread(gate.wait)
        now = asyncio.get_running_loop().time()
        for wire in (idle, waiting):
            wire.connection.look(now + 70)
            assert wire.closed is None
            wire.connection.look(now + 1000)
        assert (idle.closed, waiting.closed) == ("closed", None)
        gate.open()
        await until(lambda: waiting.out)
        behind.end()

    run(main)


def test_the_watch_ends_what_is_late_by_itself() -> None:
    async def main() -> None:
        behind = Behind(lambda x: x, limits=Limits(header_timeout=0.02))
        wire = behind.wire()
        wire.send(b"GET /")
        await until(lambda: wire.out)
        assert statuses(wire) == [408]
        behind.end()

    run(main)


@pytest.mark.parametrize("how", ["end", "gone"])
def test_a_client_that_leaves_while_it_waits_is_never_run(how: str) -> None:
    async def main() -> None:
        gate, ran = Gate(), []
        behind = Behind(lambda x: (ran.append(x), gate())[1])
        first, left = behind.wire(), behind.wire()
        first.send(post(b"first"))
        await asyncio.to_thread(gate.wait)
        left.send(post(b"left") + post(b"left too"))
        await until(lambda: behind.service.statistics().inside == 3)
        await asyncio.sleep(0)
        getattr(left, how)()
        if how == "end":
            left.gone()
        assert behind.service.statistics().inside == 1
        gate.open()
        await until(lambda: first.out)
        assert ran == [b"first"]
        assert left.out == b""
        behind.end()

    run(main)


@pytest.mark.parametrize("size", [10, 100_000])  # decoded on the loop, and on the codec thread
@pytest.mark.parametrize("cut", [0.5, 1.0])
def test_a_client_that_is_lost_at_any_time_holds_nothing(size: int, cut: float) -> None:
    async def main() -> None:
        behind = Behind(lambda x: x)
        sent = post(b'"' + b"x" * size + b'"', b"Content-Type: application/json")
        for _ in range(20):
            wire = behind.wire()
            wire.send(sent[: int(len(sent) * cut)])
            wire.gone()
        await until(lambda: behind.service.statistics().inside == 0)
        behind.end()

    run(main)


def test_what_is_refused_by_its_headers_is_not_asked_for_and_what_is_wanted_is() -> None:
    async def main() -> None:
        behind = Behind(lambda x: x, limits=Limits(body_size=10))
        wanted, refused = behind.wire(), behind.wire()
        wanted.send(post(b"", b"Expect: 100-continue", b"Content-Length: 5", length=False))
        assert wanted.out == b"HTTP/1.1 100 Continue\r\n\r\n"
        wanted.send(b"hello")
        await until(lambda: wanted.out.endswith(b"hello"))
        assert wanted.closed is None
        refused.send(post(b"", b"Expect: 100-continue", b"Content-Length: 11", length=False))
        assert statuses(refused) == [413]
        assert refused.closed == "half"  # nobody knows whether its body comes or its next request
        behind.end()

    run(main)


def test_the_second_is_asked_for_its_body_when_the_first_has_been_answered() -> None:
    async def main() -> None:
        gate = Gate()
        behind = Behind(lambda x: (gate(), x)[1] if x == b"first" else x)
        wire = behind.wire()
        wire.send(post(b"first") + post(b"", b"Expect: 100-continue", b"Content-Length: 5", length=False))
        await asyncio.to_thread(gate.wait)
        assert wire.out == b""
        gate.open()
        await until(lambda: wire.out.endswith(b"100 Continue\r\n\r\n"))
        wire.send(b"hello")
        await until(lambda: len(replies(wire.out)) == 2)
        assert bodies(wire) == [b"first", b"hello"]
        behind.end()

    run(main)


def test_a_body_nobody_wants_is_read_if_it_is_small_and_ends_the_connection_if_not() -> None:
    async def main() -> None:
        behind = Behind(lambda x: x)
        small, large, chunked = behind.wire(), behind.wire(), behind.wire()
        small.send(post(b"x" * 1000, path=b"/predictions/nobody") + GET)
        assert statuses(small) == [404, 200]
        large.send(post(b"x" * 1_000_000, path=b"/predictions/nobody") + GET)
        assert statuses(large) == [404]
        assert replies(large.out)[0][1]["connection"] == "close"
        chunked.send(post(b"", b"Transfer-Encoding: chunked", path=b"/predictions/nobody", length=False))
        for _ in range(100):
            chunked.send(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        assert statuses(chunked) == [404]
        assert chunked.closed in ("half", "closed")
        behind.end()

    run(main)


def test_old_clients_are_kept_if_they_ask_for_it() -> None:
    async def main() -> None:
        behind = Behind(lambda x: x)
        one, more = behind.wire(), behind.wire()
        one.send(b"GET /ping HTTP/1.0\r\n\r\n")
        assert (statuses(one), one.closed) == ([200], "closed")
        more.send(b"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
        assert (statuses(more), more.closed) == ([200, 200], None)
        assert replies(more.out)[0][1]["connection"] == "keep-alive"
        behind.end()

    run(main)


def test_head_is_get_without_the_body() -> None:
    async def main() -> None:
        behind = Behind(lambda x: b"12345")
        wire = behind.wire()
        wire.send(b"HEAD /predictions/m HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: wire.out)
        assert b"content-length: 5\r\n" in wire.out
        assert wire.out.endswith(b"\r\n\r\n")
        behind.end()

    run(main)


def test_one_connection_too_many_is_told_503_and_the_others_are_served() -> None:
    async def main() -> None:
        behind = Behind(lambda x: x, limits=Limits(connections=2))
        wires = [behind.wire() for _ in range(3)]
        assert statuses(wires[2]) == [503]
        assert int(replies(wires[2].out)[0][1]["retry-after"]) >= 1
        wires[2].gone()
        wires[0].gone()
        again = behind.wire()
        for wire in (wires[1], again):
            wire.send(GET)
            assert statuses(wire) == [200]
        behind.end()

    run(main)


def test_draining_answers_what_was_accepted_and_ends_every_connection() -> None:
    async def main() -> None:
        gate = Gate()
        behind = Behind(lambda x: (gate(), x)[1])
        idle, waiting, half = behind.wire(), behind.wire(), behind.wire()
        idle.send(GET)
        waiting.send(post(b"a") + post(b"b"))
        half.send(post(b"hello")[:-2])
        await asyncio.to_thread(gate.wait)
        draining = asyncio.create_task(behind.front.drain(30))
        await asyncio.sleep(0)
        assert idle.closed == "closed"
        assert (waiting.closed, half.closed) == (None, None)
        half.send(b"lo" + GET)  # what is accepted may come in whole; what follows is not accepted
        gate.open()
        await until(lambda: waiting.closed and half.closed)
        assert (bodies(waiting), bodies(half)) == ([b"a", b"b"], [b"hello"])
        said = [[headers.get("connection") for _, headers, _ in replies(wire.out)] for wire in (waiting, half)]
        assert said == [[None, "close"], ["close"]]
        for wire in (idle, waiting, half):
            wire.gone()
        await draining
        assert behind.front.unanswered == 0
        behind.end()

    run(main)


def test_who_cannot_be_waited_for_is_refused_and_counted() -> None:
    async def main() -> None:
        gate = Gate()
        behind = Behind(lambda x: (gate(), x)[1])
        waiting, half = behind.wire(), behind.wire()
        waiting.send(post(b"a") + post(b"b"))
        half.send(post(b"hello")[:-2])
        await asyncio.to_thread(gate.wait)
        draining = asyncio.create_task(behind.front.drain(0))
        await until(lambda: waiting.closed and half.closed)
        assert (statuses(waiting), statuses(half)) == ([503, 503], [503])
        waiting.gone()
        half.gone()
        await draining
        assert behind.front.unanswered == 2  # the other had not come in whole
        gate.open()
        behind.end()

    run(main)


def test_a_refusal_from_the_model_keeps_the_connection_and_names_its_request(caplog: pytest.LogCaptureFixture) -> None:
    def fail(x: bytes) -> None:
        raise ValueError("the password is swordfish")

    async def main() -> None:
        behind = Behind(fail)
        wire = behind.wire()
        wire.send(post(b"x"))
        await until(lambda: wire.out)
        status, headers, body = replies(wire.out)[0]
        assert status == 500
        assert headers["x-request-id"].encode() in body
        assert [headers["x-request-id"]] == [getattr(record, "request_id", None) for record in caplog.records]
        assert b"swordfish" not in body
        wire.send(GET)
        assert statuses(wire) == [500, 200]
        behind.end()

    run(main)


def test_a_chunked_body_is_429_when_it_grows_over_what_may_be_inside() -> None:
    async def main() -> None:
        gate = Gate()
        behind = Behind(lambda x: (gate(), len(x))[1], max_bytes=1000)
        first, second = behind.wire(), behind.wire()
        first.send(post(b"x" * 500))
        await asyncio.to_thread(gate.wait)
        second.send(post(b"", b"Transfer-Encoding: chunked", length=False))
        for _ in range(6):
            second.send(b"64\r\n" + b"x" * 100 + b"\r\n")
        second.send(b"0\r\n\r\n" + GET)
        assert statuses(second) == [429, 200]
        assert behind.service.statistics().nbytes == 500
        gate.open()
        await until(lambda: first.out)
        behind.end()

    run(main)


def test_nothing_is_written_behind_the_last_reply() -> None:
    """A request that goes over the bridge turns out to be the last; what came behind it had its reply already."""

    async def main() -> None:
        behind = Behind(lambda x: x)
        wire = behind.wire()
        wire.send(post(b"hello", b"Expect: 100-continue", path=b"/nowhere"))
        wire.send(b"this is no HTTP\r\n\r\n")
        await until(lambda: wire.closed)
        for _ in range(20):
            await asyncio.sleep(0)
        assert statuses(wire) == [404]
        assert not wire.connection._pipeline
        behind.end()

    run(main)


CHUNKED = post(b"", b"Transfer-Encoding: chunked", length=False)


@pytest.mark.parametrize(
    "sent",
    [
        b"0\r\nT: " + b"a" * 200_000,
        b"0\r\n" + b"a" * 200_000,
        b"0;" + b"a" * 200_000,
        b"0;a=" + b"a" * 200_000,
        b"1;" + b"a" * 200_000,
        b"2\r\nab\r\n0\r\nT: " + b"a" * 200_000,
        b"0\r\nT: " + b"a" * 40_000 + b"\r\n\r\n",
        b"0\r\n" + b"T: a\r\n" * 101 + b"\r\n",
        b"0\r\n" + (b"T: " + b"a" * 4000 + b"\r\n") * 10,
    ],
)
@pytest.mark.parametrize("path", [b"/predictions/m", b"/predictions/nobody", b"/v2", b"/ping"])
@pytest.mark.parametrize("piece", [1000, 1_000_000])
def test_trailers_and_extensions_of_chunks_have_the_limits_of_headers(sent: bytes, path: bytes, piece: int) -> None:
    async def main() -> None:
        behind = Behind(lambda x: x)
        wire = behind.wire()
        parser, fed = wire.connection._parser, 0
        wire.send(post(b"", b"Transfer-Encoding: chunked", path=path, length=False))
        early = statuses(wire) if path != b"/v2" else []  # who is answered before the body loses only the connection

        class Counting:
            def feed_data(self, data: bytes) -> None:
                nonlocal fed
                fed += len(data)
                parser.feed_data(data)  # type: ignore[union-attr]

            def __getattr__(self, name: str) -> Any:
                return getattr(parser, name)

        wire.connection._parser = Counting()  # type: ignore[assignment]
        for start in range(0, len(sent), piece):
            wire.send(sent[start : start + piece])
        assert fed < 80_000  # both limits, and two slices
        await until(lambda: wire.closed)
        assert statuses(wire) == (early or [431])
        assert behind.service.statistics().inside == 0
        behind.end()

    run(main)


def test_chunks_with_a_body_may_have_any_number_of_extensions_and_a_second_request_its_own_trailers() -> None:
    async def main() -> None:
        behind = Behind(lambda x: b"%d" % len(x))
        wire = behind.wire()
        for _ in range(3):
            wire.send(CHUNKED)
            for _ in range(300):
                wire.send(b"2;name=" + b"v" * 500 + b"\r\nab\r\n")
            wire.send(b"0\r\n" + b"T: " + b"a" * 30_000 + b"\r\n\r\n")
        await until(lambda: len(replies(wire.out)) == 3)
        assert bodies(wire) == [b"600"] * 3
        behind.end()

    run(main)


@pytest.mark.parametrize("piece", [1, 1000])
def test_trailers_are_no_headers(piece: int) -> None:
    async def main() -> None:
        behind = Behind(lambda x: x)
        wire = behind.wire()
        chunked = post(b"", b"Transfer-Encoding: chunked", path=b"/v2", length=False).replace(b"POST", b"GET")
        sent = chunked + b"0\r\nContent-Encoding: br\r\n\r\n"
        for start in range(0, len(sent), piece):
            wire.send(sent[start : start + piece])
        await until(lambda: wire.out)
        assert statuses(wire) == [200]
        behind.end()

    run(main)


def test_chunks_of_a_byte_cost_no_more_than_bytes() -> None:
    async def main() -> None:
        behind = Behind(lambda x: (type(x).__name__ + ":").encode() + x)
        wire = behind.wire()
        wire.send(CHUNKED)
        for _ in range(100):
            wire.send(b"1\r\na\r\n" * 100)
        exchange = wire.connection._exchange
        assert exchange is not None
        assert len(exchange.parts) == 2
        wire.send(b"0\r\n\r\n")
        await until(lambda: wire.out)
        assert bodies(wire) == [b"bytes:" + b"a" * 10_000]
        behind.end()

    run(main)


def test_a_client_that_takes_what_it_is_sent_is_not_cut_off_because_more_is_sent() -> None:
    async def main() -> None:
        behind = Behind(lambda x: x, limits=Limits(write_timeout=10))
        wire = behind.wire()
        now = asyncio.get_running_loop().time()
        wire.stuck = True
        for second in range(0, 100, 5):
            wire.send(GET + GET)
            wire.unread -= 100  # less than has come to it
            wire.connection.look(now + second)
            assert wire.closed is None
        for second in range(100, 115, 5):  # it takes nothing any more, and what comes to it does not help
            wire.send(GET)
            wire.connection.look(now + second)
        assert wire.closed == "cut off"
        behind.end()

    run(main)


@pytest.mark.parametrize("stuck", [True, False])
def test_a_reply_that_is_cut_off_at_the_stop_counts_as_none(stuck: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.server.front.LAST_WORDS", 0.0)

    async def main() -> None:
        behind = Behind(lambda x: b"y" * 100_000)
        wire = behind.wire()
        wire.stuck = stuck
        wire.send(post(b"x"))
        await until(lambda: wire.out)
        await behind.front.drain(0)  # the client has not closed its side
        assert wire.closed == "cut off"
        assert behind.front.unanswered == stuck
        behind.end()

    run(main)


@pytest.mark.parametrize(("path", "allowed"), [(b"/ping", "GET, HEAD"), (b"/v2", "GET, HEAD"), (b"/", "OPTIONS")])
def test_what_is_allowed_is_all_that_is_taken(path: bytes, allowed: str) -> None:
    async def main() -> None:
        behind = Behind(lambda x: x)
        wire = behind.wire()
        wire.send(b"DELETE " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: wire.out)
        status, headers, _ = replies(wire.out)[0]
        assert (status, headers["allow"]) == (405, allowed)
        behind.end()

    run(main)


@pytest.mark.parametrize("piece", [1, 1000])
def test_an_app_of_any_kind_never_sees_trailers_and_is_behind_the_same_limits(piece: int) -> None:
    """As the metrics port is."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        seen.append([name for name, _ in scope["headers"]])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def main() -> None:
        front = Front(app, Limits(header_size=2000))
        front.open()
        wire, long = Wire(front), Wire(front)
        sent = CHUNKED + b"2\r\nab\r\n0\r\nEvil: x\r\n\r\n"
        for start in range(0, len(sent), piece):
            wire.send(sent[start : start + piece])
        await until(lambda: wire.out)
        assert statuses(wire) == [200]
        assert seen == [[b"host", b"transfer-encoding"]]
        long.send(CHUNKED + b"0\r\nT: ")
        for _ in range(200):
            long.send(b"a" * 1000)
        assert statuses(long) == [431]
        assert long.closed == "half"
        for each in wire, long:
            each.gone()
        front.watch.end()
        await until(lambda: not front.tasks)

    run(main)
