"""From a door to the Service and back, for doors that await: the hot path's only Task is the one the ASGI server made.

A small body is decoded where it is; heavy decoding (pictures, JSON over 64 KiB) goes to one bounded thread, so that the
event loop keeps its time for others. What waits for that thread holds a permit, so its queue is bounded too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
        self._patience = Patience()
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
        answered: asyncio.Future[None] = box.loop.create_future()
        self._patience.begin(answered, request)
        try:
            self.service.start(inside, inputs, partial(_tell, box, answered), names)
            await answered
        finally:
            self._patience.end(answered)
            left = not inside.can_read()
            inside.depart()
        if left:
            raise ClientLeft
        return inside.result()

    def close(self, *, wait: bool) -> None:
        self._codec.shutdown(wait=wait)


class Patience:
    """Has those who wait long watched for a client that leaves. One timer for all, and none while nobody waits."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], tuple[Request, float]] = {}  # oldest first, with when it began
        self._watched: dict[asyncio.Future[None], asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # the timer's

    def begin(self, answered: asyncio.Future[None], request: Request) -> None:
        loop = answered.get_loop()
        self._waiting[answered] = request, loop.time()
        if self._timer is None or self._loop is not loop:
            self._loop, self._timer = loop, loop.call_later(WATCH_AFTER, self._look)

    def end(self, answered: asyncio.Future[None]) -> None:
        self._waiting.pop(answered, None)
        if self._watched:
            watcher = self._watched.pop(answered, None)
            if watcher is not None:
                watcher.cancel()

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._waiting:
            answered, (request, since) = next(iter(self._waiting.items()))
            if now - since < WATCH_AFTER:
                self._timer = loop.call_later(since + WATCH_AFTER - now, self._look)
                return
            del self._waiting[answered]
            watcher = self._watched[answered] = loop.create_task(request.left())
            watcher.add_done_callback(partial(_wake_of, answered))


def _tell(box: Mailbox, answered: asyncio.Future[None], _: object) -> None:
    """On the stream: have the loop wake the one who waits."""
    box.post(_wake, answered)


def _wake(answered: asyncio.Future[None]) -> None:
    if not answered.done():
        answered.set_result(None)


def _wake_of(answered: asyncio.Future[None], _: object) -> None:
    _wake(answered)
