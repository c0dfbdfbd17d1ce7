"""Requests that are to run alone in a worker, as two died with them and others inside, and which of them takes turns.
Pure: the caller holds the engine's lock, or reads what may be old.

Rule 1: one worker at a time keeps them: it takes nothing new, ends what it has, and then runs one after the other with
        nothing beside it. All other workers go on as ever.
Rule 2: where there is no other worker that is ready, it takes turns: after each of them it takes as many newcomers as
        go on at once, if so many wait. Nobody waits for more than one of them.
Rule 3: they wait here and not among the others; all else of waiting is the same (`Batcher`).
"""

from __future__ import annotations

from typing import Protocol

from headrace.engine.source import Refused
from headrace.model.batcher import Batcher
from headrace.model.pending import Pending


class Keeper(Protocol):
    """A worker."""

    inside: int
    """Runs that are with it."""
    alone: Pending | None
    """The one that runs, or ran, alone in it."""


class Suspects:
    def __init__(self, others: Batcher, at_once: int) -> None:
        self.waiting = Batcher(counts=others.counts)
        self._others, self._at_once = others, at_once
        self.abandoned = others._abandoned is not None
        if others._abandoned is not None:
            self.waiting.abandon(others._abandoned)
        self.keeper: Keeper | None = None
        self._newcomers = 0
        """So many may the keeper take before the next of them: where it is the only one that works."""

    def put_back(self, requests: list[Pending], pulled_at: float) -> None:
        self.waiting.put_back(len(requests), requests, pulled_at)

    def room(self, worker: Keeper, is_only: bool) -> int:
        """Runs that may be with this worker now. `is_only`: no other is ready."""
        if worker.alone is not None:
            if worker.inside:
                return 1
            worker.alone = None
        if not len(self.waiting):
            return self._at_once
        if self.keeper is None:
            self.keeper = worker
        if self.keeper is not worker:
            return self._at_once
        if is_only and self._newcomers and len(self._others):
            return min(self._at_once, worker.inside + self._newcomers)
        self._newcomers = 0
        return 1

    def pull(self, worker: Keeper, now: float, refused: Refused) -> Pending | None:
        """The next of them, if it is this worker's turn for that."""
        if worker is not self.keeper or worker.inside or self._newcomers:
            return None
        request = self.waiting.pull_one(now, refused)
        if request is None:
            self.keeper = None
            return None
        worker.alone = request
        self._newcomers = self._at_once
        return request

    def took(self, worker: Keeper, newcomer: bool) -> None:
        """It looked for a newcomer instead. False: there was none."""
        if worker is self.keeper and self._newcomers:
            self._newcomers = self._newcomers - 1 if newcomer else 0

    def has_died(self, worker: Keeper) -> None:
        """It will be back soon, with nothing inside: nobody keeps them better."""
        worker.alone, worker.inside = None, 0
        self.keeper, self._newcomers = worker, 0

    def gives_up(self, worker: Keeper) -> None:
        """It will not be back soon."""
        if self.keeper is worker:
            self.keeper = None

    def refuse(self, error: BaseException, refused: Refused) -> None:
        self.waiting._refuse_all(error, refused)

    def abandon(self, error: BaseException) -> None:
        self.abandoned = True
        self.waiting.abandon(error)
