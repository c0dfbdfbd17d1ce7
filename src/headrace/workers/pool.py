"""The workers of one model together: their port, what is true of all of them, and what they call.

Who comes and goes is in `roster`, what each is given in `surroundings`, what they say of the model in `learnt`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from weakref import WeakSet

from headrace.engine.engine import Engine
from headrace.engine.remote import RemotePort, adopt
from headrace.engine.topology import cpu_list
from headrace.errors import Closed
from headrace.model.batcher import Batcher
from headrace.model.pending import Pending
from headrace.model.run import Run
from headrace.model.sequence_batcher import SequenceBatcher
from headrace.wording import count_of
from headrace.workers.arena import Arena
from headrace.workers.learnt import Learnt
from headrace.workers.loadable import Loadable
from headrace.workers.options import WorkerOptions
from headrace.workers.requests import WorkerRequests
from headrace.workers.roster import Roster
from headrace.workers.sequenced import SequencedRequests
from headrace.workers.status import WorkerStatus, status_of
from headrace.workers.straight import straight
from headrace.workers.supervision import WORKS, State
from headrace.workers.surroundings import Surroundings
from headrace.workers.told import Told
from headrace.workers.worker import Worker

ENDINGS = ("died", "hung", "not loaded", "replaced")
"""What became of a process that has a successor; "replaced": nothing was wrong with it."""
_log = logging.getLogger("headrace.workers")


class Pool:
    """Made, then `start`ed; from then on its port takes requests. Its workers end with the port (`detach`)."""

    def __init__(
        self,
        engine: Engine,
        model: Loadable,
        name: str,
        options: WorkerOptions,
        *,
        nodes: Sequence[Sequence[int]],
        max_batch_size: int,
        max_batch_delay: float,
    ) -> None:
        """`nodes`: the CPUs its workers may use, by NUMA node."""
        self.engine, self.model, self.name, self.options = engine, model, name, options
        self.surroundings = Surroundings(options.python)
        self.learnt = Learnt(model, name, options.memory_limit)
        self.roster = Roster(self, nodes)
        self.always_in_lists = model.in_lists
        """Whether one request comes as a list, too."""
        self.in_lists = max_batch_size > 1 or model.joins_rows or model.in_lists
        self.told = Told(name)
        """The metrics its workers tell of."""
        self.batcher: Batcher
        self.source: WorkerRequests
        self.is_sequenced = model.sequences is not None
        """Its workers have a state that requests depend on."""
        if model.sequences is None:
            self.batcher = Batcher(max_batch_size, max_batch_delay)
            self.source = WorkerRequests(self.batcher, name)
        else:
            sequences = model.sequences
            self.batcher = batcher = SequenceBatcher(max_batch_size, sequences.options, name, sequences.turn_of)
            self.source = SequencedRequests(batcher, name)
        self.port = self.source.port = RemotePort(self.source, name)
        if not self.is_sequenced:
            self.port.straight = straight(self.engine, self.port)
        self.port.cut_short = self.cut_short  # type: ignore[method-assign]
        self.version: str | None = None
        """Which one it is served as."""
        self.has_tried = False  # a run was begun once more: `tried` is worth a look
        self.tried: WeakSet[Pending] = WeakSet()
        """Requests whose worker died once; what became of them is not known yet."""
        self.at_once = 0
        """Runs that go on at once in one worker, where its callable is a coroutine function; 0: one after the other."""
        self.on_change: Callable[[], object] = lambda: None
        """Called when a worker has another state, on its thread."""
        self._restarts: Counter[str] = Counter()
        self._told = threading.Condition()
        self._failed: str | None = None  # why the first one could not load
        self._living = 0  # workers whose threads have not ended
        self.is_open = False  # its first workers were ready

    def start(self, workers: int) -> None:
        """Start so many, and wait until they are ready. InvalidModel if one cannot be, Closed if the engine is."""
        try:
            adopt(self.engine, self.port, lambda _: self.roster.first(workers))
        except BaseException:
            self.model.close()
            raise
        self.begin(self.workers)
        try:
            self.wait_for(lambda: self._failed is not None or self.ready == workers or not self.port.attached)
            if self._failed is not None:
                raise self.learnt.could_not_load(self._failed)
            if not self.port.attached:
                raise Closed("the engine was closed")
        except BaseException:
            self.engine.detach(self.port)
            raise
        self.is_open = True

    def scale(self, workers: int, timeout: float | None = None, *, replan: bool = True) -> None:
        """As `Roster.scale`."""
        self.roster.scale(workers, timeout, replan=replan)

    def restart(self) -> None:
        """As `Roster.restart`."""
        self.roster.restart()

    def cut_short(self, grace: float | None = None) -> None:
        """What runs is told to end, and ended with its worker after `grace` seconds; None: `cancel_grace`."""
        ends_at = time.monotonic() + (self.options.cancel_grace if grace is None else grace)
        with self.engine.guard.lock:
            workers = list(self.source.workers())
        for worker in workers:
            worker.ends_at = ends_at if worker.ends_at is None else min(ends_at, worker.ends_at)
            worker.ring()

    def set_response_timeout(self, seconds: float) -> None:
        """For what runs now, too."""
        self.options = replace(self.options, response_timeout=seconds)
        for worker in self.workers:
            worker.wake()

    @property
    def response_timeout(self) -> float:
        return self.options.response_timeout

    # ---- what it says of itself

    @property
    def workers(self) -> tuple[Worker, ...]:
        return self.roster.workers

    def __len__(self) -> int:
        return len(self.workers)

    @property
    def ready(self) -> int:
        """Workers that could take a request."""
        return sum(worker.supervision.state in WORKS for worker in self.workers)

    @property
    def working(self) -> int:
        """Workers that are not broken: they take requests, or begin (once more)."""
        return sum(not worker.supervision.is_broken for worker in self.workers)

    @property
    def is_broken(self) -> bool:
        """No worker works, and none has for a while: requests are refused."""
        return self.is_open and all(worker.supervision.is_broken for worker in self.workers)

    @property
    def retry_after(self) -> float | None:
        """Seconds until a worker is started again; None while one works."""
        if not self.is_broken:
            return None
        return max(0.0, min(worker.supervision.start_at for worker in self.workers) - time.monotonic())

    @property
    def reason(self) -> str | None:
        """Why, where something is wrong."""
        return next((worker.supervision.reason for worker in self.workers if worker.supervision.reason), None)

    def restarts(self) -> dict[str, int]:
        """Processes that were started in place of others, by what became of those (`ENDINGS`)."""
        with self._told:
            return {why: self._restarts[why] for why in ENDINGS}

    def states(self) -> dict[str, int]:
        """How many workers are in each state now."""
        counted = Counter(worker.supervision.state for worker in self.workers)
        return {str(state): counted[state] for state in State}

    def restarted(self, why: str) -> None:
        with self._told:
            self._restarts[why] += 1

    def statuses(self) -> list[WorkerStatus]:
        return [status_of(each, self.options.memory_limit) for each in self.workers]

    @property
    def describes(self) -> bool:
        return self.learnt.describes

    def wait_for(self, is_so: Callable[[], bool], timeout: float | None = None) -> bool:
        """Until it is so, which is looked at whenever a worker has another state. False if `timeout` seconds did."""
        with self._told:
            return self._told.wait_for(is_so, timeout)

    # ---- what its workers call

    def setup(self, worker: Worker, arena: Arena) -> bytes:
        """What it is told to load, and how."""
        assert worker.share is not None
        limit = self.options.memory_limit if worker.limit_kind == "address space" else None
        return self.surroundings.setup(
            self.model,
            self.name,
            worker.share,
            max_batch_size=self.batcher.max_batch_size,
            in_lists=self.in_lists,
            address_space=None if limit is None else limit + arena.size + self.model.shared_bytes,
        )

    def loaded(self, payload: bytes) -> str | None:
        """One of them has loaded its model. Why it must not go on with that, if it must not."""
        why = self.learnt.loaded(payload)
        if why is None:
            self.at_once = self.options.concurrency if self.learnt.awaits else 0
            self.source.at_once = max(1, self.at_once)
        return why

    def has_left(self, worker: Worker) -> None:
        """A worker's thread is about to end. With the last one nobody loads the model any more."""
        with self.engine.guard.lock:
            self.source.drop_worker(worker.stream.index)
        with self._told:
            self._living -= 1
            if not self._living:
                self.model.close()
            self._told.notify_all()

    def keep_suspects(self, worker: Worker) -> None:
        """`worker` has died, or ended: who runs alone what is to run so (`suspects`)."""
        suspects = self.source.suspects
        if suspects is None:
            return
        with self.engine.guard.lock:
            if worker.supervision.is_broken or worker.is_to_stop:
                suspects.gives_up(worker)
            else:
                suspects.has_died(worker)
            waits = len(suspects.waiting) > 0
        for each in self.workers if waits else ():
            if each is not worker:
                each.wake()

    def may_leave(self, worker: Worker) -> bool:
        """It is to stop, or to be replaced: whether it may, once it has finished what it has."""
        if not self.is_sequenced or worker.stream.stopping or not self.port.attached:
            return True
        with self.engine.guard.lock:
            return self.source.may_leave(worker.stream.index, self.engine.clock.now())

    def part_of(self, work: Run, requests: list[Pending]) -> Run:
        """Some of a batch: the others go another way. There is one work more from now on."""
        with self.engine.guard.lock:
            self.port.in_hand += work.batch[0] in requests  # counted once for both parts
        return Run(self.source, work._instance, requests)

    def is_ready(self, worker: Worker, seconds: float) -> None:
        share, limit = worker.share, ""
        if worker.limit_kind is not None:
            limit = f", {self.options.memory_limit:,} bytes of memory (by {worker.limit_kind})"
        threads = count_of(share.threads, "thread") if share is not None else ""
        cpus = f" on CPUs {cpu_list(share.cpus)}" if share is not None and share.cpus else ""
        _log.info(
            "%s is ready after %.2f s: process %s, %s%s%s", worker.name, seconds, worker.pid, threads, cpus, limit,
            extra={"model": self.name, "request_id": None},
        )  # fmt: skip
        self.changed()

    def changed(self) -> None:
        if not self.is_open and self._failed is None:
            self._failed = self.reason
        with self._told:
            self._told.notify_all()
        if self.is_open:
            if self.is_broken:
                for worker in self.workers:
                    worker.wake()
            elif not self.ready:  # who starts gently is waited for now
                for worker in self.workers:
                    worker.ring()
            self.on_change()

    def begin(self, workers: Sequence[Worker]) -> None:
        """They are in the roster: their threads begin."""
        with self._told:
            self._living += len(workers)
        for worker in workers:
            worker.start()
