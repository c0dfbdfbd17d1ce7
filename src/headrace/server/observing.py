"""What makes a server observable, as one thing with a life of its own: the metrics door and the access log.

The door stays open while the inference API drains: that is when one wants to look.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from headrace.server.access import access_log
from headrace.server.front import Front
from headrace.server.lag import LoopLag
from headrace.server.limits import Limits
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
        self._front: Front | None = None
        if self._listener is not None and self.traffic is not None:
            self._app = MetricsApp(Metrics(service, self.traffic, self._lag, unanswered))
            self._front = Front(self._app, Limits.of(options))

    @property
    def url(self) -> str | None:
        return None if self._listener is None else f"http://{self._listener.address}"

    def open(self) -> None:
        """On the loop of the server."""
        if self._listener is not None and self._front is not None:
            self._lag.begin()
            self._front.listen(self._listener)
            _log.info("metrics API on %s/metrics", self.url)

    async def drain(self) -> None:
        """On the loop, once nothing is to be seen any more."""
        self._lag.end()
        if self._listener is not None and self._front is not None:
            self._listener.close()
            await self._listener.wait_closed(LAST_WORDS)
            await self._front.drain(LAST_WORDS)

    def reopen(self) -> None:
        """The access log's file, if it has one, was moved away. Takes no lock."""
        if self._access is not None and self._reopens:
            self._access.reopen()

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
