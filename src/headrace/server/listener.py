"""The socket a server listens on.

Rule 1: the address is bound before anything is loaded, so that a taken port is told at once; listening begins when
        there is somebody to answer, so that a probe of the port tells the truth.
Rule 2: at each wake-up the backlog is emptied. uvloop by itself takes one connection per turn of its loop: on a busy
        server the thousandth newcomer waits a thousand turns, which are seconds.
Rule 3: who says nothing in a handshake costs a descriptor as well: whoever comes while there is no room for what is
        already being made is closed at once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable

from headrace.errors import InvalidOption, SetupError
from headrace.server.options import Address

BACKLOG = 4096
RETRY_SECONDS = 1.0
"""How long nobody is accepted after the process has run out of descriptors or memory, if none of its connections ends
before."""
_OUT_OF_SOMETHING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_log = logging.getLogger("headrace.server")


class PortTaken(SetupError):
    """Somebody else listens there, or the address cannot be had."""


class Listener:
    """Bound when it is made; `open` listens; `close` ends it. PortTaken or InvalidOption says why it cannot be had."""

    def __init__(
        self, flag: str, address: Address, tls: ssl.SSLContext | None = None, handshake_timeout: float = 60.0
    ) -> None:
        """`tls`: what connections are encrypted with, after a handshake of at most so many seconds."""
        self._tls, self._handshake_timeout = tls, handshake_timeout if tls is not None else None
        self._flag, self._asked = flag, address
        self._socket = self._take()
        self.address = Address(address.host, self._socket.getsockname()[1])
        self._loop: asyncio.AbstractEventLoop | None = None
        self._make_protocol: Callable[[], asyncio.Protocol] | None = None
        self._has_room: Callable[[int, bool], bool] = _always
        self._paused: asyncio.TimerHandle | None = None
        self._said = 0.0  # when it was last said that nobody can be accepted
        self._beginning: set[asyncio.Task[object]] = set()  # connections that are being made

    def open(
        self, make_protocol: Callable[[], asyncio.Protocol], has_room: Callable[[int, bool], bool] | None = None
    ) -> None:
        """Listen, on the loop that runs here: each connection gets a protocol of its own.

        `has_room(making, encrypted)`: whether one more may be made, while so many are being made; None: always.
        """
        self._has_room = has_room or _always
        # Only now: until here nobody else was to bind it. What is accepted inherits it, and a later start needs that.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.listen(BACKLOG)
        except OSError as error:
            raise self._taken(error) from error
        self._socket.setblocking(False)
        self._loop, self._make_protocol = asyncio.get_running_loop(), make_protocol
        self._loop.add_reader(self._socket.fileno(), self._accept_all)

    def close(self) -> None:
        if self._loop is not None and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
        self._loop = None
        self._socket.close()
        if self._tls is not None:
            for task in self._beginning:
                task.cancel()  # who has not ended its handshake has asked for nothing

    async def wait_closed(self, timeout: float) -> None:
        """After `close`: until the connections that were being made are made, at most `timeout` seconds."""
        if self._beginning:
            _, late = await asyncio.wait(self._beginning, timeout=timeout)
            for task in late:
                task.cancel()

    def freed(self) -> None:
        """A connection has ended: there may be a descriptor for one that waits."""
        if self._paused is not None:
            self._paused.cancel()
            self._try_again()

    def _accept_all(self) -> None:
        assert self._loop is not None
        for _ in range(BACKLOG):
            try:
                connection, _address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_SOMETHING:
                    raise
                self._pause(error)
                return
            if not self._has_room(len(self._beginning), self._tls is not None):
                connection.close()
                continue
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._begin(connection))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _begin(self, connection: socket.socket) -> None:
        assert self._make_protocol is not None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make_protocol, connection, ssl=self._tls, ssl_handshake_timeout=self._handshake_timeout
            )
        except OSError as error:  # it has gone already, or does not speak TLS
            connection.close()
            _log.debug("a connection ended while it was made: %s", error)

    def _pause(self, error: OSError) -> None:
        assert self._loop is not None
        now = self._loop.time()
        if not self._said or now - self._said >= RETRY_SECONDS:
            self._said = now
            _log.error("no connection can be accepted until one has ended: %s", error.strerror)
        self._loop.remove_reader(self._socket.fileno())
        self._paused = self._loop.call_later(RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._paused = None
        if self._loop is not None:
            self._loop.add_reader(self._socket.fileno(), self._accept_all)

    def _take(self) -> socket.socket:
        # SO_REUSEADDR would let others bind it too, as long as nobody listens. Without it, connections of a server
        # before that are still closing are in the way: then, and only then, with it.
        try:
            return self._bind(reuse=False)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise self._taken(error) from error
        except (UnicodeError, TypeError) as error:  # what `bind` makes of a name it cannot encode
            raise InvalidOption(f"{self._flag} {self._asked}: that is no name of a host") from error
        try:
            return self._bind(reuse=True)
        except OSError as error:
            raise self._taken(error) from error

    def _bind(self, *, reuse: bool) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in self._asked.host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
            sock.bind((self._asked.host, self._asked.port))
        except BaseException:
            sock.close()
            raise
        return sock

    def _taken(self, error: OSError) -> PortTaken:
        why = error.strerror or error
        return PortTaken(f"{self._flag} {self._asked}: {why}; give another one, or port 0 for a free one")


def _always(_making: int, _encrypted: bool) -> bool:
    return True
