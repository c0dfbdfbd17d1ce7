"""A body that does not come holds nothing for ever. The seconds are options, so a test can make them few."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import headrace as hr
from headrace.server.app import App
from headrace.serving.registry import State
from headrace.serving.served import Served
from headrace.serving.service import Service

Message = MutableMapping[str, Any]


def made_service(model: hr.Model) -> Service:
    service = Service(max_requests=10, max_bytes=1000)
    entry = service.registry.add("same", "1")
    entry.served, entry.state = Served("same", "1", model), State.READY
    return service


async def ask(app: App, messages: list[Message], length: int) -> list[Message]:
    """What the app sends to a client that sends `messages` and then nothing any more."""
    sent: list[Message] = []
    forever = asyncio.Event()

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await forever.wait()
        raise AssertionError("nobody sets it")

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-length", str(length).encode())]
    await app({"type": "http", "method": "POST", "path": "/predictions/same", "headers": headers}, receive, send)
    return sent


def test_a_body_that_does_not_come_is_told_408_and_its_permit_goes_back() -> None:
    async def slow_and_quick(service: Service) -> tuple[list[Message], list[Message]]:
        app = App(service, max_body_size=1000, body_timeout=0.02)
        half = [{"type": "http.request", "body": b"x", "more_body": True}]
        slow = asyncio.create_task(ask(app, half, 900))
        await asyncio.sleep(0)
        assert service.statistics().nbytes == 900
        told = await slow
        assert service.statistics().inside == 0
        quick = await ask(app, [{"type": "http.request", "body": b"whole"}], 5)
        app.close()
        return told, quick

    with hr.compile_model(lambda x: x, scheduler="naive") as model:
        told, quick = asyncio.run(slow_and_quick(made_service(model)))
    assert told[0]["status"] == 408
    assert (b"connection", b"close") in told[0]["headers"]
    assert b"0.02 s after its headers" in told[1]["body"]
    assert quick[0]["status"] == 200
    assert quick[1]["body"] == b"whole"


def test_a_reader_that_is_cancelled_by_others_is_not_told_that_it_was_slow() -> None:
    async def cancelled(service: Service) -> list[Message]:
        app = App(service, max_body_size=1000, body_timeout=3600)
        task = asyncio.create_task(ask(app, [], 10))
        await asyncio.sleep(0)
        task.cancel()
        told = await task
        app.close()
        return told

    with hr.compile_model(lambda x: x, scheduler="naive") as model:
        service = made_service(model)
        told = asyncio.run(cancelled(service))
    assert told[0]["status"] == 503  # the time to drain is up
    assert service.statistics().inside == 0
