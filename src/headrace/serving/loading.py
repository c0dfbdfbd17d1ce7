"""A load under a limit of time.

Rule 1: who waits for a load hears within its limit that it took too long. What cannot be interrupted (a runtime that
        reads a file) goes on, on a thread of its own, and what it makes in the end is closed at once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from headrace.errors import InvalidModel, OutOfMemory

GRACE = 10.0
"""Seconds more than the limit: a worker process that is over it is ended by its own supervisor, which says where it
hung."""
_log = logging.getLogger("headrace.serving")
B = TypeVar("B")
_WANTS_MEMORY = ("MemoryError", "bad_alloc", "Failed to allocate memory")


class _Load:
    """One that may be given up."""

    def __init__(self, build: Callable[[], Any], close: Callable[[Any], object]) -> None:
        self._build, self._close = build, close
        self._lock = threading.Lock()
        self.done = threading.Event()
        self.built: Any = None
        self.error: BaseException | None = None
        self._given_up = False

    def run(self) -> None:
        try:
            built = self._build()
        except BaseException as error:
            self.error = error
        else:
            with self._lock:
                self.built, late = built, self._given_up
            if late:
                self._close(built)
        self.done.set()

    def give_up(self) -> bool:
        """False if it has come to an end after all."""
        with self._lock:
            self._given_up = self.built is None and self.error is None
            return self._given_up


def within(seconds: float | None, build: Callable[[], B], close: Callable[[B], object], *, grace: float = 0.0) -> B:
    """What `build` makes, or raises. InvalidModel if that takes longer than `seconds`, and `grace` more; `close` is
    given what comes later. None: it takes what it takes, on this thread."""
    if seconds is None:
        return build()
    load = _Load(build, close)
    if seconds > 0:
        # A daemon: a load that never ends must not keep the server from ending.
        threading.Thread(target=load.run, name="headrace-load", daemon=True).start()
        load.done.wait(seconds + grace)
    if load.give_up():
        raise InvalidModel(f"it was not loaded within {seconds:g} s (startup_timeout)")
    load.done.wait()
    if load.error is not None:
        raise load.error
    built: B = load.built
    return built


def in_our_words(reason: str) -> str:
    """Whoever compiles a model gives its workers a `start_timeout`; whoever has one served, a `startup_timeout`."""
    return reason.replace("(start_timeout)", "(startup_timeout)")


def wants_memory(error: BaseException) -> bool:
    """Whether a load failed for want of memory. Of a worker, and of a runtime, only the text says so."""
    seen: BaseException | None = error
    for _ in range(10):  # nothing forbids a circle
        if seen is None:
            break
        text = str(seen)
        if isinstance(seen, MemoryError | OutOfMemory) or any(said in text for said in _WANTS_MEMORY):
            return True
        seen = seen.__cause__
    return False
