"""Results that are charged until they are read: whose they are, and whether somebody is about to read them."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from headrace.engine.future import Future

GRACE = 0.1
"""Seconds. What is done and had a callback may have been handed on by it, to somebody who is just about to read it:
so long it is not taken for one that nobody but its owner reads."""


class Unread:
    """The outputs of a request that has ended."""

    __slots__ = ("future", "handed_on_until", "nbytes", "who")

    def __init__(self, future: Future[Any], nbytes: int, dropped: Callable[[int], object]) -> None:
        """`dropped`: a method, called with the id of the future once that is gone; its object is not kept for it."""
        key, drop = id(future), weakref.WeakMethod(dropped)

        def gone(_: object) -> None:
            forget = drop()
            if forget is not None:
                forget(key)

        self.future = weakref.ref(future, gone)
        self.nbytes = nbytes
        self.who: object = getattr(future, "who", None)
        self.handed_on_until = 0.0
        for callback in future._callbacks or ():
            reader = getattr(callback, "who", None)
            if reader is None:  # it may read, in a moment, or hand it on to somebody who does; or neither
                self.handed_on_until = time.monotonic() + GRACE
            elif reader != self.who:  # somebody else waits for it: it will be read, whatever its owner does
                self.who = None
                break


def whoever_is_here() -> object:
    """The task that runs, or the thread: who must read its own results before it can wait for room."""
    if asyncio._get_running_loop() is not None:
        task = asyncio.current_task()
        if task is not None:
            return id(task)
    return threading.get_ident()
