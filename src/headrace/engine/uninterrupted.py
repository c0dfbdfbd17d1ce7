"""Steps that Ctrl-C must not come into the middle of, where they are too long to be put right afterwards.

Python calls the handler of a signal on its main thread, between any two calls or turns of a loop there. For the length
of such a step the handler of SIGINT is one that remembers; what came is handed to the usual one after it. That takes
two microseconds, so it is for what is seldom done.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


def uninterrupted(step: Callable[[], object]) -> None:
    """Call `step()`. A Ctrl-C that comes meanwhile comes right after it."""
    if threading.current_thread() is not threading.main_thread():
        step()
        return
    came: list[tuple[int, FrameType | None]] = []
    try:
        before = signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    except ValueError:  # not the main thread of the main interpreter: nobody is interrupted here
        step()
        return
    try:
        step()
    finally:
        # None: a handler that Python did not install, and cannot put back. What came is told below, then.
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
    if came and callable(before):
        before(*came[-1])
