"""What a stream pulls from, and what it gets.

A Source is a model's Batcher or the engine's ready operations. It is called with the engine's lock held and told what
time it is; it starts nothing, waits for nothing and calls nobody.
"""

from __future__ import annotations

from typing import Any, Protocol

from headrace.engine.future import Future

Refused = list[tuple[Future[Any], BaseException]]
"""Work that ends without being run, and why. Settled once the lock is let go."""


class Work(Protocol):
    """Something a stream does in one run: one operation, or one batch of requests."""

    def run(self) -> None:
        """Do it, outside the lock. Keeps the outcome; raises nothing."""

    def complete(self, now: float) -> None:
        """The run has ended: say so to whoever waits for it to end. With the engine's lock held."""

    def deliver(self) -> None:
        """Give every Future its outcome and every permit back, outside the lock."""


class Source(Protocol):
    def batches(self, now: float, busy: bool) -> int:
        """How many runs could begin now. `busy`: a stream of this source runs, so that company may be waited for."""

    def pull(self, now: float, busy: bool, stream: int, refused: Refused) -> Work | None:
        """The next run for a free stream, or None. `busy`: another stream of this source runs. `stream`: which asks."""

    def next_deadline(self) -> float | None:
        """When `batches` may grow although nobody comes; None if never."""

    def is_empty(self) -> bool:
        """Whether nothing waits."""

    def abandon(self, error: BaseException) -> None:
        """From now on `pull` hands out nothing: it refuses everything that waits with `error`."""
