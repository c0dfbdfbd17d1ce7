"""What waits for one model, and how it is joined into batches. Pure: the caller holds the lock, and says the time.

Rule 1: an idle model takes a lone request at once. While another stream runs, a free one waits until the batch is full
        or its oldest request is `max_batch_delay` old: the delay is a bound, never a floor.
Rule 2: only requests that are alike are joined; the oldest is in the next batch, whatever it is.
Rule 3: cancelled requests are tombstones: skipped when they are reached, swept when they are many. Late ones are
        refused when they are reached. Neither costs its neighbours anything.
Rule 4: what `pull` hands out has begun: from then on a cancelled request no longer leaves its batch.
Rule 5: larger priority first, and waiting counts too (`engine.ready_queue`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from headrace.counters import ROWS, Buckets, Histogram
from headrace.engine.ready_queue import ReadyQueue
from headrace.engine.source import Refused
from headrace.errors import DeadlineExceeded
from headrace.model.pending import Pending

LOOK_AHEAD = 4
"""`pull` looks for company among at most this many times `max_batch_size` requests."""


@dataclass(slots=True)
class Meter:
    """How long requests that have run had waited, and how many rows were in a run. Changed as `Counts`."""

    queue_seconds: Histogram = field(default_factory=Histogram)
    rows: Histogram = field(default_factory=lambda: Histogram(ROWS))
    alone: int = 0
    """Runs of one row: what happens most is an addition, and `rows` has the others."""

    def read_rows(self) -> Buckets:
        """Of all runs."""
        read = self.rows.read()
        return Buckets(read.bounds, (read.counts[0] + self.alone, *read.counts[1:]), read.total + self.alone)


@dataclass(slots=True)
class Counts:
    """Plain integers and sums of seconds, changed with the engine's lock held."""

    submitted: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    late: int = 0
    refused: int = 0
    runs: int = 0
    rows: int = 0
    queue_seconds: float = 0.0
    started: int = 0
    meter: Meter | None = None
    """Fed when a run has ended: what was pulled may be put back, and a histogram forgets nothing."""


