"""What a stream pulls from, and what it gets.

A Source is a model's Batcher or the engine's ready operations. It is called with the engine's lock held and told what
time it is; it starts nothing, waits for nothing and calls nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from headrace.engine.future import Future

Entering = tuple[Callable[[Any, float], None], Any]
"""What enters a source: `add`, which puts it there, and what it puts there; `add(item, now)` is to be called."""
Refused = list[tuple[Future[Any], BaseException]]
"""Work that ends without being run, and why. Settled once the lock is let go."""


class Work(Protocol):
    """Something a stream does in one run: one operation, or one batch of requests."""

    @property
    def name(self) -> str:
        """What runs: a function, a model."""

    def futures(self) -> Iterable[Future[Any]]:
        """Whose outcomes it gives."""

    def run(self) -> None:
        """Do it, outside the lock. Keeps the outcome; raises nothing."""

    def complete(self, now: float) -> None:
        """The run has ended: give every Future its outcome, its room back, and say so to whoever waits for the run to
        end. With the engine's lock held."""

    def deliver(self) -> None:
        """Tell those who wait for the outcomes, outside the lock."""


class Source(Protocol):
    def __len__(self) -> int:
        """How many wait and could start."""

    def batches(self, now: float, busy: bool) -> int:
        """How many runs could begin now. `busy`: a stream of this source runs, so that company may be waited for."""

    def pull(self, now: float, busy: bool, stream: int, refused: Refused) -> Work | None:
        """The next run for a free stream, or None. `busy`: another stream of this source runs. `stream`: which asks."""

    def put_back(self, works: Sequence[Any], pulled_at: float) -> Sequence[Work]:
        """Works that were pulled last, in this order, and did not begin: they wait again, where they did. Those nobody
        wants any more are handed back, to be completed without a run."""

    def next_deadline(self) -> float | None:
        """When `batches` may grow although nobody comes; None if never."""

    def is_empty(self) -> bool:
        """Whether nothing waits."""

    def abandon(self, error: BaseException) -> None:
        """From now on `pull` hands out nothing: it refuses everything that waits with `error`."""

    def refuse_behind(self, running: Iterable[Any], refused: Refused) -> None:
        """It was abandoned. What waits for something that runs is refused as well, though `pull` does not reach it: the
        run may never end."""

    def waiting(self) -> Iterable[Any]:
        """What waits and could run, in no order; each with `name` and `queued_at`. For `dump_state`."""
