"""What makes a server observable, as one thing with a life of its own: the metrics door and the access log.

The door stays open while the inference API drains: that is when one wants to look.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable

import uvicorn
from uvicorn.server import ServerState

from headrace.server.access import access_log
from headrace.server.lag import LoopLag
from headrace.server.listener import Listener
from headrace.server.metrics import Metrics
from headrace.server.metrics_api import MetricsApp
from headrace.server.options import Address, ServeOptions
from headrace.server.traffic import Traffic
from headrace.serving.service import Service

LAST_WORDS = 1.0
"""Seconds for a scrape to end, when the server does."""
_log = logging.getLogger("headrace.server")


class Observing:
    """Takes its port and opens its file when it is made: SetupError says why it cannot. `close` it."""

    def __init__(self, options: ServeOptions, service: Service, unanswered: Callable[[], int]) -> None:
        address = Address.parse("--metrics-address", options.metrics_address)
        self._listener = None if address is None else Listener("--metrics-address", address)
        try:
            access = access_log(options.access_log, options.log_format)
        except BaseException:
            if self._listener is not None:
                self._listener.close()
            raise
        self._access, self._reopens = access, options.access_log not in ("off", "on")
        self.traffic = None if self._listener is None and access is None else Traffic(access)
        """None: nobody wants to know."""
        self._lag = LoopLag()
        self._app: MetricsApp | None = None
        self._state = ServerState()
        if self._listener is not None and self.traffic is not None:
            self._app = MetricsApp(Metrics(service, self.traffic, self._lag, unanswered))

    @property
    def url(self) -> str | None:
        return None if self._listener is None else f"http://{self._listener.address}"

    def open(self) -> None:
        """On the loop of the server."""
        if self._access is not None and self._reopens:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._access.reopen)
        if self._listener is not None and self._app is not None:
            self._lag.begin()
            self._listener.open(self._protocols(self._app))
            _log.info("metrics API on %s/metrics", self.url)

    async def drain(self) -> None:
        """On the loop, once nothing is to be seen any more."""
        self._lag.end()
        if self._listener is not None:
            self._listener.close()
            await self._listener.wait_closed()
            for connection in list(self._state.connections):
                connection.shutdown()
            if self._state.tasks:
                await asyncio.wait(self._state.tasks, timeout=LAST_WORDS)

    def flush(self) -> None:
        """Before an end that leaves no time."""
        if self._access is not None:
            self._access.flush()

    def close(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(RuntimeError):  # its loop has been closed, and took the reader along
                self._listener.close()
        if self._app is not None:
            self._app.close()
        if self._access is not None and not self._access.close():
            _log.warning("the access log is not whole: nobody took its last lines")

    def _protocols(self, app: MetricsApp) -> Callable[[], asyncio.Protocol]:
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
        )
        config.load()

        def make() -> asyncio.Protocol:
            protocol: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self._state, app_state={}
            )
            return protocol

        return make
