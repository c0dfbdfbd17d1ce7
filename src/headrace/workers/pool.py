"""The workers of one model: how many, which environment, what becomes of them together."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from weakref import WeakSet

from headrace.engine.engine import Engine
from headrace.engine.remote import RemotePort, RemoteStream, adopt
from headrace.engine.topology import cpu_list
from headrace.errors import Closed, HeadraceError, InvalidModel, InvalidOption
from headrace.model.batcher import Batcher
from headrace.model.pending import Pending
from headrace.model.run import Run
from headrace.model.sequence_batcher import SequenceBatcher
from headrace.wording import count_of
from headrace.workers.arena import SIZE, Arena
from headrace.workers.loadable import Loadable
from headrace.workers.process import resident_bytes
from headrace.workers.requests import WorkerRequests
from headrace.workers.sequenced import SequencedRequests
from headrace.workers.sharing import Share, environment, plan
from headrace.workers.straight import straight
from headrace.workers.supervision import State
from headrace.workers.told import Told
from headrace.workers.worker import Worker

WORKS = (State.READY, State.BUSY)
AT_ONCE = 32
"""Runs of a coroutine function that go on at once in one worker, where nothing else was said."""
ENDINGS = ("died", "hung", "not loaded", "replaced")
"""What became of a process that has a successor; "replaced": nothing was wrong with it."""
MOST = 256
"""Workers of one model."""
BUSY = 1.0
"""Seconds `scale` waits for workers that are to be replaced and are busy. They are, when they are done."""
_log = logging.getLogger("headrace.workers")


@dataclass(frozen=True)
class WorkerOptions:
    """Seconds and bytes."""

    python: str | None = None
    """The interpreter workers run; None: this one's."""
    response_timeout: float = 120.0
    start_timeout: float = 120.0
    cancel_grace: float = 5.0
    """How long a run may go on after it was cancelled."""
    idempotent: bool = True
    """Whether a run that was begun may be begun once more, where its worker died."""
    memory_limit: int | None = None
    concurrency: int = AT_ONCE
    """Runs of a coroutine function that go on at once in one worker."""
    arena: int = SIZE


