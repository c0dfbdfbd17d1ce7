"""One worker of a model: a thread of ours, and the process it starts, feeds, watches and, when it must, replaces.

Rule 1: everything of a worker happens on its thread, but for what others may send for it while it sleeps (`serving`).
        Others only `wake` it: clear the flag, then look, as everywhere.
Rule 2: its life is lines one below the other: start, load, serve, bury, wait to start again (`supervision` says when).
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from headrace.engine.here import mark_stream_thread, on_a_stream
from headrace.engine.mailbox import Hold, loop_runs_here
from headrace.engine.remote import RemoteStream, exchange, has_stopped, refuse_all
from headrace.engine.uninterrupted import uninterrupted
from headrace.errors import HeadraceError, ModelNotReady, ResponseTimeout, WorkerDied
from headrace.model.pending import Pending
from headrace.workers import burial, frames
from headrace.workers.arena import Arena
from headrace.workers.caller import hear
from headrace.workers.cgroup import Group, limited
from headrace.workers.connection import Bell, Connection
from headrace.workers.gently import AT_ONCE, Gently
from headrace.workers.in_hand import InHand
from headrace.workers.output import Output
from headrace.workers.process import STACK, Process, said_of_memory
from headrace.workers.serving import GONE, Serving
from headrace.workers.sharing import Share
from headrace.workers.supervision import State, Supervision

if TYPE_CHECKING:
    from headrace.workers.pool import Pool

END = 5.0
"""Seconds a process has to end after it was told to."""
BEGIN = 1.0
"""Seconds a thread has to begin that is to: Ctrl-C may have kept it from it."""
GENTLE = 0.25
"""Of the time it has to get ready: so long it gives way to others."""
_log = logging.getLogger("headrace.workers")


class Worker:
    """`stoppable`, `kill`: it is also the Instance that its requests are told to be with."""

    stoppable: bool = True

    def __init__(self, pool: Pool, number: int, name: str, replaces: Worker | None = None) -> None:
        """`number`: no other worker of the pool ever has it. `replaces`: whose place it takes, once it is ready."""
        self.pool, self.index, self.name, self.replaces = pool, number, name, replaces
        self.supervision = Supervision()
        self.has_begun = threading.Event()
        self.has_ended = False
        if replaces is not None:
            self.index, self.supervision.starts = replaces.index, replaces.supervision.starts
        self.pid: int | None = None
        self.since = 0.0
        """When that process was started, in seconds since 1970."""
        self.share: Share | None = None
        """What its process was started with."""
        self.limit_kind: str | None = None
        """What holds its process to `memory_limit`: "cgroup" or "address space"."""
        self.leaves = False  # this worker alone is to stop: the pool has become smaller
        self.restarts = False  # its process is to be replaced
        self.inside = 0
        """Runs that are with its process, as it last looked; it is looked at where several go on at once."""
        self.alone: Pending | None = None
        """What runs with nothing beside it (`suspects`)."""
        self.ends_at: float | None = None
        """What it runs is to end, and is ended with its process then: as `time.monotonic`."""
        self._ended: str | None = None  # what became of its last process: one of `pool.ENDINGS`
        self._bell = Bell()
        self.kill: Callable[[Any], object] = self._kill
        self.stream = _Stream(pool, number, name, self)
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()
        self.has_begun.set()

    def never_begins(self) -> None:
        """In place of `start`."""
        self._bell.close()

    @property
    def thread(self) -> threading.Thread:
        return self._thread

    @property
    def is_to_stop(self) -> bool:
        return self.stream.stopping or self.leaves

    def worth(self) -> tuple[int, int]:
        """The less the better it is to keep: one that works before one that does not, and then one that answers."""
        rank = {State.READY: 0, State.BUSY: 1, State.STARTING: 2, State.BACKING_OFF: 3}.get(self.supervision.state, 4)
        serving = self.stream.serving
        return rank, -1 if serving is None else int(serving.silent())

    # ---- from any thread

    def ring(self) -> None:
        """There is something that only its thread does."""
        self._bell.ring()

    def wake(self) -> None:
        """There is something for it."""
        serving = self.stream.serving
        if serving is not None and (
            serving.send_at_once() if loop_runs_here() else not on_a_stream() and uninterrupted(serving.send_at_once)
        ):
            return
        self._bell.ring()

    def hear(self, request: Pending, seconds: float | None) -> float | None:
        """The caller waits for `request`, at most so many seconds: it may hear the answer itself. What is left of them;
        the caller is to wait for the rest of it in the usual way."""
        serving = self.stream.serving
        if serving is None:
            return seconds
        until = None if seconds is None else time.monotonic() + seconds
        hear(serving, request, until)
        return None if until is None else max(0.0, until - time.monotonic())

    def _kill(self, id: Any) -> None:
        """The run with this id is not wanted any more."""
        serving = self.stream.serving
        if serving is not None:
            serving.cancel(id)
            self._bell.ring()

    def run(self, batch: list[Pending], stop: Any = None) -> None:
        raise NotImplementedError("a worker pulls its work itself")

    def run_one(self, request: Pending, stop: Any) -> None:
        raise NotImplementedError("a worker pulls its work itself")

    def close(self) -> None:
        """Its stream's end is its end."""

    # ---- its life, on its thread

    def _live(self) -> None:
        mark_stream_thread()
        self.stream.hold = Hold.here()
        try:
            while not self.is_to_stop:
                self._start_and_serve()
                self._wait_to_start()
        except BaseException as error:
            _log.exception("%s has ended", self.name)
            self.supervision.reason = f"has ended: {type(error).__name__}: {error}"  # whoever waits for it is told
        finally:
            self.supervision.stopping()
            self.supervision.stopped()
            self.has_ended = True
            self.pool.changed()
            self.pool.keep_suspects(self)
            # What was put back meanwhile is refused, or another's.
            exchange(self.pool.engine, self.stream, [], 0, 0)
            has_stopped(self.pool.engine, self.stream)
            self._bell.close()
            self.pool.has_left(self)

    def _start_and_serve(self) -> None:
        pool, supervision = self.pool, self.supervision
        supervision.starting()
        if self._ended is not None:
            pool.restarted(self._ended)
        self.restarts = False
        pool.changed()
        exchange(pool.engine, self.stream, [], 0, 0)  # takes nothing until it is ready
        arena: Arena | None = None
        process: Process | None = None
        output: Output | None = None
        hand: InHand | None = None
        group: Group | None = None
        gently: Gently | None = None
        died: HeadraceError | None = None
        began = time.monotonic()
        try:
            try:
                arena = Arena(pool.options.arena)
                share = self.share = pool.roster.share_of(self)
                env, fds = pool.surroundings.environment(share), pool.model.descriptors
                process = Process(pool.surroundings.python, env, arena, supervision.starts, fds)
                if not pool.is_open or pool.ready:  # else its requests wait for it
                    gently = Gently(process.pid)
                if pool.options.memory_limit is not None:
                    group = limited(process.pid, pool.options.memory_limit, f"{self.name}-{supervision.starts}")
                    self.limit_kind = "address space" if group is None else "cgroup"
                self.pid, self.since = process.pid, time.time()
                output = Output(process.outputs, pool.name, self.name, process.shows_stack)
                connection = Connection(process, self._bell)
                why = self._load(connection, process, arena, gently)
            except OSError as error:
                why = f"could not be started: {error}"
            if why is None:
                assert process is not None
                assert arena is not None
                supervision.ready(time.monotonic())
                pool.is_ready(self, time.monotonic() - began)
                hand = InHand(
                    arena,
                    process.generation,
                    pool.in_lists,
                    pool.model.outputs_given,
                    reserves=not pool.at_once,
                    divides=not pool.is_sequenced,
                )
                self.stream.serving = Serving(self, process, connection, hand)
                died = self.stream.serving.serve()
                why = None if died is None else died.how if isinstance(died, WorkerDied) else str(died)
        finally:
            self.stream.serving = None
            how = None
            if process is not None:
                if died is not None and why != GONE:
                    process.kill()  # it would not end by itself, or not soon
                how = process.end(END)
                how += said_of_memory(how, pool.options.memory_limit, group is not None and group.was_over())
            if group is not None:
                group.close()
            if output is not None:
                output.close(1.0)
                if process is not None and process.was_late:
                    burial.tell_late(pool, self.name, END, output)
            self.pid = None
        if why == GONE and how is not None:
            why = how
            if died is not None:
                died = WorkerDied(pool.name, why)
        self._bury(died, why, hand, output)
        if arena is not None:
            arena.close()

    def _load(self, connection: Connection, process: Process, arena: Arena, gently: Gently | None) -> str | None:
        """Have it load its callable. None, or why it could not."""
        pool = self.pool
        setup = pool.setup(self, arena)
        if len(setup) > frames.MAX_PAYLOAD:
            return (
                f"cannot be told what to load, which takes {len(setup):,} bytes: at most {frames.MAX_PAYLOAD:,}; of an "
                "archive the manifest and the YAML are among them, and weights, labels and the like go into files"
            )
        connection.send(frames.encode(frames.SETUP, setup, generation=process.generation))
        began, timeout = time.monotonic(), pool.options.start_timeout
        until, gentle_until = began + timeout, began + GENTLE * timeout
        at_once_until = min(began + AT_ONCE, gentle_until)
        while True:
            self._bell.rung = False
            if self.is_to_stop:
                process.kill()
                return "was told to stop while it started"
            now = time.monotonic()
            left = until - now
            if gently is not None:
                if pool.is_open and not pool.ready:  # another worker has died meanwhile, and requests wait for this one
                    at_once_until = gentle_until = now
                if now < at_once_until:
                    left = at_once_until - now
                elif now < gentle_until:
                    gently.only_be_nicer()
                    left = gentle_until - now
                else:
                    gently.end()
                    gently = None
            if left <= 0:
                process.show_stack()
                time.sleep(STACK)
                process.kill()
                return f"did not load its model within {pool.options.start_timeout:g} s (start_timeout)"
            came, gone = connection.wait(left)
            for frame in came:
                if frame.kind == frames.READY:
                    if gently is not None:
                        gently.end()
                    return pool.loaded(frame.payload)
                if frame.kind == frames.FAILED:
                    return pool.learnt.cannot_load(frame.payload)
                if frame.kind == frames.METRICS:
                    with contextlib.suppress(ValueError, RecursionError):
                        pool.told.tell(json.loads(frame.payload))
            if gone:
                return GONE

    def _bury(self, died: HeadraceError | None, why: str | None, hand: InHand | None, output: Output | None) -> None:
        """The process has ended: what it had is told, or waits again; and it is known when to start the next one."""
        pool = self.pool
        if died is None and self.is_to_stop:
            pass
        elif why is None:
            self._ended = "replaced"
            self.supervision.replaced(time.monotonic())
        else:
            hung = isinstance(died, ResponseTimeout)
            if isinstance(died, ResponseTimeout) and output is not None:
                died.stack = "\n".join(output.last)
            self._ended = "hung" if hung else "not loaded" if hand is None else "died"
            if pool.is_open or (output is not None and output.is_stack):  # else whoever compiles it is told
                burial.tell(pool, self.name, why, hand, output)
            self.supervision.failed(time.monotonic(), why)
        if hand is not None:
            burial.bury(pool, self, hand, died or WorkerDied(pool.name, why or "has ended"))
        pool.changed()

    def _wait_to_start(self) -> None:
        """Until it is time for the next try. A worker whose whole pool is broken refuses what comes."""
        pool, supervision = self.pool, self.supervision
        while not self.is_to_stop:
            self._bell.rung = False
            left = supervision.start_at - time.monotonic()
            if left <= 0 or supervision.state not in (State.BACKING_OFF, State.BROKEN):
                return
            if pool.is_broken:
                exchange(pool.engine, self.stream, [], -1, 0)
                refuse_all(pool.engine, self.stream, _not_ready(pool))
            self._bell.wait(left)


def _not_ready(pool: Pool) -> ModelNotReady:
    return ModelNotReady(pool.name, pool.version, "FAILED", pool.reason, pool.retry_after)


class _Stream(RemoteStream):
    def __init__(self, pool: Pool, index: int, name: str, worker: Worker) -> None:
        super().__init__(pool.engine, pool.port, index, name, worker.wake)
        self._worker = worker
        self.serving: Serving | None = None
        """Its process at work, while it is."""

    def _join(self, timeout: float | None) -> None:
        worker = self._worker
        if threading.current_thread() is worker.thread:
            return
        if worker.has_begun.wait(BEGIN if timeout is None else min(timeout, BEGIN)):
            worker.thread.join(timeout)

    @property
    def thread(self) -> int | None:
        return self._worker.thread.ident
