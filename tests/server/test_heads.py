"""Heads that come again and again: known after the second time, and never answered otherwise than parsed ones."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_protocol_fuzz import LIMITS, REQUESTS, model, mutated, same
from wire import Behind, Wire, post, replies, until

from headrace.server.head import Head
from headrace.server.heads import END, LONGEST, MOST, Heads, Known, learn, size_of_head
from headrace.server.routes import route
from headrace.server.traffic import Traffic
from headrace.serving.registry import State
from headrace.testing import Gate


def known(length: int = 5) -> Known:
    found = route("/predictions/m")
    assert found is not None
    return Known("POST", "/predictions/m", b"/predictions/m", Head("POST", "/", []), found, length)


async def ask(wire: Wire, data: bytes) -> None:
    """Send it in one piece, and wait until all it asked for is answered."""
    wire.send(data)
    pipeline = wire.connection._pipeline
    await until(lambda: not any(exchange.out is None and exchange.complete for exchange in pipeline))


class Forgetful(Heads):
    def __setitem__(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("data", "body", "size"),
    [
        (b"GET / HTTP/1.1" + END, 0, 14),
        (b"POST / HTTP/1.1" + END + b"abc", 3, 15),
        (b"POST / HTTP/1.1" + END + b"abc", 2, 0),
        (b"POST / HTTP/1.1" + END + b"ab", 3, 0),
        (b"POST / HTTP/1.1\r\n", 0, 0),
        (END + b"abc", 3, 0),
        (b"x" * LONGEST + END, 0, 0),
    ],
)
def test_a_head_is_what_stands_before_the_first_empty_line_if_nothing_but_its_body_follows(
    data: bytes, body: int, size: int
) -> None:
    assert size_of_head(data, body) == size


def test_no_more_heads_are_kept_than_are_wanted() -> None:
    heads: Heads = {}
    for number in range(3 * MOST):
        learn(heads, b"%d" % number, known())
        assert len(heads) <= MOST
    assert heads[b"%d" % (3 * MOST - 1)].length == 5


def test_a_head_is_known_when_a_connection_has_sent_it_twice_in_a_row() -> None:
    async def main() -> None:
        behind = Behind(lambda x: x, scheduler="naive")
        wire = behind.wire()
        for number in range(20):
            await ask(wire, post(b"hello", b"X-Request: %d" % number))
        assert not behind.front.heads
        await ask(wire, post(b"hello"))
        assert not behind.front.heads
        await ask(wire, post(b"other"))
        assert [each.length for each in behind.front.heads.values()] == [5]
        await ask(wire, post(b"third"))
        another = behind.wire()
        await ask(another, post(b"fifth"))
        assert [body for _, _, body in replies(wire.out)][-3:] == [b"hello", b"other", b"third"]
        assert [body for _, _, body in replies(another.out)] == [b"fifth"]
        behind.end()

    asyncio.run(main())


def test_what_is_known_goes_around_the_parser() -> None:
    """So that the other tests here test what they mean to."""

    async def main() -> None:
        behind = Behind(lambda x: x, scheduler="naive")
        wire = behind.wire()
        fed = []
        feed = wire.connection._parser.feed_data  # type: ignore[union-attr]

        class Parser:
            def feed_data(self, data: bytes) -> None:
                fed.append(data)
                feed(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(parser, name)

        parser = wire.connection._parser
        wire.connection._parser = Parser()  # type: ignore[assignment]
        for body in b"one", b"two", b"six", b"ten":
            await ask(wire, post(body))
        assert len(fed) == 2
        await ask(wire, post(b"seven"))  # another length, another head
        assert len(fed) == 3
        await ask(wire, post(b"one") + post(b"two"))  # more than one request
        assert len(fed) == 4
        assert [body for _, _, body in replies(wire.out)][-3:] == [b"seven", b"one", b"two"]
        behind.end()

    asyncio.run(main())


def test_a_head_is_learnt_only_from_the_bytes_of_its_own_request() -> None:
    """Empty lines before a request are skipped: they are the head of no request, least of all of one that waits."""

    async def main() -> None:
        gate = Gate()
        behind = Behind(lambda x: (gate(), x)[1])
        wire = behind.wire()
        wire.send(post())
        await asyncio.to_thread(gate.wait)
        for _ in range(4):
            wire.send(b"\n" + END)
        assert not behind.front.heads
        gate.open()
        await until(lambda: wire.out)
        for _ in range(4):
            await ask(wire, b"\r\n" + post(b"hello"))
        assert not behind.front.heads
        assert len(replies(wire.out)) == 5
        behind.end()

    asyncio.run(main())


def test_a_head_that_expects_is_not_learnt() -> None:
    async def main() -> None:
        behind = Behind(lambda x: x, scheduler="naive")
        wire = behind.wire()
        for _ in range(4):
            await ask(wire, post(b"hello", b"Expect: 100-continue"))
        assert not behind.front.heads
        assert [body for _, _, body in replies(wire.out)] == [b"hello"] * 4
        behind.end()

    asyncio.run(main())


def test_a_known_head_is_refused_for_whatever_is_the_case_now() -> None:
    async def main() -> None:
        behind = Behind(lambda x: x, scheduler="naive", max_bytes=1000)
        wire = behind.wire()
        for _ in range(3):
            await ask(wire, post(b"hello"))
        entry = behind.service.registry.find("m")
        entry.state = State.LOADING
        await ask(wire, post(b"hello"))
        entry.state = State.READY
        held = behind.service.budget.admit(999)
        await ask(wire, post(b"hello"))
        held.release()
        await ask(wire, post(b"hello"))
        assert [status for status, _, _ in replies(wire.out)] == [200, 200, 200, 503, 429, 200]
        behind.end()

    asyncio.run(main())


def test_a_known_head_is_counted_as_any_other() -> None:
    async def main() -> None:
        behind = Behind(lambda x: x, scheduler="naive", traffic=Traffic())
        wire = behind.wire()
        for _ in range(5):
            await ask(wire, post(b"hello"))
        measures = behind.measures
        assert measures is not None
        assert measures.statuses == {200: 5}
        assert (measures.bytes_in, measures.bytes_out) == (25, 25)
        for histogram in measures.request_seconds, measures.decode_seconds, measures.encode_seconds:
            assert histogram.read().count == 5
            assert histogram.read().total > 0
        behind.end()

    asyncio.run(main())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 256)), max_size=2),
)
def test_what_is_known_is_answered_as_if_it_were_not(requests: list[bytes], changes: list[tuple[int, int]]) -> None:
    """Each request several times, alone: with the heads of a server, and without."""
    pieces = [mutated(each, changes) if changes else each for each in requests for _ in range(4)]

    async def talk(behind: Behind) -> bytes:
        wire = behind.wire()
        for piece in pieces:
            if piece and wire.reading:
                await ask(wire, piece)
        out = wire.out
        if wire.closed is None:
            wire.end()
        wire.gone()
        return same(out)

    async def main() -> None:
        with_heads, without = (Behind(model, limits=LIMITS, scheduler="naive") for _ in range(2))
        without.front.heads = Forgetful()
        first, second = await talk(with_heads), await talk(without)
        assert first == second
        assert not without.front.heads
        with_heads.end()
        without.end()

    asyncio.run(main())
