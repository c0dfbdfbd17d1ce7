"""What the streams of a port run before anything is submitted to it: each on its own thread, with its cores leased.

It stands in for the port's source meanwhile (`Dispatch.rehearse`), so that the way of requests knows nothing of it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from headrace.engine.future import Future
from headrace.engine.source import Refused


class Rehearsal:
    """A Source of so many runs. `ended` is set when all of them have; changed with the engine's lock held."""

    def __init__(self, runs: Iterable[Callable[[], object]], name: str) -> None:
        """What they raise is lost: they look after it themselves."""
        self.name = name
        self.ended = threading.Event()
        self._left = deque(runs)
        self._inside = len(self._left)

    def __len__(self) -> int:
        return len(self._left)

    def batches(self, now: float, busy: bool) -> int:
        return len(self._left)

    def pull(self, now: float, busy: bool, stream: int, refused: Refused) -> RehearsedRun | None:
        return RehearsedRun(self, self._left.popleft()) if self._left else None

    def next_deadline(self) -> float | None:
        return None

    def is_empty(self) -> bool:
        return not self._left

    def abandon(self, error: BaseException) -> None:
        """Also where it takes too long: what has begun goes on."""
        self._left.clear()
        self.ended.set()

    def waiting(self) -> Iterable[Any]:
        return ()

    def one_ended(self) -> None:
        self._inside -= 1
        if not self._inside:
            self.ended.set()


class RehearsedRun:
    """Work that nobody waits for but the rehearsal."""

    def __init__(self, rehearsal: Rehearsal, call: Callable[[], object]) -> None:
        self._rehearsal, self._call = rehearsal, call

    @property
    def name(self) -> str:
        return self._rehearsal.name

    def futures(self) -> Iterable[Future[Any]]:
        return ()

    def run(self) -> None:
        with contextlib.suppress(BaseException):  # the stream must outlive it
            self._call()

    def complete(self, now: float) -> None:
        self._rehearsal.one_ended()

    def deliver(self) -> None:
        pass
