"""From a door to the Service and back, awaiting: for the app under any ASGI server, whose Task this is.

A small body is decoded where it is; heavy decoding (pictures, JSON over 64 KiB) goes to one bounded thread, so that the
event loop keeps its time for others. What waits for that thread holds a permit, so its queue is bounded too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import Any

from headrace.codecs.forms import form_kind, parse_form
from headrace.engine.mailbox import Mailbox
from headrace.engine.permit import Permit
from headrace.errors import TooLarge, TooSlow
from headrace.server.asgi import ClientLeft, Request
from headrace.server.door import HEAVY, Route
from headrace.server.overdue import Overdue
from headrace.server.priority import level_said
from headrace.server.reply import Reply
from headrace.serving.inflight import InFlight
from headrace.serving.service import Service

Sends = Callable[[bytes], Awaitable[object]]
Begin = Callable[[Reply], Awaitable[Sends]]
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

    async def _open(self, request: Request, route: Route) -> tuple[InFlight, bytes]:
        """Its headers are here: refuse it now, or pin a model and hold a permit for its body; then read that."""
        head, service = request.head, self.service
        length = head.content_length or 0
        if length > self.max_body_size:
            raise TooLarge("a request body", limit=self.max_body_size, size=length)
        if not route.name and not service.registry.has_one and form_kind(head.content_type) is not None:
            head.check_coding()
            return await self._open_by_form(request, length)
        inside = service.open(route.name, route.version, length)
        request.served = inside.served
        try:
            if not inside.served.custom:
                head.check_coding()
            return inside, await self._read(request, inside.permit)
        except BaseException:
            service.refuse(inside)
            raise

    async def _open_by_form(self, request: Request, length: int) -> tuple[InFlight, bytes]:
        """Which model it is for stands in its form."""
        permit = self.service.hold(length)
        try:
            body = await self._read(request, permit)
            content_type = request.head.content_type
            if len(body) > HEAVY:
                form = await asyncio.get_running_loop().run_in_executor(self.codec, parse_form, body, content_type)
            else:
                form = parse_form(body, content_type)
            name = form["model_name"].value.decode(errors="replace") if "model_name" in form else ""
            inside = self.service.pin(name, permit)
        except BaseException:
            permit.release()
            raise
        request.served = inside.served
        return inside, body

    async def _read(self, request: Request, permit: Permit) -> bytes:
        """The body. TooSlow if it does not come: a permit is held for it, and must not be held for ever."""
        task = asyncio.current_task()
        assert task is not None, "a body is read in a Task"
        self._reading.begin(task)
        try:
            return await request.body(self.max_body_size, permit.grow)
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

    async def through(self, request: Request, route: Route, number: int, begin: Begin) -> Reply:
        """The whole way of a request, by its door. `number`: whose `request_id` it has; `begin` is given the first part
        of a reply that comes in parts, and says who is told of all of them. The last is what is returned."""
        door, head = route.door, request.head
        door.check(head)
        inside, body = await self._open(request, route)
        served = inside.served
        try:
            began = monotonic()
            if door.heavy(served, head, len(body)):
                loop = asyncio.get_running_loop()
                decoded = await loop.run_in_executor(self.codec, door.decode, served, body, head, route, number)
            else:
                decoded = door.decode(served, body, head, route, number)
            served.has_decoded(began)
        except BaseException:
            self.service.refuse(inside)
            raise
        inputs, names, context = decoded
        if served.priorities is not None:
            try:
                inside.priority = served.priorities.of(level_said(head, context))
            except BaseException:
                self.service.refuse(inside)
                raise
        outputs = await self._answer(
            request, inside, inputs, names, lambda part: door.encode(served, [part], context), begin
        )
        began = monotonic()
        reply = door.encode(served, outputs, context)
        served.has_encoded(began)
        return reply

    async def _answer(
        self,
        request: Request,
        inside: InFlight,
        inputs: tuple[Any, ...],
        names: tuple[str, ...] | None,
        encode: Callable[[Any], Reply],
        begin: Begin,
    ) -> Any:
        """Have it run. The outputs, or what went wrong; ClientLeft if nobody waits for them any more."""
        box = Mailbox.here()
        waiting = Waiting(box, request)
        self._waiting.begin(waiting)
        try:
            if inside.served.custom:
                inside.listener = waiting
            self.service.start(inside, inputs, partial(_tell, box, waiting), names)
            send: Sends | None = None
            while True:
                await waiting.answered
                while waiting.parts:
                    part, nbytes, read = waiting.parts.popleft()
                    reply = encode(part)
                    send = send or await begin(reply)
                    await send(reply.body)  # which waits while the client does not read
                    read(nbytes)
                if waiting.left or waiting.over:
                    break
                waiting.wait_again()
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

    __slots__ = ("_box", "_request", "_watcher", "answered", "left", "over", "parts")

    def __init__(self, box: Mailbox, request: Request) -> None:
        self._box = box
        self.answered: asyncio.Future[None] = box.loop.create_future()
        """There is an answer, or a part of one; or nobody waits any more."""
        self.parts: deque[tuple[Any, int, Callable[[int], object]]] = deque()
        self.left = self.over = False
        """Its client has left; there is an answer, behind all parts of it."""
        self._request = request
        self._watcher: asyncio.Task[None] | None = None

    def watch(self) -> None:
        self._watcher = self._box.loop.create_task(self._request.left())
        self._watcher.add_done_callback(self._leave)

    def _leave(self, _: object) -> None:
        self.left = True
        self.wake()

    def finish(self) -> None:
        self.over = True
        self.wake()

    def wake(self) -> None:
        if not self.answered.done():
            self.answered.set_result(None)

    def wait_again(self) -> None:
        self.answered = self._box.loop.create_future()
        if self.parts or self.left:
            self.wake()

    def deliver_part(self, part: Any, nbytes: int, read: Callable[[int], object]) -> None:
        """On the worker's thread."""
        self._box.post(self._has_part, (part, nbytes, read))

    def _has_part(self, came: tuple[Any, int, Callable[[int], object]]) -> None:
        self.parts.append(came)
        self.wake()

    def end(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()


def _tell(box: Mailbox, waiting: Waiting, _: object) -> None:
    """On the stream: have the loop wake the one who waits."""
    box.post(Waiting.finish, waiting)
