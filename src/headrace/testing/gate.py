"""A place where code under test stops until the test says go. Tests wait on gates, never on seconds."""

from __future__ import annotations

import threading

PATIENCE = 30.0
"""Seconds after which a gate that nobody reaches or opens fails the test instead of hanging it."""


class Gate:
    """`gate()` in the code under test; `gate.wait()` and `gate.open()` in the test. Stays open once opened."""

    def __init__(self) -> None:
        self._reached = threading.Semaphore(0)
        self._opened = threading.Event()

    def __call__(self) -> None:
        self._reached.release()
        if not self._opened.wait(PATIENCE):
            raise AssertionError("nobody opened the gate")

    def wait(self, times: int = 1) -> None:
        """Until `times` more callers have reached it."""
        for _ in range(times):
            if not self._reached.acquire(timeout=PATIENCE):
                raise AssertionError("nobody reached the gate")

    def open(self) -> None:
        self._opened.set()
