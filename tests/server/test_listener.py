"""What a listener does before a connection is one: room, descriptors, handshakes that never end."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from wire import until

from headrace.server import listener as module
from headrace.server.listener import Listener
from headrace.server.options import Address

HERE = Address("127.0.0.1", 0)


class Kept(asyncio.Protocol):
    """Remembers its transport."""

    made: list[asyncio.BaseTransport]

    def __init__(self, made: list[asyncio.BaseTransport]) -> None:
        self.made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.append(transport)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def client(listener: Listener) -> socket.socket:
    return socket.create_connection((listener.address.host, listener.address.port), timeout=30)


async def hears(sock: socket.socket) -> bytes:
    """What comes next: b"" is the end, which is what a reset counts as."""
    try:
        return await asyncio.to_thread(sock.recv, 1)
    except ConnectionResetError:
        return b""


def test_who_finds_no_room_is_closed_before_anything_is_made() -> None:
    async def main() -> None:
        made: list[asyncio.BaseTransport] = []
        listener = Listener("--x", HERE)
        listener.open(lambda: Kept(made), lambda making, encrypted: len(made) + making < 2 and not encrypted)
        clients = [client(listener) for _ in range(5)]
        assert [await hears(sock) for sock in clients[2:]] == [b""] * 3
        await until(lambda: len(made) == 2)
        listener.close()
        for end in (*clients, *made):
            end.close()

    run(main)


def test_handshakes_are_counted_and_end_with_the_listener() -> None:
    async def main() -> None:
        counted: list[tuple[int, bool]] = []

        def has_room(making: int, encrypted: bool) -> bool:
            counted.append((making, encrypted))
            return making < 2

        listener = Listener("--x", HERE, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), handshake_timeout=3600)
        listener.open(lambda: Kept([]), has_room)
        silent = [client(listener) for _ in range(3)]
        assert await hears(silent[2]) == b""
        assert counted == [(0, True), (1, True), (2, True)]
        listener.close()
        await listener.wait_closed(3600)
        assert [await hears(sock) for sock in silent] == [b""] * 3
        for sock in silent:
            sock.close()

    run(main)


def test_without_descriptors_the_next_is_accepted_as_soon_as_a_connection_has_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 3600.0)

    class Full:
        """The socket of a process that has no descriptor left."""

        def __init__(self, sock: socket.socket) -> None:
            self._sock, self.full, self.tried = sock, True, 0

        def accept(self) -> Any:
            self.tried += 1
            if self.full:
                raise OSError(errno.EMFILE, "Too many open files")
            return self._sock.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sock, name)

    async def main() -> None:
        made: list[asyncio.BaseTransport] = []
        listener = Listener("--x", HERE)
        full = Full(listener._socket)
        listener._socket = full  # type: ignore[assignment]
        listener.open(lambda: Kept(made))
        sock = client(listener)
        await until(lambda: caplog.records)
        listener.freed()
        await until(lambda: full.tried == 2)
        full.full = False
        listener.freed()
        await until(lambda: made)
        assert len(caplog.records) == 1, "it is said once a second at most"
        listener.close()
        sock.close()
        made[0].close()  # type: ignore[attr-defined]

    run(main)
