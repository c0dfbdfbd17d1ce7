"""What takes too long, noticed without a timer for each: the hot path pays two dictionary operations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")


class Overdue(Generic[K]):
    """Calls `then` with what began `seconds` ago and has not ended. One timer for all; none while there is nothing."""

    def __init__(self, seconds: float, then: Callable[[K], object]) -> None:
        self._seconds, self._then = seconds, then
        self._begun: dict[K, float] = {}  # oldest first, with when it began
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # the timer's

    def begin(self, key: K) -> None:
        loop = asyncio.get_running_loop()
        self._begun[key] = loop.time()
        if self._timer is None or self._loop is not loop:
            self._loop, self._timer = loop, loop.call_later(self._seconds, self._look)

    def end(self, key: K) -> None:
        self._begun.pop(key, None)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._begun:
            key, since = next(iter(self._begun.items()))
            if now - since < self._seconds:
                self._timer = loop.call_later(since + self._seconds - now, self._look)
                return
            del self._begun[key]
            self._then(key)
