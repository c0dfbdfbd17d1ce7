"""Any bytes, cut into any pieces: the same replies, nothing raised, every request that was let in answered once."""

from __future__ import annotations

import asyncio
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import Behind, Wire, post, until

from headrace.server.limits import Limits

LIMITS = Limits(body_size=3000, header_size=2000, url_length=500, header_count=20)
UPGRADE = (b"Connection: Upgrade", b"Upgrade: h2c")


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def chunked(*parts: bytes, headers: tuple[bytes, ...] = ()) -> bytes:
    return post(b"", b"Transfer-Encoding: chunked", *headers, length=False) + chunks(*parts)


V2 = b'{"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [7]}]}'
REQUESTS = [
    post(b"hello"),
    post(b'{"a": [1, 2]}', b"Content-Type: application/json"),
    post(b"{", b"Content-Type: application/json"),
    post(b"x" * 3000),
    post(b"x" * 3001),
    post(b"fail"),
    post(V2, path=b"/v2/models/m/infer"),
    post(b"{}", path=b"/v2/models/m/infer"),
    post(b"hello", path=b"/predictions/nobody"),
    post(b"hello", path=b"/nowhere"),
    post(b"hello", b"Expect: 100-continue"),
    post(b"hello", b"Content-Encoding: gzip"),
    post(b"hello", *UPGRADE),
    chunked(b"one", b"two"),
    chunked(b"x" * 2000, b"y" * 2000),
    chunked(b"with", b"upgrade", headers=UPGRADE),
    b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n",
    b"HEAD /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v2/models/m HTTP/1.1\r\nHost: x\r\n\r\n",
    b"TRACE /predictions/m HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /ping HTTP/1.0\r\n\r\n",
    post(b"last", b"Connection: close"),
    b"GET / HTTP/1.1\r\n\r\n",
    b"hello\r\n\r\n",
    post(b"", b"Content-Length: 3", b"Transfer-Encoding: chunked"),
]


def model(x: object) -> object:
    if x == b"fail":
        raise ValueError("as asked")
    return x


def same(out: bytes) -> bytes:
    """Without what differs from one run to the next: request ids, and whether a client had to be asked to go on."""
    out = out.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    return re.sub(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", b"<id>", out)


async def talk(behind: Behind, pieces: list[bytes]) -> Wire:
    """What comes of a client that sends these pieces, waits for what it can, and closes its side."""
    wire = behind.wire()
    for piece in pieces:
        if wire.reading:
            wire.send(piece)
        else:  # as a socket would: it comes when it is read
            await until(lambda: wire.reading or wire.closed)
            wire.send(piece)
    for _ in range(30):
        await asyncio.sleep(0)
    await until(lambda: wire.reading or wire.closed)
    pipeline = wire.connection._pipeline
    await until(lambda: not any(exchange.out is None and exchange.complete for exchange in pipeline))
    if wire.closed is None:
        wire.end()
    assert behind.front.box.waiting == 0
    wire.gone()
    return wire


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(ends)]


def mutated(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    found = bytearray(data)
    for place, byte in changes:
        if byte == 256:
            del found[place % len(found) : place % len(found) + 1]
        else:
            found[place % len(found)] = byte
        if not found:
            break
    return bytes(found)


streams = st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=8).map(b"".join)
places = st.lists(st.integers(0, 1 << 16), max_size=12)
changes = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 256)), min_size=1, max_size=4)


def agree(data: bytes, places: list[int], *, each_byte: bool = False) -> None:
    async def main() -> None:
        behind = Behind(model, limits=LIMITS, scheduler="naive")
        raised = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        whole = await talk(behind, [data])
        pieces = [data[at : at + 1] for at in range(len(data))] if each_byte else cut(data, places)
        in_pieces = await talk(behind, pieces)
        assert same(whole.out) == same(in_pieces.out)
        assert raised == []
        assert behind.service.statistics().inside == 0
        behind.end()

    asyncio.run(main())


@settings(max_examples=150, deadline=None)
@given(streams, places)
def test_however_good_requests_are_cut_the_replies_are_the_same(data: bytes, places: list[int]) -> None:
    agree(data, places)


@settings(max_examples=250, deadline=None)
@given(streams, changes, places)
def test_however_bad_requests_are_cut_the_replies_are_the_same(
    data: bytes, changes: list[tuple[int, int]], places: list[int]
) -> None:
    agree(mutated(data, changes), places)


@settings(max_examples=30, deadline=None)
@given(streams, changes)
def test_byte_by_byte_is_as_good_as_at_once(data: bytes, changes: list[tuple[int, int]]) -> None:
    agree(data[:4000], [], each_byte=True)
    agree(mutated(data[:4000], changes), [], each_byte=True)


@pytest.mark.parametrize("cut", [5, 8, 12, 40])
def test_a_target_that_cannot_be_read_is_refused_in_one_form_however_it_is_cut(cut: int) -> None:
    agree(b"GET /v2/models/\0m HTTP/1.1\r\nHost: x\r\n\r\n", [cut])


def test_each_of_these_requests_is_answered_as_it_should_be() -> None:
    """So that the tests above do not agree about nothing."""

    async def main() -> None:
        behind = Behind(model, limits=LIMITS, scheduler="naive")
        found = []
        for request in REQUESTS:
            wire = await talk(behind, [request])
            found += [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", same(wire.out))]
        assert found == [
            *(200, 200, 400, 200, 413, 500, 200, 400, 404, 404, 200, 400, 200, 200, 413, 200, 200, 200, 200, 200, 405),
            *(200, 200, 200, 400, 400, 400),
        ]  # fmt: skip
        behind.end()

    asyncio.run(main())
