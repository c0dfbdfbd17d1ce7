"""What waits for a model whose requests come in sequences (`sequences`), counted as a Batcher counts. Pure.

Rule 1: nobody waits for company: a run takes what may go now.
Rule 2: a refused request is refused when it enters: `add` raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from headrace.engine.source import Refused
from headrace.errors import Unavailable
from headrace.model.batcher import Batcher
from headrace.model.pending import Pending
from headrace.model.sequences import SequenceOptions, Sequences, Turn


class SequenceBatcher(Batcher):
    """`turn_of`: what a request says of its sequence."""

    def __init__(
        self, max_batch_size: int, options: SequenceOptions, name: str, turn_of: Callable[[Pending], Turn]
    ) -> None:
        super().__init__(max_batch_size, 0.0)
        self.sequences: Sequences[Pending] = Sequences(options, name, _has_left)
        self._turn_of = turn_of

    def __len__(self) -> int:
        counts = self.counts  # any thread may ask
        return counts.submitted - counts.started - counts.cancelled - counts.late - counts.refused

    def add(self, request: Pending, now: float) -> None:
        """SequenceRefused, SequenceLost."""
        sequences = self.sequences
        swept = sequences.swept
        sequences.add(request, self._turn_of(request), now)
        self.counts.cancelled += sequences.swept - swept
        request.queued_at = now
        timeout = sequences.options.timeout
        if timeout is not None and request.deadline is None:
            request.deadline = now + timeout
        self.counts.submitted += 1

    def take(self, stream: int, share: int, now: float, refused: Refused) -> list[Pending]:
        """The next run of `stream`, with at most `share` new sequences; [] if there is none now."""
        if self._abandoned is not None:
            self._refuse_all(self._abandoned, refused)
            return []
        batch = self.sequences.take(
            stream, share, self.max_batch_size, lambda request: self._begins(request, now, refused), now
        )
        if batch:
            counts = self.counts
            counts.runs += 1
            for request in batch:
                counts.started += 1
                counts.rows += request.rows
                request.waited = waited = now - request.queued_at
                counts.queue_seconds += waited
        return batch

    def return_run(self, requests: list[Pending], pulled_at: float) -> list[Pending]:
        """They were taken together, and did not begin. Those that are not to: they have left, or failed."""
        gone: list[Pending] = []
        counts = self.counts
        counts.runs -= 1
        for request in reversed(requests):
            if request._done:
                self.sequences.ended(request, pulled_at)
                gone.append(request)
            elif (why := self.sequences.put_back(request, pulled_at)) is not None:
                request.failure = why
                gone.append(request)
            else:
                request._begun = False
                counts.started -= 1
                counts.rows -= request.rows
                counts.queue_seconds -= pulled_at - request.queued_at
        return gone

    def lose(self, stream: int, refused: Refused) -> None:
        """What that stream knew of its sequences is gone."""
        lost: list[tuple[Pending, Unavailable]] = self.sequences.lose(stream)
        for request, error in lost:
            if request._done:
                self.counts.cancelled += 1
            else:
                self.counts.refused += 1
                refused.append((request, error))

    def ended(self, batch: list[Pending], now: float) -> None:
        super().ended(batch, now)
        for request in batch:
            self.sequences.ended(request, now)

    def waiting(self) -> Iterable[Pending]:
        return self.sequences.waiting()

    def is_empty(self) -> bool:
        return self.sequences.is_empty()

    def next_deadline(self) -> float | None:
        return None

    def _refuse_all(self, error: BaseException, refused: Refused) -> None:
        for request in self.sequences.give_up():
            if request._done:
                self.counts.cancelled += 1
            else:
                self.counts.refused += 1
                refused.append((request, error))


def _has_left(request: Pending) -> bool:
    return request._done
