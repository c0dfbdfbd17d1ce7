"""Who of a model's workers comes and who goes: more of them, fewer, others with another share of the cores, new ones.

Rule 1: no request is lost. Those that leave finish what they have; those that come are the port's once it can give
        them requests, and never of one that has ended.
Rule 2: one change at a time (`changing`), which waits for workers, and for nobody else.
Rule 3: `workers` are those that are to be there: whoever reads it sees one change whole, or not yet.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from headrace.engine.remote import RemoteStream
from headrace.errors import Closed
from headrace.workers.options import check_workers
from headrace.workers.sharing import Share, plan
from headrace.workers.supervision import WORKS, State
from headrace.workers.worker import Worker

if TYPE_CHECKING:
    from headrace.workers.pool import Pool

BUSY = 1.0
"""Seconds `scale` waits for workers that are to be replaced and are busy. They are, when they are done."""
_log = logging.getLogger("headrace.workers")


class Roster:
    def __init__(self, pool: Pool, nodes: Sequence[Sequence[int]]) -> None:
        """`nodes`: the CPUs they may use, by NUMA node."""
        self._pool, self._nodes = pool, nodes
        self.workers: tuple[Worker, ...] = ()
        self.changing = threading.Lock()
        self._made = 0

    def first(self, workers: int) -> list[RemoteStream]:
        """So many, which nobody has begun."""
        made = self._make(workers)
        for worker in made:
            self._pool.source.add_worker(worker.stream.index, worker)
        return [worker.stream for worker in made]

    def share_of(self, worker: Worker) -> Share:
        """What it may use, among as many as there are now."""
        planned = plan(self._nodes, max(1, len(self.workers)))
        worker = worker.replaces or worker
        return planned[self.workers.index(worker) if worker in self.workers else -1]

    def scale(self, workers: int, timeout: float | None = None, *, replan: bool = True) -> None:
        """So many from now on. Fewer: those that go finish what they have. More: waits until they are ready, at most
        `timeout` seconds. `replan`: as the method, of those that stay, in the same time. Closed where the port has
        ended before new ones could begin."""
        check_workers(workers)
        until = None if timeout is None else time.monotonic() + timeout
        leaving: list[Worker] = []
        with self.changing:
            if workers < len(self.workers):
                best = sorted(self.workers, key=Worker.worth)[:workers]
                leaving = [worker for worker in self.workers if worker not in best]
                self._let_go(leaving, tuple(worker for worker in self.workers if worker in best))
            elif workers > len(self.workers):
                before, new = self.workers, self._make(workers - len(self.workers))
                if not self._join(*new):
                    self.workers = before
                    raise Closed(f"model {self._pool.name} is closed")
                self._pool.begin(new)
                self._pool.wait_for(lambda: all(map(_is_up, new)) or not self._pool.port.attached, timeout)
        for worker in leaving:  # meanwhile others may change the number again
            worker.thread.join(None if until is None else max(0.0, until - time.monotonic()))
        if replan:
            left = None if until is None else max(0.0, until - time.monotonic())
            self.replan(left, waits=BUSY)

    def _join(self, *new: Worker) -> bool:
        """They are of the port from now on; False where that has ended, whose end they would not hear of."""
        port = self._pool.port
        with self._pool.engine.guard.lock:
            attached = port.attached
            for worker in new:
                if attached:
                    self._pool.source.add_worker(worker.stream.index, worker)
            if attached:
                port.streams = (*port.streams, *(worker.stream for worker in new))
        if not attached:
            for worker in new:
                worker.never_begins()
        return attached

    def _let_go(self, leaving: Sequence[Worker], staying: tuple[Worker, ...]) -> None:
        """Those end what they have, and go."""
        self.workers, port = staying, self._pool.port
        with self._pool.engine.guard.lock:
            port.streams = tuple(worker.stream for worker in staying)
            port.former = [each for each in port.former if not each.ended]
            port.former += [worker.stream for worker in leaving]
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
        with self.changing:
            for worker in self.workers:
                if worker.share is None or worker.share == self.share_of(worker) or self._pool.is_sequenced:
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

                if waits is not None:
                    began = time.monotonic()
                    goes = self._pool.wait_for(is_going, waits if left is None else min(waits, left))
                    waits = max(0.0, waits - (time.monotonic() - began))
                    if not goes:
                        all_done = False
                        continue
                if not self._pool.wait_for(is_back, left):
                    return False
        return all_done

    def restart(self) -> None:
        """Replace every worker by a new one, one after the other: each goes once its successor is ready, and has
        finished what it has. One whose successor cannot load stays, and so do those after it. Returns at once."""
        threading.Thread(target=self._restart, name=f"headrace-{self._pool.port.name}-restart", daemon=True).start()

    def _restart(self) -> None:
        with self.changing:
            for old in self.workers:
                new = self._new(old)
                if not self._join(new):
                    return
                self._pool.begin([new])

                def is_known(new: Worker = new) -> bool:
                    return _is_up(new) or new.supervision.state is State.BACKING_OFF or not self._pool.port.attached

                self._pool.wait_for(is_known)
                if new.supervision.state in WORKS:
                    self._let_go([old], tuple(new if each is old else each for each in self.workers))
                    new.replaces = None
                    self._pool.restarted("replaced")
                    continue
                self._let_go([new], self.workers)
                if self._pool.port.attached:
                    why = old.supervision.reason = f"it was not replaced: {new.supervision.reason}"
                    _log.error("%s goes on: %s", old.name, why, extra={"model": self._pool.name, "request_id": None})
                    self._pool.changed()
                return

    def _make(self, count: int) -> list[Worker]:
        new = [self._new() for _ in range(count)]
        self.workers = (*self.workers, *new)
        return new

    def _new(self, replaces: Worker | None = None) -> Worker:
        number, self._made = self._made, self._made + 1
        return Worker(self._pool, number, f"headrace-{self._pool.port.name}-worker-{number}", replaces)


def _is_up(worker: Worker) -> bool:
    """Or will not be soon."""
    supervision = worker.supervision
    return supervision.state in WORKS or supervision.is_broken or worker.has_ended
