"""A model's requests as workers pull them: `model.run.Requests`, with what only workers need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.engine.remote import RemotePort
from headrace.engine.source import Refused
from headrace.model.batcher import Batcher
from headrace.model.pending import Pending
from headrace.model.run import Requests, Run


class WorkerRequests(Requests):
    """A model is busy while a worker has something in hand, also where that one would take more."""

    def __init__(self, batcher: Batcher, instances: Sequence[Any], name: str) -> None:
        super().__init__(batcher, instances, name)
        self.batches = self._batches
        self.port: RemotePort | None = None

    def _batches(self, now: float, busy: bool) -> int:
        assert self.port is not None
        return self.batcher.batches(now, self.port.in_hand > 0)

    def may_leave(self, stream: int, now: float) -> bool:
        """Whether a worker that is to go may: whether there is nothing that only it can do. With the lock held."""
        return True

    def lose(self, stream: int, refused: Refused) -> None:
        """Its process has ended. With the lock held."""

    def refuse_waiting(self, error: BaseException, refused: Refused) -> None:
        """Everything that waits, and has not left."""
        self.batcher._refuse_all(error, refused)


def requests_of(work: Run | Pending) -> Sequence[Pending]:
    return work.batch if isinstance(work, Run) else (work,)
