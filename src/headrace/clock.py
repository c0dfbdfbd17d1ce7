"""Time as an argument. Seconds as float, monotonic; the pure parts are told what time it is."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds on a clock that never goes back."""


class SystemClock:
    """`time.monotonic`, bound once: the hot path asks for the time about four times a request."""

    def __init__(self) -> None:
        self.now = time.monotonic
