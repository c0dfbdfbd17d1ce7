"""From a door to the Service and back, awaiting: for the app under any ASGI server, whose Task this is.

A small body is decoded where it is; heavy decoding (pictures, JSON over 64 KiB) goes to one bounded thread, so that the
event loop keeps its time for others. What waits for that thread holds a permit, so its queue is bounded too.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from headrace.engine.mailbox import Mailbox
from headrace.errors import TooLarge, TooSlow
from headrace.server.asgi import ClientLeft, Request
from headrace.server.door import Route
from headrace.server.overdue import Overdue
from headrace.server.reply import Reply
from headrace.serving.inflight import InFlight
from headrace.serving.service import Service

WATCH_AFTER = 0.1
"""Seconds after which a request that is still unanswered is watched for a client that leaves. Watching costs a Task."""


class Answering:
    """The Service, the codec thread, the limits on bodies. Lives on the event loop."""

    def __init__(self, service: Service, max_body_size: int, body_timeout: float) -> None:
        self.service = service
        self.max_body_size, self.body_timeout = max_body_size, body_timeout
        self._waiting: Overdue[Waiting] = Overdue(WATCH_AFTER, Waiting.watch)
        self._reading: Overdue[asyncio.Task[Any]] = Overdue(body_timeout, self._give_up)
        self._too_slow: set[asyncio.Task[Any]] = set()
        self.codec = ThreadPoolExecutor(1, thread_name_prefix="headrace-codec")

    def _open(self, request: Request, route: Route) -> InFlight:
        """Its headers are here: refuse it now, or pin a model and hold a permit for its body."""
        length = request.head.content_length or 0
        if length > self.max_body_size:
            raise TooLarge("a request body", limit=self.max_body_size, size=length)
        return self.service.open(route.name, route.version, length)

    async def _read(self, request: Request, inside: InFlight) -> bytes:
        """The body. TooSlow if it does not come: a permit is held for it, and must not be held for ever."""
        task = asyncio.current_task()
        assert task is not None, "a body is read in a Task"
        self._reading.begin(task)
        try:
            return await request.body(self.max_body_size, inside.permit.grow)
        except asyncio.CancelledError:
            if task in self._too_slow and task.uncancel() == 0:
                raise TooSlow(self.body_timeout) from None
            raise
        finally:
            self._reading.end(task)
            self._too_slow.discard(task)

    def _give_up(self, task: asyncio.Task[Any]) -> None:
        self._too_slow.add(task)
        task.cancel()

    async def through(self, request: Request, route: Route) -> Reply:
        """The whole way of a request, by its door."""
        door = route.door
        door.check(request.head)
        inside = self._open(request, route)
        served = inside.served
        try:
            body = await self._read(request, inside)
            if door.heavy(served, len(body)):
                loop = asyncio.get_running_loop()
                decoded = await loop.run_in_executor(self.codec, door.decode, served, body, request.head)
            else:
                decoded = door.decode(served, body, request.head)
        except BaseException:
            self.service.refuse(inside)
            raise
        inputs, names, context = decoded
        return door.encode(served, await self._answer(request, inside, inputs, names), context)

    async def _answer(
        self, request: Request, inside: InFlight, inputs: tuple[Any, ...], names: tuple[str, ...] | None
    ) -> Any:
        """Have it run. The outputs, or what went wrong; ClientLeft if nobody waits for them any more."""
        box = Mailbox.here()
        waiting = Waiting(box.loop, request)
        self._waiting.begin(waiting)
        try:
            self.service.start(inside, inputs, partial(_tell, box, waiting), names)
            await waiting.answered
        finally:
            self._waiting.end(waiting)
            waiting.end()
            left = not inside.can_read()
            inside.depart()
        if left:
            raise ClientLeft
        return inside.result()

    def close(self, *, wait: bool) -> None:
        self.codec.shutdown(wait=wait)


class Waiting:
    """One who waits for an answer. Who waits long is watched for a client that leaves, which costs a Task."""

    __slots__ = ("_request", "_watcher", "answered")

    def __init__(self, loop: asyncio.AbstractEventLoop, request: Request) -> None:
        self.answered: asyncio.Future[None] = loop.create_future()
        self._request = request
        self._watcher: asyncio.Task[None] | None = None

    def watch(self) -> None:
        self._watcher = self.answered.get_loop().create_task(self._request.left())
        self._watcher.add_done_callback(self.wake)

    def wake(self, _: object = None) -> None:
        if not self.answered.done():
            self.answered.set_result(None)

    def end(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()


def _tell(box: Mailbox, waiting: Waiting, _: object) -> None:
    """On the stream: have the loop wake the one who waits."""
    box.post(Waiting.wake, waiting)