@dataclass(frozen=True)
class WorkerStatus:
    """What can be said of a worker now."""

    index: int
    state: State
    pid: int | None
    starts: int
    reason: str | None
    threads: int
    """Its share of the model's cores."""
    cpus: tuple[int, ...]
    """It stays on these; (): on any."""
    memory_limit: int | None
    """Bytes."""
    limited_by: str | None
    """What holds it to that: "cgroup", or "address space"."""
    rss: int | None
    """Bytes that are resident, what it shares with others included; None: it has no process."""
    since: float
    """When its process was started, in seconds since 1970."""


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
        # As they are now: a worker that is started later, in place of another, is to find what that one found.
        self._folder, self._path, self._environment = _folder(), [*filter(_is_text, sys.path)], dict(os.environ)
        self.always_in_lists, self.describes = model.in_lists, False
        """Whether one request comes as a list, too; whether what it runs can be asked what it says of itself."""
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
        self.workers: tuple[Worker, ...] = ()
        self.has_tried = False  # a run was begun once more: `tried` is worth a look
        self.tried: WeakSet[Pending] = WeakSet()
        """Requests whose worker died once; what became of them is not known yet."""
        self.parameters: tuple[str, ...] | None = None
        self.required: tuple[str, ...] = ()
        self.at_once = 0
        """Runs that go on at once in one worker, where its callable is a coroutine function; 0: one after the other."""
        self.on_change: Callable[[], object] = lambda: None
        """Called when a worker has another state, on its thread."""
        self._nodes = nodes
        self._restarts: Counter[str] = Counter()
        self._told = threading.Condition()
        self._failed: str | None = None  # why the first one could not load
        self._refusal: HeadraceError | None = None  # the same, as it is raised
        self._living = 0  # workers whose threads have not ended
        self.is_open = False  # its first workers were ready
        self._scaling = threading.Lock()
        self._made = 0

    def start(self, workers: int) -> None:
        """Start so many, and wait until they are ready. InvalidModel if one cannot be, Closed if the engine is."""
        try:
            adopt(self.engine, self.port, lambda _: self._first(workers))
        except BaseException:
            self.model.close()
            raise
        self._start(self.workers)
        try:
            with self._told:
                self._told.wait_for(lambda: self._failed is not None or self.ready == workers or not self.port.attached)
            if self._failed is not None:
                raise self._refusal or InvalidModel(self._could_not_load(self._failed))
            if not self.port.attached:
                raise Closed("the engine was closed")
        except BaseException:
            self.engine.detach(self.port)
            raise
        self.is_open = True

    def _first(self, workers: int) -> list[RemoteStream]:
        made = self._make(workers)
        for worker in made:
            self.source.add_worker(worker.stream.index, worker)
        return [worker.stream for worker in made]

    def scale(self, workers: int, timeout: float | None = None, *, replan: bool = True) -> None:
        """So many from now on. Fewer: those that go finish what they have. More: waits until they are ready, at most
        `timeout` seconds. `replan`: as the method, of those that stay, in the same time. Closed where the port has
        ended before new ones could begin."""
        check_workers(workers)
        until = None if timeout is None else time.monotonic() + timeout
        leaving: list[Worker] = []
        with self._scaling:
            if workers < len(self.workers):
                best = sorted(self.workers, key=Worker.worth)[:workers]
                leaving = [worker for worker in self.workers if worker not in best]
                self._let_go(leaving, tuple(worker for worker in self.workers if worker in best))
            elif workers > len(self.workers):
                before, new = self.workers, self._make(workers - len(self.workers))
                if not self._join(*new):
                    self.workers = before
                    raise Closed(f"model {self.name} is closed")
                self._start(new)
                with self._told:
                    self._told.wait_for(lambda: all(map(_is_up, new)) or not self.port.attached, timeout)
        for worker in leaving:  # meanwhile others may change the number again
            worker.thread.join(None if until is None else max(0.0, until - time.monotonic()))
        if replan:
            left = None if until is None else max(0.0, until - time.monotonic())
            self.replan(left, waits=BUSY)

    def _join(self, *new: Worker) -> bool:
        """They are of the port from now on; False where that has ended, whose end they would not hear of."""
        with self.engine.guard.lock:
            attached = self.port.attached
            for worker in new:
                if attached:
                    self.source.add_worker(worker.stream.index, worker)
            if attached:
                self.port.streams = (*self.port.streams, *(worker.stream for worker in new))
        if not attached:
            for worker in new:
                worker.never_begins()
        return attached

    def _let_go(self, leaving: Sequence[Worker], staying: tuple[Worker, ...]) -> None:
        """Those end what they have, and go."""
        self.workers = staying
        with self.engine.guard.lock:
            self.port.streams = tuple(worker.stream for worker in staying)
            self.port.former = [each for each in self.port.former if not each.ended]
            self.port.former += [worker.stream for worker in leaving]
        for worker in leaving:
            worker.leaves = True
            worker.wake()

    def replan(self, timeout: float | None = None, waits: float | None = None) -> bool:
        """Give each worker its share of the cores anew: one after the other, those whose share is another now finish
        what they have, and are replaced. No request is lost. At most `timeout` seconds; False if some are left with
        the share they had: those are replaced when they are done. `waits`: seconds, of that, for all of those that are
        busy."""
        until = None if timeout is None else time.monotonic() + timeout
        all_done = True
        with self._scaling:
            for worker in self.workers:
                if worker.share is None or worker.share == self.share_of(worker) or self.is_sequenced:
                    continue
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return False
                before = worker.supervision.starts
                worker.restarts = True
                worker.wake()

                def is_back(worker: Worker = worker, before: int = before) -> bool:
                    supervision = worker.supervision
                    ready = supervision.starts > before and supervision.state in WORKS
                    return ready or supervision.is_broken or worker.is_to_stop or worker.has_ended

                def is_going(worker: Worker = worker, before: int = before) -> bool:
                    """It has ended what it had."""
                    return worker.supervision.starts > before or worker.supervision.state not in WORKS

                with self._told:
                    if waits is not None:
                        began = time.monotonic()
                        goes = self._told.wait_for(is_going, waits if left is None else min(waits, left))
                        waits = max(0.0, waits - (time.monotonic() - began))
                        if not goes:
                            all_done = False
                            continue
                    if not self._told.wait_for(is_back, left):
                        return False
        return all_done

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

    def restart(self) -> None:
        """Replace every worker by a new one, one after the other: each goes once its successor is ready, and has
        finished what it has. One whose successor cannot load stays, and so do those after it. Returns at once."""
        threading.Thread(target=self._restart, name=f"headrace-{self.port.name}-restart", daemon=True).start()

    def _restart(self) -> None:
        with self._scaling:
            for old in self.workers:
                number, self._made = self._made, self._made + 1
                new = Worker(self, number, f"headrace-{self.port.name}-worker-{number}", old)
                if not self._join(new):
                    return
                self._start([new])

                def is_known(new: Worker = new) -> bool:
                    return _is_up(new) or new.supervision.state is State.BACKING_OFF or not self.port.attached

                with self._told:
                    self._told.wait_for(is_known)
                if new.supervision.state in WORKS:
                    self._let_go([old], tuple(new if each is old else each for each in self.workers))
                    new.replaces = None
                    self.restarted("replaced")
                    continue
                self._let_go([new], self.workers)
                if self.port.attached:
                    why = old.supervision.reason = f"it was not replaced: {new.supervision.reason}"
                    _log.error("%s goes on: %s", old.name, why, extra={"model": self.name, "request_id": None})
                    self.changed()
                return

    # ---- what it says of itself

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
        return [self._status(each) for each in self.workers]

    def _status(self, worker: Worker) -> WorkerStatus:
        supervision, pid = worker.supervision, worker.pid
        share = worker.share or Share(0)
        return WorkerStatus(
            worker.index,
            supervision.state,
            pid,
            supervision.starts,
            supervision.reason,
            threads=share.threads,
            cpus=share.cpus,
            memory_limit=self.options.memory_limit,
            limited_by=worker.limit_kind,
            rss=None if pid is None else resident_bytes(pid),
            since=worker.since,
        )

    # ---- what its workers call

    def share_of(self, worker: Worker) -> Share:
        """What it may use, among as many as there are now."""
        planned = plan(self._nodes, max(1, len(self.workers)))
        worker = worker.replaces or worker
        return planned[self.workers.index(worker) if worker in self.workers else -1]

    def environment(self, share: Share) -> dict[str, str]:
        return environment(self._environment, share.threads)

    def setup(self, worker: Worker, arena: Arena) -> bytes:
        options, share = self.options, worker.share
        assert share is not None
        limit = options.memory_limit if worker.limit_kind == "address space" else None
        told = {
            "folder": self._folder,
            **self.model.told(),
            **self.model.told_of_batches(self.batcher.max_batch_size),
            "in_lists": self.in_lists,
            "path": self._path if options.python is None else None,
            "argv": [self.name],
            "threads": share.threads,
            "cpus": share.cpus,
            "address_space": None if limit is None else limit + arena.size + self.model.shared_bytes,
        }
        return json.dumps(told).encode()

    def loaded(self, payload: bytes) -> str | None:
        """One of them has loaded its model. Why it must not go on with that, if it must not."""
        about = json.loads(payload)
        try:
            self.model.loaded(about)
        except HeadraceError as error:
            self._refusal = error
            return str(error)
        named = about.get("parameters")
        self.parameters = None if named is None else tuple(map(str, named))
        self.required = tuple(map(str, about.get("required", ())))
        self.describes = bool(about.get("describes"))
        self.at_once = self.options.concurrency if about.get("awaits") else 0
        self.source.at_once = max(1, self.at_once)
        return None

    def cannot_load(self, payload: bytes) -> str:
        """Why it could not. The traceback is for the operator."""
        about = json.loads(payload)
        self._refusal = self.model.refusal(about)
        why = str(self._refusal)
        limit = self.options.memory_limit
        if limit is not None and (about["type"] == "MemoryError" or _wants_memory(about["message"])):
            why = f"{self.model} cannot be loaded in a worker: MemoryError: it may have {limit:,} bytes (memory_limit)"
            self._refusal = InvalidModel(why)
        if about["type"] not in ("Refused", "NotLoaded", "NotInstalled"):
            _log.error("%s\n%s", why, about["traceback"], extra={"model": self.name, "request_id": None})
        return why

    def _could_not_load(self, how: str) -> str:
        limit = self.options.memory_limit
        more = "" if limit is None or "memory_limit" in how else f"; it may have {limit:,} bytes (memory_limit)"
        return f"{self.model} cannot be loaded: a worker of model {self.name} {how}{more}"

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

    def _start(self, workers: Sequence[Worker]) -> None:
        with self._told:
            self._living += len(workers)
        for worker in workers:
            worker.start()

    def _make(self, count: int) -> list[Worker]:
        first, self._made = self._made, self._made + count
        new = [Worker(self, first + i, f"headrace-{self.port.name}-worker-{first + i}") for i in range(count)]
        self.workers = (*self.workers, *new)
        return new


def _folder() -> str:
    """InvalidOption where there is none."""
    try:
        return os.getcwd()
    except OSError as error:
        raise InvalidOption(
            f"workers start in the folder that this process is in, which there is not any more ({error.strerror}): "
            "os.chdir() to one that is there"
        ) from None


def _is_text(entry: object) -> bool:
    """Imports look past what is none, too."""
    return isinstance(entry, str)


def _is_up(worker: Worker) -> bool:
    """Or will not be soon."""
    supervision = worker.supervision
    return supervision.state in WORKS or supervision.is_broken or worker.has_ended


def _wants_memory(message: str) -> bool:
    """Whether an import or a runtime says at length that it had no memory."""
    return any(words in message for words in ("Cannot allocate memory", "failed to map segment", "bad_alloc"))


def check_workers(workers: object) -> None:
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= MOST:
        raise InvalidOption(f"workers is a whole number from 1 to {MOST}, not {workers!r}")
