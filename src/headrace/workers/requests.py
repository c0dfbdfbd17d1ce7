"""A model's requests as workers pull them: `model.run.Requests`, with what only workers need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, cast
from weakref import WeakSet

from headrace.engine.remote import RemotePort
from headrace.engine.source import Refused
from headrace.model.batcher import Batcher
from headrace.model.pending import Pending
from headrace.model.run import Requests, Run
from headrace.workers.suspects import Keeper, Suspects


class WorkerRequests(Requests):
    """A model is busy while a worker has something in hand, also where that one would take more."""

    def __init__(self, batcher: Batcher, name: str) -> None:
        super().__init__(batcher, (), name)
        self._instances = {}  # type: ignore[assignment]
        self.batches = self._batches
        self.port: RemotePort | None = None
        self.alone: WeakSet[Pending] = WeakSet()
        """Those that are to run with nothing beside them in a worker that else does several at once."""
        self.at_once = 1
        self.suspects: Suspects | None = None
        """Once there was one of those."""

    def add_worker(self, stream: int, worker: Any) -> None:
        """Its stream has this number, which no other ever has: those that leave still have what they took."""
        self._instances = {**self._instances, stream: worker}  # type: ignore[assignment,dict-item]

    def workers(self) -> Iterable[Any]:
        """All that have not ended."""
        return self._instances.values()  # type: ignore[attr-defined,no-any-return]

    def drop_worker(self, stream: int) -> None:
        left = {each: w for each, w in self._instances.items() if each != stream}  # type: ignore[attr-defined]
        self._instances = left  # type: ignore[assignment]

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
        if self.suspects is not None:
            self.suspects.refuse(error, refused)

    def put_back(self, works: Sequence[Run | Pending], pulled_at: float) -> Sequence[Pending]:
        suspects = [work for work in works if self.alone and any(each in self.alone for each in work.futures())]
        if not suspects:
            return super().put_back(works, pulled_at)
        left = list(super().put_back([work for work in works if work not in suspects], pulled_at))
        requests = [request for work in suspects for request in work.futures()]
        self.batcher.counts.runs += len(requests) - len(suspects)  # each is one by itself from now on
        self._set_apart().put_back([each for each in requests if not each._done], pulled_at)
        return left + [each for each in requests if each._done]

    def _set_apart(self) -> Suspects:
        if self.suspects is None:
            self.suspects = Suspects(self.batcher, self.at_once)
            self.pull = self._pull_either  # type: ignore[method-assign]
            self.is_empty = self._is_empty
            self.abandon = self._abandon
            self.waiting = self._waiting
        return self.suspects

    def _pull_either(self, now: float, busy: bool, stream: int, refused: Refused) -> Run | Pending | None:
        suspects = self.suspects
        assert suspects is not None
        if suspects.abandoned:
            suspects.waiting.pull_one(now, refused)
            return super().pull(now, busy, stream, refused)
        worker = cast(Keeper, self._instances[stream])
        work: Run | Pending | None = None
        if len(suspects.waiting):
            work = suspects.pull(worker, now, refused)
        if work is None:
            work = super().pull(now, busy, stream, refused)
            suspects.took(worker, work is not None)
            if work is None and len(suspects.waiting):
                work = suspects.pull(worker, now, refused)
        worker.inside += work is not None
        return work

    def _is_empty(self) -> bool:
        assert self.suspects is not None
        return self.batcher.is_empty() and self.suspects.waiting.is_empty()

    def _abandon(self, error: BaseException) -> None:
        assert self.suspects is not None
        self.batcher.abandon(error)
        self.suspects.abandon(error)

    def _waiting(self) -> Iterable[Pending]:
        assert self.suspects is not None
        return chain(self.batcher.waiting(), self.suspects.waiting.waiting())

    def __len__(self) -> int:
        return len(self.batcher) + (0 if self.suspects is None else len(self.suspects.waiting))


def requests_of(work: Run | Pending) -> Sequence[Pending]:
    return work.batch if isinstance(work, Run) else (work,)
