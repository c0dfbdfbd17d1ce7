"""The workers of one model: how many, which environment, what becomes of them together."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol
from weakref import WeakSet

from headrace.engine.engine import Engine
from headrace.engine.remote import RemotePort, adopt
from headrace.engine.topology import grouped
from headrace.errors import InvalidModel, InvalidOption
from headrace.model.batcher import Batcher
from headrace.model.pending import Pending
from headrace.model.run import Run
from headrace.workers.arena import SIZE, Arena
from headrace.workers.requests import WorkerRequests
from headrace.workers.sharing import cpus_of_worker, environment, shares
from headrace.workers.supervision import State
from headrace.workers.worker import Worker

MOST = 256
"""Workers of one model."""
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
    arena: int = SIZE


class Loadable(Protocol):
    """What workers load. Its text is what it is called in messages."""

    @property
    def name(self) -> str:
        """Its own, for a model that is given none."""

    @property
    def in_lists(self) -> bool:
        """Whether it is given lists of requests, however few may be joined."""

    def told(self) -> dict[str, Any]:
        """What a worker is told of it, as JSON: which `loader` of `child.LOADERS`, and what that one wants to know.
        With a `folder` of its own it is run there."""


@dataclass(frozen=True)
class WorkerStatus:
    index: int
    state: State
    pid: int | None
    starts: int
    reason: str | None


class Pool:
    """Made, then `start`ed; from then on its port takes requests. Its workers end with the port (`detach`)."""

    def __init__(
        self,
        engine: Engine,
        model: Loadable,
        name: str,
        options: WorkerOptions,
        *,
        num_cores: int,
        max_batch_size: int,
        max_batch_delay: float,
    ) -> None:
        self.engine, self.model, self.name, self.options = engine, model, name, options
        self.in_lists = model.in_lists or max_batch_size > 1
        self.batcher = Batcher(max_batch_size, max_batch_delay)
        self.source = WorkerRequests(self.batcher, (), name)
        self.port = self.source.port = RemotePort(self.source, name)
        self.workers: tuple[Worker, ...] = ()
        self.tried: WeakSet[Pending] = WeakSet()
        """Requests whose worker died once; what became of them is not known yet."""
        self.parameters: tuple[str, ...] | None = None
        self.required: tuple[str, ...] = ()
        self.on_change: Callable[[], object] = lambda: None
        """Called when a worker has another state, on its thread."""
        self._num_cores = num_cores
        self._told = threading.Condition()
        self._failed: str | None = None  # why the first one could not load
        self.is_open = False  # its first workers were ready
        self._scaling = threading.Lock()
        self._made = 0

    def start(self, workers: int) -> None:
        """Start so many, and wait until they are ready. InvalidModel if one cannot be."""
        adopt(self.engine, self.port, lambda _: [worker.stream for worker in self._make(workers)])
        self.source.use(self.workers)
        for worker in self.workers:
            worker.start()
        try:
            with self._told:
                self._told.wait_for(lambda: self._failed is not None or self.ready == workers)
            if self._failed is not None:
                raise InvalidModel(self._failed)
        except BaseException:
            self.engine.detach(self.port)
            raise
        self.is_open = True

    def scale(self, workers: int, timeout: float | None = None) -> None:
        """So many from now on. Fewer: those that go finish what they have. More: waits until they are ready, at most
        `timeout` seconds. Their shares of the cores are what they would be from the start; those that stay keep theirs
        until they are restarted."""
        check_workers(workers)
        with self._scaling:
            leaving, staying = self.workers[workers:], self.workers[:workers]
            if leaving:
                self.workers = staying
                for worker in leaving:
                    worker.leaves = True
                    worker.wake()
                for worker in leaving:
                    worker.thread.join()
                with self.engine.guard.lock:
                    self.port.streams = tuple(worker.stream for worker in staying)
            elif workers > len(staying):
                new = self._make(workers - len(staying))
                with self.engine.guard.lock:
                    self.port.streams = tuple(worker.stream for worker in self.workers)
                self.source.use(self.workers)
                for worker in new:
                    worker.start()
                with self._told:
                    self._told.wait_for(lambda: self.ready == len(self.workers), timeout)

    def set_response_timeout(self, seconds: float) -> None:
        """For what runs now, too."""
        self.options = replace(self.options, response_timeout=seconds)
        for worker in self.workers:
            worker.wake()

    def restart(self) -> None:
        """Replace every process by a new one, each once it has finished what it has."""
        for worker in self.workers:
            worker.restarts = True
            worker.wake()

    # ---- what it says of itself

    def __len__(self) -> int:
        return len(self.workers)

    @property
    def ready(self) -> int:
        """Workers that could take a request."""
        return sum(worker.supervision.state in (State.READY, State.BUSY) for worker in self.workers)

    @property
    def is_broken(self) -> bool:
        """No worker works, and none has for a while: requests are refused."""
        return self.is_open and all(worker.supervision.is_broken for worker in self.workers)

    @property
    def reason(self) -> str | None:
        """Why, where something is wrong."""
        return next((worker.supervision.reason for worker in self.workers if worker.supervision.reason), None)

    def statuses(self) -> list[WorkerStatus]:
        return [
            WorkerStatus(each.index, each.supervision.state, each.pid, each.supervision.starts, each.supervision.reason)
            for each in self.workers
        ]

    # ---- what its workers call

    def environment(self, index: int) -> dict[str, str]:
        share = shares(self._num_cores, len(self.workers))
        return environment(os.environ, share[index % len(share)])

    def setup(self, index: int, arena: Arena) -> bytes:
        options = self.options
        nodes = [[core.cpu for core in cores] for cores in grouped(self.engine.cores, lambda core: core.node)]
        told = {
            "folder": os.getcwd(),
            **self.model.told(),
            "in_lists": self.in_lists,
            "path": sys.path if options.python is None else None,
            "argv": [self.name],
            "cpus": cpus_of_worker(index, nodes),
            "address_space": None if options.memory_limit is None else options.memory_limit + arena.size,
        }
        return json.dumps(told).encode()

    def loaded(self, payload: bytes) -> None:
        """One of them has loaded its callable."""
        about = json.loads(payload)
        named = about["parameters"]
        self.parameters = None if named is None else tuple(map(str, named))
        self.required = tuple(map(str, about["required"]))

    def cannot_load(self, payload: bytes) -> str:
        """Why it could not. The traceback is for the operator."""
        about = json.loads(payload)
        if about["type"] == "Refused":
            return str(about["message"])
        why = f"{self.model} cannot be loaded in a worker: {about['type']}: {about['message']}"
        _log.error("%s\n%s", why, about["traceback"], extra={"model": self.name, "request_id": None})
        return why

    def part_of(self, work: Run, requests: list[Pending]) -> Run:
        """Some of a batch: the others go another way. There is one work more from now on."""
        with self.engine.guard.lock:
            self.port.in_hand += work.batch[0] in requests  # counted once for both parts
        return Run(self.source, work._instance, requests)

    def is_ready(self, worker: Worker, seconds: float) -> None:
        _log.info(
            "%s is ready after %.2f s: process %s", worker.name, seconds, worker.pid,
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
            self.on_change()

    def _make(self, count: int) -> list[Worker]:
        first, self._made = self._made, self._made + count
        new = [Worker(self, first + i, f"headrace-{self.port.name}-worker-{first + i}") for i in range(count)]
        for place, worker in enumerate(new, len(self.workers)):
            worker.stream.index = place
        self.workers = (*self.workers, *new)
        return new


def check_workers(workers: object) -> None:
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= MOST:
        raise InvalidOption(f"workers is a whole number from 1 to {MOST}, not {workers!r}")
