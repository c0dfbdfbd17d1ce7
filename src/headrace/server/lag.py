"""How late the event loop is: a timer that notes how long after its time it was called.

What keeps the loop from its timers keeps it from its connections too.
"""

from __future__ import annotations

import asyncio

from headrace.counters import Histogram

EVERY = 0.25
"""Seconds between two looks."""


class LoopLag:
    def __init__(self) -> None:
        self.seconds = Histogram()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """On the loop that is to be watched."""
        self._next(asyncio.get_running_loop())

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + EVERY
        self._timer = loop.call_at(due, self._look, loop, due)

    def _look(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.seconds.observe(max(0.0, loop.time() - due))
        self._next(loop)
