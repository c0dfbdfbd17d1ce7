"""Replies that nobody takes: what waits for all such clients together is bounded."""

from __future__ import annotations

import asyncio

import pytest
from wire import Behind, Wire, post, until

from headrace.server import front as module

REPLY = b"x" * 100_000


def test_of_the_clients_that_do_not_read_the_one_with_most_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "UNSENT", 850_000)

    async def main() -> None:
        behind = Behind(lambda _: REPLY, max_bytes=1000)
        behind.front.watch.tick = 1e6  # this test is the clock
        assert behind.front.unsent_limit == 850_000

        async def waits(count: int) -> Wire:
            wire = behind.wire()
            wire.stuck = True
            wire.send(post(b"x") * count)
            await until(lambda: wire.out.count(REPLY) == count)
            return wire

        few, many = await waits(2), await waits(5)
        for _ in range(3):
            behind.front.watch._look()
        assert (few.closed, many.closed) == (None, None), "they are within the bound"
        most = await waits(6)
        behind.front.watch._look()
        assert (few.closed, many.closed, most.closed) == (None, "cut off", None), "the newest has had no time to read"
        many.gone()
        another = await waits(3)
        most.unread -= 1
        behind.front.watch._look()
        assert (few.closed, most.closed, another.closed) == ("cut off", None, None), "it has read"
        few.gone()
        another.unread -= 1
        behind.front.watch._look()
        assert (most.closed, another.closed) == ("cut off", None)
        most.gone()
        assert [record.args for record in caplog.records] == [(1, 850_000)] * 3
        few = another
        few.unread = 0
        few.connection.resume_writing()
        assert not behind.front.choked
        behind.end()

    asyncio.run(main())


def test_the_bound_is_that_of_the_bodies() -> None:
    async def main() -> None:
        behind = Behind(lambda x: x, max_bytes=1 << 40)
        assert behind.front.unsent_limit == 1 << 40
        behind.end()

    asyncio.run(main())
