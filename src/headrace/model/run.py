"""A model's work as streams pull it: batches out of the Batcher, each run by the stream's own Instance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from headrace.backends.base import Stop
from headrace.engine.source import Refused
from headrace.model.batcher import Batcher
from headrace.model.failure import failure_of
from headrace.model.instance import Instance
from headrace.model.pending import Pending
from headrace.model.working_set import NOISE, WorkingSet, kind_of, resident_bytes
from headrace.sizes import nbytes_of


class Run(Stop):
    """One batch on one instance: what a stream does at a time. And the way to stop it."""

    __slots__ = ("_instance", "_requests", "batch")

    def __init__(self, requests: Requests, instance: Instance, batch: list[Pending]) -> None:
        self.requested = False
        self.handle = None
        self._requests, self._instance, self.batch = requests, instance, batch

    @property
    def name(self) -> str:
        return self._requests.name

    def futures(self) -> list[Pending]:
        return self.batch

    def run(self) -> None:
        if self._requests.working_set is None:
            self._compute()
        else:
            self._compute_measured()

    def _compute(self) -> None:
        batch = self.batch
        if self._instance.stoppable:
            for request in batch:
                request.joined = self
            if batch[0]._done:  # it may have been cancelled before it knew its run
                self.stop_if_nobody_is_left()
            self._instance.run(batch, self)
        else:
            self._instance.run(batch)
        for request in batch:
            if request.failure is None:
                try:
                    request.outcome = request.answer(request.outcome)
                except BaseException as error:  # of outputs of a kind of their own
                    request.failure = failure_of("answered with what cannot be given:", error)

    def _compute_measured(self) -> None:
        """As `run`; and learn what it takes."""
        requests, batch = self._requests, self.batch
        assert requests.working_set is not None
        before = resident_bytes() if requests.is_alone() else 0
        inputs = [request.inputs for request in batch]
        self._compute()
        grew = resident_bytes() - before if before and requests.is_alone() else 0
        # What was kept for the outputs is no memory of the run's own; and a batch's members share the rest.
        outputs = [nbytes_of((request.outcome,)) if request.failure is None else 0 for request in batch]
        own = (grew - sum(outputs)) // len(batch) if grew - sum(outputs) >= NOISE else 0
        with batch[0]._guard.lock:
            for request, came, gave in zip(batch, inputs, outputs):
                request.unread = gave
                if request.failure is None:
                    requests.working_set.learn(kind_of(came), nbytes_of(came), own, gave)

    def complete(self, now: float) -> None:
        self._requests.batcher.ended(self.batch, now)
        for request in self.batch:
            request.finish(now)

    def deliver(self) -> None:
        for request in self.batch:
            request.deliver()

    def stop_if_nobody_is_left(self) -> None:
        """One of its requests was cancelled: if all were, nobody wants what is being computed."""
        if all(request._done for request in self.batch):
            self.requested = True
            if self.handle is not None:
                self._instance.kill(self.handle)


class Requests:
    """A model's Source: the pure Batcher, and for each stream the Instance that runs its batches."""

    def __init__(self, batcher: Batcher, instances: Sequence[Instance], name: str) -> None:
        self.batcher, self._instances, self.name = batcher, instances, name
        self.working_set: WorkingSet | None = None  # where bytes are bounded
        self.is_alone: Callable[[], bool] = lambda: True  # whether nothing else runs on the engine
        self.batches: Callable[[float, bool], int] = batcher.batches
        self.next_deadline: Callable[[], float | None] = batcher.next_deadline
        self.is_empty: Callable[[], bool] = batcher.is_empty
        self.abandon: Callable[[BaseException], None] = batcher.abandon
        self.waiting: Callable[[], Iterable[Pending]] = batcher.waiting

    def use(self, instances: Sequence[Instance]) -> None:
        """From now on these run its batches."""
        self._instances = instances

    def __len__(self) -> int:
        return len(self.batcher)

    def pull(self, now: float, busy: bool, stream: int, refused: Refused) -> Run | Pending | None:
        if self.batcher.max_batch_size == 1 and self.working_set is None:  # what happens most: no record of its own
            request = self.batcher.pull_one(now, refused)
            if request is not None:
                request.instance = self._instances[stream]
            return request
        batch = self.batcher.pull(now, busy, refused)
        if not batch:
            return None
        if len(batch) == 1 and self.working_set is None:
            batch[0].instance = self._instances[stream]
            return batch[0]
        return Run(self, self._instances[stream], batch)

    def refuse_behind(self, running: Iterable[object], refused: Refused) -> None:
        pass  # requests wait for nobody but streams

    def put_back(self, works: Sequence[Run | Pending], pulled_at: float) -> Sequence[Pending]:
        requests = [request for work in works for request in work.futures()]
        self.batcher.put_back(len(works), [request for request in requests if not request._done], pulled_at)
        return [request for request in requests if request._done]
