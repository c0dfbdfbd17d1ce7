"""What a client may cost: sizes in bytes, times in seconds, counts.

Rule 1: one timer for all connections (`Watch`). On the hot path a connection notes the time of the last tick, which is
        an attribute; what is late is found by looking at every connection once a tick. So a limit is kept to within
        two ticks, never early.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from headrace.server.options import ServeOptions

PIPELINED = 32
"""Requests of one connection that may be unanswered; until then nothing more is read from it."""
SLICE = 16 * 1024
"""Bytes that are parsed at a time, so that one reading of a socket does not hold thousands of requests."""
DISCARDED = 256 * 1024
"""Bytes of a body nobody wants that are read all the same, so that the connection can be used again."""
LINGER = 2.0
"""Seconds a connection that we end is still read from: to close it with bytes unread would take the reply back."""


@dataclass(frozen=True)
class Limits:
    body_size: int = 64 << 20
    header_size: int = 32 << 10
    header_count: int = 100
    url_length: int = 8 << 10
    connections: int = 10_000
    header_timeout: float = 30.0
    body_timeout: float = 60.0
    idle_timeout: float = 75.0
    write_timeout: float = 60.0

    @classmethod
    def of(cls, options: ServeOptions) -> Limits:
        return cls(
            body_size=options.max_body_size,
            header_size=options.max_header_size,
            header_count=options.max_header_count,
            url_length=options.max_url_length,
            connections=options.max_connections,
            header_timeout=options.header_timeout,
            body_timeout=options.body_timeout,
            idle_timeout=options.idle_timeout,
            write_timeout=options.write_timeout,
        )

    @property
    def tick(self) -> float:
        """Seconds between two looks at the connections: small beside the shortest time."""
        shortest = min(self.header_timeout, self.body_timeout, self.idle_timeout, self.write_timeout, LINGER)
        return min(1.0, max(0.005, shortest / 4))


class Watched(Protocol):
    def look(self, now: float) -> None:
        """It is `now`: end what is late."""


class Watch:
    """Looks at everything in `watched` each `tick` seconds, then calls `then`. No timer while there is nothing."""

    def __init__(self, watched: Collection[Watched], tick: float, then: Callable[[], object]) -> None:
        self._watched, self.tick, self._then = watched, tick, then
        self.now = 0.0
        """The time of the last tick."""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """There is something to watch."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self.now = loop.time()
            self._timer = loop.call_later(self.tick, self._look)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._watched:
            loop = asyncio.get_running_loop()
            now = self.now = loop.time()
            self._timer = loop.call_later(self.tick, self._look)
            for one in list(self._watched):
                one.look(now)
            self._then()
