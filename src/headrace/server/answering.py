"""From a door to the Service and back, for doors that await: the hot path's only Task is the one the ASGI server made.

A small body is decoded where it is; heavy decoding (pictures, JSON over 64 KiB) goes to one bounded thread, so that the
event loop keeps its time for others. What waits for that thread holds a permit, so its queue is bounded too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from headrace.engine.mailbox import Mailbox
from headrace.errors import TooLarge
from headrace.server.asgi import ClientLeft, Request
from headrace.serving.inflight import InFlight
from headrace.serving.service import Service

T = TypeVar("T")
HEAVY = 64 * 1024
"""Bytes from which decoding leaves the event loop."""
WATCH_AFTER = 0.1
"""Seconds after which a request that is still unanswered is watched for a client that leaves. Watching costs a Task."""


class Answering:
    """What the doors share: the Service, the codec thread, the limit on bodies. Lives on the event loop."""

    def __init__(self, service: Service, max_body_size: int) -> None:
        self.service = service
        self.max_body_size = max_body_size
        self._codec = ThreadPoolExecutor(1, thread_name_prefix="headrace-codec")

    def open(self, request: Request, name: str, version: str | None) -> InFlight:
        """Its headers are here: refuse it now, or pin a model and hold a permit for its body."""
        length = request.content_length or 0
        if length > self.max_body_size:
            raise TooLarge("a request body", limit=self.max_body_size, size=length)
        return self.service.open(name, version, length)

    async def read(self, request: Request, inside: InFlight) -> bytes:
        return await request.body(self.max_body_size, inside.permit.grow)

    async def decode(self, function: Callable[[], T], heavy: bool) -> T:
        if not heavy:
            return function()
        return await asyncio.get_running_loop().run_in_executor(self._codec, function)

    async def answer(
        self, request: Request, inside: InFlight, inputs: tuple[Any, ...], names: tuple[str, ...] | None = None
    ) -> Any:
        """Have it run. The outputs, or what went wrong; ClientLeft if nobody waits for them any more."""
        box = Mailbox.here()
        loop = box.loop
        answered: asyncio.Future[None] = loop.create_future()

        def wake(_: object) -> None:
            if not answered.done():
                answered.set_result(None)

        watcher: asyncio.Task[None] | None = None

        def watch() -> None:
            nonlocal watcher
            watcher = loop.create_task(request.left())
            watcher.add_done_callback(wake)

        timer = loop.call_later(WATCH_AFTER, watch)
        try:
            self.service.start(inside, inputs, lambda settled: box.post(wake, settled), names)
            await answered
        finally:
            timer.cancel()
            if watcher is not None:
                watcher.cancel()
            left = not inside.can_read()
            inside.depart()
        if left:
            raise ClientLeft
        return inside.result()

    def close(self, *, wait: bool) -> None:
        self._codec.shutdown(wait=wait)
