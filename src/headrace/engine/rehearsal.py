"""What a stream runs before anything is submitted to its port: on its own thread, with its cores leased.

It stands in for the port's source meanwhile (`Dispatch.rehearse`), so that the way of requests knows nothing of it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from headrace.engine.future import Future
from headrace.engine.source import Refused


class Rehearsal:
    """A Source of one run, and that run. `ended` is set when there is nothing to wait for any more."""

    def __init__(self, call: Callable[[], object], name: str) -> None:
        """What it raises is lost: it looks after that itself."""
        self.name = name
        self.ended = threading.Event()
        self.done = False
        self._call = call
        self._waits = True

    # ---- as a Source: called with the engine's lock held

    def __len__(self) -> int:
        return int(self._waits)

    def batches(self, now: float, busy: bool) -> int:
        return int(self._waits)

    def pull(self, now: float, busy: bool, stream: int, refused: Refused) -> Rehearsal | None:
        waits, self._waits = self._waits, False
        return self if waits else None

    def put_back(self, works: Sequence[Any], pulled_at: float) -> Sequence[Rehearsal]:
        return ()  # one run is never taken with others

    def next_deadline(self) -> float | None:
        return None

    def is_empty(self) -> bool:
        return not self._waits

    def abandon(self, error: BaseException) -> None:
        """If it has not begun, it does not; if it has, nobody waits for it."""
        self._waits = False
        self.ended.set()

    def refuse_behind(self, running: Iterable[Any], refused: Refused) -> None:
        pass

    def waiting(self) -> Iterable[Any]:
        return ()

    # ---- as Work

    def futures(self) -> Iterable[Future[Any]]:
        return ()

    def run(self) -> None:
        with contextlib.suppress(BaseException):  # the stream must outlive it
            self._call()

    def complete(self, now: float) -> None:
        self.done = True
        self.ended.set()

    def deliver(self) -> None:
        pass
