"""Steps of worker processes' turns that Ctrl-C must not come into the middle of: too long to be put right afterwards.

Python calls the handler of a signal on its main thread, between any two calls or turns of a loop there. For the length
of such a step the handler of SIGINT is one that remembers; what came is handed to the usual one after it. That takes
two microseconds, so it is not for what is done for every request of many.
"""

from __future__ import annotations

import signal
import threading
from _signal import signal as _handle  # type: ignore[import-not-found]  # without making enums, which takes 4 us
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

T = TypeVar("T")


def uninterrupted(step: Callable[[], T]) -> T:
    """What `step()` gives. A Ctrl-C that comes meanwhile comes right after it."""
    if threading.current_thread() is not threading.main_thread():
        return step()
    came: list[tuple[int, FrameType | None]] = []
    try:
        before = _handle(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    except ValueError:  # not the main thread of the main interpreter: nobody is interrupted here
        return step()
    try:
        value = step()
    finally:
        # None: a handler that Python did not install, and cannot put back. What came is told below, then.
        _handle(signal.SIGINT, signal.SIG_DFL if before is None else before)
    if came and callable(before):
        before(*came[-1])
    return value
