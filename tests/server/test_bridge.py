"""What goes through the plain app leaves nothing behind, and writes nothing after the connection's last reply."""

from __future__ import annotations

import asyncio
import gc

from wire import Behind, post, replies, until

from headrace.server.bridge import Bridge
from headrace.server.exchange import Exchange

GET = b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"


def test_no_circle_keeps_it_until_a_collection() -> None:
    async def main() -> None:
        behind = Behind(lambda x: x)
        wire = behind.wire()
        gc.collect()
        gc.disable()
        try:
            wire.send(GET)
            await until(lambda: wire.out)
            await until(lambda: not behind.front.tasks)
            await asyncio.sleep(0)
            assert [each for each in gc.get_objects() if isinstance(each, Bridge | Exchange)] == []
        finally:
            gc.enable()
        assert [status for status, _, _ in replies(wire.out)] == [200]
        behind.end()

    asyncio.run(main())


def test_nothing_is_written_behind_the_last_reply() -> None:
    async def main() -> None:
        behind = Behind(lambda x: x)
        raised: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        wire = behind.wire()
        # Nobody knows whether the body comes: the reply ends the connection, and what is behind it has none.
        nowhere = post(b"hello", b"Expect: 100-continue", path=b"/nowhere")
        wire.send(nowhere + b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: wire.closed)
        await until(lambda: not behind.front.tasks)
        gc.collect()  # a task whose error nobody took says so when it goes
        await asyncio.sleep(0)
        assert [status for status, _, _ in replies(wire.out)] == [404]
        assert raised == []
        behind.end()

    asyncio.run(main())