@dataclass(slots=True)
class Batcher:
    max_batch_size: int = 1
    max_batch_delay: float = 0.0
    counts: Counts = field(default_factory=Counts)
    _waiting: ReadyQueue[Pending] = field(default_factory=ReadyQueue)
    _sweep_at: int = 256  # at so many submitted: there are never more tombstones than came since the last sweep
    _abandoned: BaseException | None = None

    def __len__(self) -> int:
        """How many wait, tombstones included."""
        return len(self._waiting)

    def add(self, request: Pending, now: float) -> None:
        self._waiting.add(request, now)
        counts = self.counts
        counts.submitted += 1
        if counts.submitted > self._sweep_at:
            self._sweep()

    def batches(self, now: float, busy: bool) -> int:
        """How many runs could begin now, as if all requests that wait had one row and were alike."""
        if self.max_batch_size == 1:
            return len(self._waiting)
        self._skip_departed()
        full, rest = divmod(len(self._waiting), self.max_batch_size)
        if rest and ((not busy and not full) or self._is_late(now)):
            full += 1
        return full

    def pull_one(self, now: float, refused: Refused) -> Pending | None:
        """As `pull`, where nothing is joined: `max_batch_size` is 1."""
        if self._abandoned is not None:
            self._refuse_all(self._abandoned, refused)
        waiting = self._waiting
        while (request := waiting.pop()) is not None:
            if request._done or request.deadline is not None:
                if not self._begins(request, now, refused):
                    continue
            else:  # as `_begins`, without the call: this is the hot path
                request._begun = True
            request.counts = counts = self.counts
            counts.runs += 1
            counts.started += 1
            counts.rows += request.rows
            request.waited = waited = now - request.queued_at
            counts.queue_seconds += waited
            return request
        return None

    def pull(self, now: float, busy: bool, refused: Refused) -> list[Pending]:
        """The next batch for a free stream; [] while company is worth waiting for, or if nothing waits."""
        if self._abandoned is not None:
            self._refuse_all(self._abandoned, refused)
        waiting = self._waiting
        if busy and self.max_batch_size > 1 and not self.batches(now, busy):
            return []
        while (first := waiting.pop()) is not None:
            if self._begins(first, now, refused):
                batch = [first]
                if first.rows < self.max_batch_size and waiting:
                    self._join(batch, now, refused)
                counts = self.counts
                counts.runs += 1
                for request in batch:
                    counts.started += 1
                    counts.rows += request.rows
                    request.waited = waited = now - request.queued_at
                    counts.queue_seconds += waited
                return batch
        return []

    def put_back(self, runs: int, requests: list[Pending], pulled_at: float) -> None:
        """What was pulled last, for so many runs, and did not begin. In the order it was."""
        counts = self.counts
        counts.runs -= runs
        for request in requests:
            request._begun = False
            counts.started -= 1
            counts.rows -= request.rows
            counts.queue_seconds -= pulled_at - request.queued_at
        self._waiting.put_back(requests)

    def waiting(self) -> Iterable[Pending]:
        """All that wait, tombstones included, in no order."""
        return iter(self._waiting)

    def is_empty(self) -> bool:
        self._sweep()
        return not self._waiting

    def next_deadline(self) -> float | None:
        """When the oldest request has waited for company long enough. None if nothing waits."""
        if not self._waiting:  # what happens most
            return None
        self._skip_departed()
        return self._oldest() + self.max_batch_delay if self._waiting else None

    def abandon(self, error: BaseException) -> None:
        self._abandoned = error

    def ended(self, batch: list[Pending], now: float) -> None:
        """A batch that was pulled has run."""
        counts = self.counts
        for request in batch:
            if request.failure is None:
                counts.completed += 1
            else:
                counts.failed += 1
        if counts.meter is not None:
            counts.meter.rows.observe(sum(request.rows for request in batch))
            for request in batch:
                counts.meter.queue_seconds.observe(request.waited)

    def _join(self, batch: list[Pending], now: float, refused: Refused) -> None:
        """Add those that are alike to `batch`, in their order, up to `max_batch_size` rows."""
        alike, rows = batch[0].alike, batch[0].rows
        skipped: list[Pending] = []
        waiting = self._waiting
        looked = 0
        while rows < self.max_batch_size and looked < LOOK_AHEAD * self.max_batch_size:
            looked += 1
            request = waiting.pop()
            if request is None:
                break
            if request.alike != alike or request.rows + rows > self.max_batch_size:
                skipped.append(request)
            elif self._begins(request, now, refused):
                batch.append(request)
                rows += request.rows
        waiting.put_back(skipped)

    def _begins(self, request: Pending, now: float, refused: Refused) -> bool:
        if request.deadline is not None and now > request.deadline and not request._done:
            late = now - request.deadline
            refused.append((request, DeadlineExceeded(f"the deadline passed {late:.3f} s before a stream was free")))
            self.counts.late += 1
            return False
        if request._done:
            self.counts.cancelled += 1
            return False
        request._begun = True  # as `Future.begin`: the lock is held
        request.counts = self.counts
        return True

    def _is_late(self, now: float) -> bool:
        return bool(self._waiting) and now >= self._oldest() + self.max_batch_delay

    def _oldest(self) -> float:
        """When the oldest request came. It is not always the head: what matters more stands before it."""
        return min(request.queued_at for request in self._waiting.oldest() if not request._done)

    def _skip_departed(self) -> None:
        self.counts.cancelled += self._waiting.drop_heads(_has_left)

    def _sweep(self) -> None:
        self.counts.cancelled += len(self._waiting.sweep(_has_left))
        self._sweep_at = self.counts.submitted + max(256, len(self._waiting))

    def _refuse_all(self, error: BaseException, refused: Refused) -> None:
        self._sweep()  # what was cancelled before is counted as that
        self.counts.refused += len(self._waiting)
        refused.extend((request, error) for request in self._waiting.sweep(lambda _: True))


def _has_left(request: Pending) -> bool:
    return request._done
