"""A connection without a socket: the protocol, a transport that only remembers, and a service behind them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import headrace as hr
from headrace.server.app import App
from headrace.server.front import Front
from headrace.server.limits import Limits
from headrace.server.protocol import Connection
from headrace.serving.registry import State
from headrace.serving.served import Served
from headrace.serving.service import Service


class Wire(asyncio.Transport):
    """`out` is what the client would have been sent; `closed` how it ended. `stuck`: the client reads nothing."""

    def __init__(self, front: Front) -> None:
        super().__init__()
        self.out, self.unread = b"", 0
        self.closed: str | None = None
        self.reading, self.stuck = True, False
        self.connection: Connection = front.connection()
        self.connection.connection_made(self)

    # ---- what the client does

    def send(self, data: bytes) -> None:
        if self.closed is None or self.closed == "half":
            self.connection.data_received(data)

    def end(self) -> None:
        """The client closes its side."""
        if not self.connection.eof_received():
            self.close()

    def gone(self) -> None:
        self.closed = self.closed or "lost"
        self.connection.connection_lost(None)

    # ---- what the protocol does

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert self.closed is None, "written after the end"
        self.out += data
        if self.stuck:
            self.unread += len(data)
            if self.unread > 64 * 1024:
                self.connection.pause_writing()

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def get_write_buffer_size(self) -> int:
        return self.unread

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.closed = "half"

    def close(self) -> None:
        self.closed = "closed"

    def abort(self) -> None:
        self.closed = "cut off"

    def is_closing(self) -> bool:
        return self.closed in ("closed", "cut off", "lost")

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True


class Behind:
    """The service, the app and the front of one model. Used inside a running loop; `end` looks whether all is clean."""

    def __init__(self, function: Callable[..., Any], *, limits: Limits | None = None, **options: Any) -> None:
        bounds = {name: options.pop(name) for name in ("max_requests", "max_bytes") if name in options}
        self.service = Service(**{"max_requests": 1000, "max_bytes": None, **bounds})
        entry = self.service.registry.add("m", "1")
        model = hr.compile_model(function, name="m", **options)
        entry.served, entry.state = Served("m", "1", model), State.READY
        limits = limits or Limits()
        self.app = App(self.service, max_body_size=limits.body_size)
        self.front = Front(self.app, limits)
        self.front.open()

    def wire(self) -> Wire:
        return Wire(self.front)

    def end(self) -> None:
        for connection in list(self.front.connections):
            connection.connection_lost(None)
        self.front.watch.end()
        assert self.service.stop(30), self.service.statistics()
        assert self.service.statistics().inside == 0
        assert self.front.box.waiting == 0
        self.app.close()


async def until(met: Callable[[], object]) -> None:
    """Turns of the loop, until it is so."""
    async with asyncio.timeout(30):
        while not met():  # noqa: ASYNC110 - turns of the loop, no time
            await asyncio.sleep(0)


def post(body: bytes = b"", *headers: bytes, path: bytes = b"/predictions/m", length: bool = True) -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: x", *headers]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


def replies(out: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """(status, headers, body) of each reply in `out`; those of HEAD are not told apart. All of it must be replies."""
    found = []
    while out:
        head, blank, rest = out.partition(b"\r\n\r\n")
        assert blank, out
        first, *lines = head.split(b"\r\n")
        match = re.fullmatch(rb"HTTP/1\.1 (\d{3}) .+", first)
        assert match, first
        headers = {}
        for line in lines:
            name, _, value = line.partition(b": ")
            headers[name.decode()] = value.decode()
        if match[1] == b"100":
            out = rest
            continue
        size = int(headers["content-length"])
        assert len(rest) >= size, (size, rest)
        found.append((int(match[1]), headers, rest[:size]))
        out = rest[size:]
    return found
