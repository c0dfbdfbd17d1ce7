"""What a stream runs while nothing is inside its port: on its own thread, with its cores leased.

It stands in for the port's source meanwhile (`Dispatch.rehearse`), so that the way of requests knows nothing of it:
what arrives goes into that source, waits until it is back, and is seen and refused through this one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from headrace.engine.future import Future
from headrace.engine.source import Refused, Source, Work


class Rehearsal:
    """A Source of one run, and that run. `ended` is set when there is nothing to wait for any more."""

    def __init__(self, call: Callable[[], object], name: str, behind: Source | None = None) -> None:
        """What it raises is lost: it looks after that itself. `behind`: the source it stands in for."""
        self.name = name
        self._behind = behind
        self.ended = threading.Event()
        self.done = False
        self._call = call
        self._waits = True
        self._refuses = False

    def forsake(self) -> None:
        """If it has not begun, it does not; if it has, nobody waits for it."""
        self._waits = False
        self.ended.set()

    # ---- as a Source: called with the engine's lock held

    def __len__(self) -> int:
        return int(self._waits) + (0 if self._behind is None else len(self._behind))

    def batches(self, now: float, busy: bool) -> int:
        return int(self._waits)

    def pull(self, now: float, busy: bool, stream: int, refused: Refused) -> Work | None:
        if self._refuses and self._behind is not None:
            return self._behind.pull(now, busy, stream, refused)
        waits, self._waits = self._waits, False
        return self if waits else None

    def put_back(self, works: Sequence[Any], pulled_at: float) -> Sequence[Rehearsal]:
        return ()  # one run is never taken with others

    def next_deadline(self) -> float | None:
        return None

    def is_empty(self) -> bool:
        return not self._waits and (self._behind is None or self._behind.is_empty())

    def abandon(self, error: BaseException) -> None:
        self.forsake()
        if self._behind is not None and not self._refuses:
            self._refuses = True
            self._behind.abandon(error)

    def refuse_behind(self, running: Iterable[Any], refused: Refused) -> None:
        if self._behind is not None:
            self._behind.refuse_behind(running, refused)

    def waiting(self) -> Iterable[Any]:
        return () if self._behind is None else self._behind.waiting()

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
