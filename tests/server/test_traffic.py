"""What goes through our own protocol is told of: each request once, whichever way it went and however it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from wire import Behind, Wire, post, replies, until

from headrace.errors import Closed
from headrace.server.access import Access
from headrace.server.door import HEAVY
from headrace.server.front import Front
from headrace.server.limits import Limits
from headrace.server.metrics_api import MetricsApp
from headrace.server.traffic import LEFT, Traffic
from headrace.testing import Gate

PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
METADATA = b"GET /v2?a=b HTTP/1.1\r\nHost: x\r\n\r\n"  # a route that goes over the bridge
NOWHERE = b"GET /nowhere%20at HTTP/1.1\r\nHost: x\r\n\r\n"


class Kept:
    """An access log that is only remembered."""

    def __init__(self) -> None:
        self.lines: list[Access] = []

    def put(self, line: Access) -> None:
        self.lines.append(line)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def fail(x: Any) -> Any:
    raise ValueError("no")


def watched(function: Callable[..., Any], **options: Any) -> tuple[Behind, Traffic, list[Access]]:
    kept: Any = Kept()
    traffic = Traffic(kept)
    return Behind(function, traffic=traffic, **options), traffic, kept.lines


async def answered(wire: Wire, count: int) -> None:
    await until(lambda: len(replies(wire.out)) == count)


def test_requests_are_counted_by_model_and_status_on_every_way() -> None:
    async def main() -> None:
        behind, traffic, lines = watched(lambda x: x)
        wire = behind.wire()
        wire.send(post(b"abc") + PING + METADATA + NOWHERE + post(b"abc", path=b"/predictions/nobody"))
        await answered(wire, 5)
        assert behind.measures is not None
        assert behind.measures.statuses == {200: 1}
        assert (behind.measures.bytes_in, behind.measures.bytes_out) == (3, 3)
        assert traffic.others.statuses == {200: 2, 404: 2}
        assert traffic.refused == {"NotFound": 1, "ModelNotFound": 1}
        said = {(line.path, line.status, line.bytes, line.request_id) for line in lines}
        targets = ["/predictions/m", "/ping", "/v2?a=b", "/nowhere%20at", "/predictions/nobody"]
        found = zip(targets, replies(wire.out), strict=True)
        assert said == {(path, status, len(body), head["x-request-id"]) for path, (status, head, body) in found}
        behind.end()

    run(main)


@pytest.mark.parametrize("body", [b"x", b'"%b"' % (b"x" * HEAVY)], ids=["small", "heavy"])
def test_each_stage_is_observed_once_for_each_request(body: bytes) -> None:
    async def main() -> None:
        behind, _, _ = watched(lambda x: x)
        wire = behind.wire()
        wire.send(post(body))
        await answered(wire, 1)
        wire.send(post(body) + post(body))
        await answered(wire, 3)
        measures = behind.measures
        assert measures is not None
        for stage in measures.decode_seconds, measures.encode_seconds, measures.request_seconds:
            assert stage.read().count == 3
            assert 0 < stage.read().total < 30
        behind.end()

    run(main)


@pytest.mark.parametrize("limit", ["body", "requests"])
def test_what_is_refused_at_its_headers_is_counted_under_its_model(limit: str) -> None:
    async def main() -> None:
        gate = Gate()
        behind, traffic, _ = watched(
            lambda x: (gate(), x)[1], limits=Limits(body_size=7 if limit == "body" else 100), max_requests=1
        )
        inside, wire = behind.wire(), behind.wire()
        inside.send(post(b"x"))
        await asyncio.to_thread(gate.wait)
        wire.send(post(b"12345678") + post(b"12345678", path=b"/predictions/nobody"))
        await answered(wire, 2)
        gate.open()
        await answered(inside, 1)
        assert behind.measures is not None
        assert behind.measures.statuses == {200: 1, 413 if limit == "body" else 429: 1}
        assert traffic.others.statuses == {413 if limit == "body" else 404: 1}
        behind.end()

    run(main)


def test_a_failure_has_its_reason() -> None:
    async def main() -> None:
        behind, traffic, lines = watched(fail)
        wire = behind.wire()
        wire.send(post(b"x"))
        await answered(wire, 1)
        assert behind.measures is not None
        assert behind.measures.statuses == {500: 1}
        assert behind.measures.encode_seconds.read().count == 0
        assert traffic.refused == {"BackendError": 1}
        assert [line.status for line in lines] == [500]
        behind.end()

    run(main)


@pytest.mark.parametrize("begun", ["its body comes", "it runs"])
def test_a_client_that_leaves_is_told_of_once(begun: str) -> None:
    async def main() -> None:
        gate = Gate()
        behind, traffic, lines = watched(lambda x: (gate(), x)[1])
        wire = behind.wire()
        if begun == "it runs":
            wire.send(post(b"abc"))
            await asyncio.to_thread(gate.wait)
        else:
            wire.send(post(b"abc")[:-1])
        wire.gone()
        gate.open()
        assert behind.measures is not None
        assert behind.measures.statuses == {LEFT: 1}
        assert traffic.refused == {"ClientLeft": 1}
        assert [(line.status, line.bytes) for line in lines] == [(LEFT, 0)]
        behind.end()
        assert sum(behind.measures.statuses.values()) == len(lines) == 1

    run(main)


def test_a_client_that_leaves_after_its_reply_was_ready_is_told_of_once() -> None:
    async def main() -> None:
        behind, traffic, lines = watched(lambda x: x)
        wire = behind.wire()
        wire.send(post(b"abc"))
        await answered(wire, 1)
        wire.gone()
        assert traffic.refused == {}
        assert [line.status for line in lines] == [200]
        behind.end()

    run(main)


@pytest.mark.parametrize(
    ("sent", "reason", "status"),
    [
        (b"this is not HTTP\r\n\r\n", "ConnectionEnds", 400),
        (PING.replace(b"Host", b"Guest"), "ConnectionEnds", 400),
        (post(b"12345678"), "TooLarge", 413),
        (b"TRACE /predictions/m HTTP/1.1\r\nHost: x\r\n\r\n", "MethodNotAllowed", 405),
    ],
)
def test_what_is_refused_has_a_reason(sent: bytes, reason: str, status: int) -> None:
    async def main() -> None:
        behind, traffic, lines = watched(lambda x: x, limits=Limits(body_size=7))
        wire = behind.wire()
        wire.send(sent)
        await answered(wire, 1)
        wire.gone()
        assert traffic.refused == {reason: 1}
        assert [line.status for line in lines] == [status]
        assert [line.request_id for line in lines] == [replies(wire.out)[0][1]["x-request-id"]]
        behind.end()

    run(main)


def test_who_is_not_waited_for_at_the_stop_is_told_of() -> None:
    async def main() -> None:
        gate = Gate()
        behind, traffic, lines = watched(lambda x: (gate(), x)[1])
        wire = behind.wire()
        wire.send(post(b"x"))
        await asyncio.to_thread(gate.wait)
        wire.connection.give_up(Closed("no time"))
        gate.open()
        assert traffic.refused == {"Closed": 1}
        assert [line.status for line in lines] == [503]
        behind.end()

    run(main)


def test_a_head_has_no_bytes() -> None:
    async def main() -> None:
        behind, traffic, lines = watched(lambda x: x)
        wire = behind.wire()
        wire.send(PING.replace(b"GET", b"HEAD"))
        assert wire.out.startswith(b"HTTP/1.1 200 ")
        assert [line.bytes for line in lines] == [0]
        assert traffic.others.bytes_out == 0
        behind.end()

    run(main)


def test_a_front_of_another_app_has_no_hot_routes() -> None:
    async def main() -> None:
        door = MetricsApp(None)  # type: ignore[arg-type]  # nobody asks for metrics here
        front = Front(door, Limits())
        front.open()
        wire = Wire(front)
        wire.send(PING + post(b"x"))
        await answered(wire, 2)
        assert [status for status, _, _ in replies(wire.out)] == [404, 404]
        wire.gone()
        front.watch.end()
        door.close()

    run(main)
