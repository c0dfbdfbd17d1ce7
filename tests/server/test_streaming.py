"""A reply in parts keeps its place in the pipeline, holds a bounded part of itself, and is whole or has no end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from custom_server import add
from wire import Behind, Wire, post, replies, until

from headrace.errors import Closed
from headrace.server.reply import Reply
from headrace.server.streaming import AHEAD, LAST, Streaming

# ---- pure


def begun(method: str = "POST", *, old: bool = False, status: int = 200) -> Streaming:
    return Streaming(method, old, Reply(b"", b"text/x", status), 1, False)


def test_parts_are_chunks_and_the_end_is_said_once() -> None:
    stream = begun()
    stream.add(b"abc", 10, lambda _: None, waits=False)
    (head, chunk) = stream.take(reads=True)
    assert head.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/x\r\n")
    assert head.endswith(b"ts_stream_next: true\r\ntransfer-encoding: chunked\r\n\r\n")
    assert chunk == b"3\r\nabc\r\n"
    stream.add(b"", 10, lambda _: None, waits=False)  # an empty chunk would be the end
    assert stream.take(reads=True) == []
    assert stream.end(b"0123456789abcdef") == b"10\r\n0123456789abcdef\r\n" + LAST
    assert stream.sent == 19


def test_what_is_broken_off_has_no_end() -> None:
    stream = begun()
    stream.add(b"abc", 10, lambda _: None, waits=False)
    assert stream.broken().endswith(b"\r\n\r\n3\r\nabc\r\n")


@pytest.mark.parametrize(("method", "old", "status"), [("HEAD", False, 200), ("POST", False, 204), ("POST", True, 200)])
def test_what_has_no_chunks_has_none(method: str, old: bool, status: int) -> None:
    stream = begun(method, old=old, status=status)
    stream.add(b"abc", 10, lambda _: None, waits=False)
    out = b"".join(stream.take(reads=True)) + stream.end(b"d")
    assert out.endswith(b"\r\n\r\nabcd" if old else b"\r\n\r\n")
    assert (b"connection: close" in out) == old


def test_its_model_hears_what_was_read_and_a_bounded_part_of_what_waits() -> None:
    stream, read = begun(), []  # type: ignore[var-annotated]
    stream.add(b"a", 10, read.append, waits=False)
    assert read == []
    stream.take(reads=False)  # written, but its client does not read
    assert read == []
    stream.take(reads=True)
    assert read == [10]
    for _ in range(3):
        stream.add(b"a", AHEAD // 2, read.append, waits=True)
    assert sum(read) == 10 + AHEAD
    stream.take(reads=True)
    assert sum(read) == 10 + AHEAD // 2 * 3


# ---- on a connection, with a real worker


def run(main: Callable[[Behind], Awaitable[None]], **options: int) -> None:
    async def all_of_it() -> None:
        behind = Behind(lambda x: x, **options)
        add(behind.service, "parts", "parts", 4)
        await main(behind)
        behind.end()

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        assert sys.path
        asyncio.run(all_of_it())


def ask(body: bytes, path: bytes = b"/predictions/parts") -> bytes:
    return post(body, b"Content-Type: application/json", path=path)


def test_replies_behind_one_in_parts_wait_for_its_last(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def main(behind: Behind) -> None:
        wire = behind.wire()
        wait = b'[2, 3, "wait", "%b"]' % str(gate).encode()
        wire.send(ask(wait) + ask(b'"what follows"', b"/predictions/m") + ask(b"[1, 1]"))
        await until(lambda: b"bbb" in wire.out)
        for _ in range(50):
            await asyncio.sleep(0)
        assert b"what follows" not in wire.out
        gate.touch()
        await until(lambda: wire.out.count(b"the end") == 2)
        first, _, rest = wire.out.partition(LAST)
        assert first.endswith(b"3\r\naaa\r\n3\r\nbbb\r\n7\r\nthe end\r\n")
        assert rest.index(b"what follows") < rest.index(b"1\r\na\r\n")
        wire.gone()

    run(main)


def test_a_client_that_does_not_read_stops_its_model_and_goes_on_with_it() -> None:
    async def main(behind: Behind) -> None:
        wire = behind.wire()
        wire.stuck = True
        wire.send(ask(b"[100, 100000]"))
        await until(lambda: wire.unread > 64 * 1024)
        size = -1
        while size != len(wire.out):  # until no more comes
            size = len(wire.out)
            await asyncio.sleep(0.1)
        assert size < 2_000_000
        wire.stuck, wire.unread = False, 0
        wire.connection.resume_writing()
        await until(lambda: wire.out.endswith(LAST))
        assert len(wire.out) > 10_000_000
        wire.gone()

    run(main)


def test_whoever_is_still_being_answered_when_there_is_no_time_left_hears_no_end(tmp_path: Path) -> None:
    async def main(behind: Behind) -> None:
        wire: Wire = behind.wire()
        gate = tmp_path / "gate"
        wire.send(ask(b'[2, 3, "wait", "%b"]' % str(gate).encode()))
        await until(lambda: b"bbb" in wire.out)
        wire.connection.stop()
        assert wire.closed is None
        assert wire.connection.give_up(Closed("the server has stopped")) == 1
        assert not wire.out.endswith(LAST)
        assert wire.closed is not None
        gate.touch()
        wire.gone()

    run(main)


def test_a_drain_waits_for_the_last_part(tmp_path: Path) -> None:
    async def main(behind: Behind) -> None:
        wire = behind.wire()
        gate = tmp_path / "gate"
        wire.send(ask(b'[2, 3, "wait", "%b"]' % str(gate).encode()))
        await until(lambda: b"bbb" in wire.out)
        wire.connection.stop()
        gate.touch()
        await until(lambda: wire.closed)
        assert wire.out.endswith(LAST)
        wire.gone()

    run(main)


def test_what_has_no_parts_is_answered_in_one() -> None:
    async def main(behind: Behind) -> None:
        wire = behind.wire()
        wire.send(ask(b"[0, 0]"))
        await until(lambda: wire.out)
        ((status, headers, body),) = replies(wire.out)
        assert (status, body) == (200, b"the end")
        assert "ts_stream_next" not in headers
        wire.gone()

    run(main)
