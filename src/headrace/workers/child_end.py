"""What a worker process waits for that was told to end, where that takes long. Loaded by its path there, at its end.

Python waits for threads that are no daemons, and runs what `atexit` was given. Its owner gives it some seconds for
that, and then kills it: by then it has said, on its stderr, which of that it was.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

SOON = 1.0
"""Seconds within which it is to have ended without a word."""
MOST = 8
"""Threads that are named."""


def watch() -> None:
    """On a thread that ends with the process."""
    threading.Thread(target=_tell, daemon=True, name="headrace-end").start()


def _tell() -> None:
    time.sleep(SOON)
    os.write(2, f"it was told to end, and waits for {waits_for()}\n".encode(errors="backslashreplace"))


def waits_for() -> str:
    """In words, with where each of that is."""
    frames, main = sys._current_frames(), threading.main_thread()
    others = [each for each in threading.enumerate() if each is not main and not each.daemon]
    if not others:
        at = frames.get(main.ident or 0)
        while at is not None and at.f_back is not None:  # who was called by Python itself
            at = at.f_back
        return "what runs at exit" + _where(at)
    named = [f"thread {each.name!r}{_where(frames.get(each.ident or 0))}" for each in others[:MOST]]
    more = len(others) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _where(frame: Any) -> str:
    return "" if frame is None else f" ({frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name})"
