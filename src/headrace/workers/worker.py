"""One worker of a model: a thread of ours, and the process it starts, feeds, watches and, when it must, replaces.

Rule 1: everything of a worker happens on its thread, and while that sleeps on an event loop's that has something for it
        (`_turn`). Others only `wake` it: clear the flag, then look, as everywhere.
Rule 2: one turn takes answers in, gives outcomes and takes work in one step (`engine.remote.exchange`), and sends what
        it took with one system call.
Rule 3: whatever a process says is checked against what it was sent: an answer nobody waits for is dropped, a frame that
        is none is the end of the process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from headrace.engine.future import mark_stream_thread
from headrace.engine.mailbox import Hold, loop_runs_here
from headrace.engine.remote import RemoteStream, exchange, hand_back, has_stopped, refuse_all
from headrace.errors import HeadraceError, ModelNotReady, ResponseTimeout, WorkerDied
from headrace.model.pending import Pending
from headrace.model.run import Run
from headrace.workers import frames
from headrace.workers.arena import Arena
from headrace.workers.connection import Bell, Connection
from headrace.workers.in_hand import InHand
from headrace.workers.output import Output
from headrace.workers.process import Process
from headrace.workers.requests import requests_of
from headrace.workers.retry import Fate, fate, has_begun
from headrace.workers.supervision import State, Supervision
from headrace.workers.window import Window

if TYPE_CHECKING:
    from headrace.workers.pool import Pool

IDLE = 1.0
"""Seconds a worker sleeps that has nothing in hand."""
LOOK = 0.25
"""Seconds without an answer after which it is looked at whether a process was stopped."""
STUCK = 0.02
"""Seconds without an answer after which what was sent ahead is taken back."""
STOPPED = 1.0
"""Seconds a stopped process may stay so while it has work."""
END = 5.0
"""Seconds a process has to end after it was told to."""
STACK = 0.2
"""Seconds a process has to write where it hangs."""
MANY = 8
"""Short runs with the process from which on its thread takes a nap between two turns, so that more goes together and it
does not fight event loops and callers for the interpreter."""
NAP = 100e-6
"""Seconds."""
_log = logging.getLogger("headrace.workers")


class Worker:
    """`stoppable`, `kill`: it is also the Instance that its requests are told to be with."""

    stoppable: bool = True

    def __init__(self, pool: Pool, index: int, name: str) -> None:
        self._pool, self.index, self.name = pool, index, name
        self.supervision = Supervision()
        self.window = Window()
        self.pid: int | None = None
        self.leaves = False  # this worker alone is to stop: the pool has become smaller
        self.restarts = False  # its process is to be replaced
        self._bell = Bell()
        self._turn = threading.Lock()  # held by who takes a turn; nobody waits for it but the worker's own thread
        self._serving: tuple[Connection, InHand] | None = None
        self.kill: Callable[[Any], object] = self._kill
        self.stream = _Stream(pool, index, name, self)
        self._cancelled: deque[int] = deque()
        self._since = 0.0  # when it last said something
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def thread(self) -> threading.Thread:
        return self._thread

    # ---- from any thread

    def _kill(self, id: Any) -> None:
        """The run with this id is not wanted any more."""
        self._cancelled.append(id)
        self.wake()

    def run(self, batch: list[Pending], stop: Any = None) -> None:
        raise NotImplementedError("a worker pulls its work itself")

    def run_one(self, request: Pending, stop: Any) -> None:
        raise NotImplementedError("a worker pulls its work itself")

    def close(self) -> None:
        """Its stream's end is its end."""

    # ---- its life, on its thread

    @property
    def _is_to_stop(self) -> bool:
        return self.stream.stopping or self.leaves

    def _live(self) -> None:
        mark_stream_thread()
        self.stream.hold = Hold.here()
        try:
            while not self._is_to_stop:
                self._start_and_serve()
                self._wait_to_start()
        except BaseException:
            _log.exception("%s has ended", self.name)
        finally:
            self.supervision.stopping()
            self.supervision.stopped()
            self._pool.changed()
            # What was put back meanwhile is refused, or another's.
            exchange(self._pool.engine, self.stream, [], 0, 0)
            has_stopped(self._pool.engine, self.stream)
            self._bell.close()

    def _start_and_serve(self) -> None:
        pool, supervision = self._pool, self.supervision
        supervision.starting()
        self.restarts = False
        pool.changed()
        exchange(pool.engine, self.stream, [], 0, 0)  # takes nothing until it is ready
        arena: Arena | None = None
        process: Process | None = None
        output: Output | None = None
        died: HeadraceError | None = None
        began = time.monotonic()
        hand: InHand | None = None
        self.window.forget()
        try:
            try:
                arena = Arena(pool.options.arena)
                process = Process(pool.options.python, pool.environment(self.index), arena, supervision.starts)
                self.pid = process.pid
                output = Output(process.outputs, pool.name, self.name)
                connection = Connection(process, self._bell)
                why = self._load(connection, process, arena)
            except OSError as error:
                why = f"could not be started: {error}"
            if why is None:
                assert process is not None
                assert arena is not None
                supervision.ready(time.monotonic())
                pool.is_ready(self, time.monotonic() - began)
                hand = InHand(arena, process.generation, pool.name, pool.in_lists, pool.options.memory_limit)
                died = self._serve(connection, process, hand)
                why = None if died is None else died.how if isinstance(died, WorkerDied) else str(died)
        finally:
            how = None
            if process is not None:
                if died is not None or why is not None:
                    process.kill() if why and "ended" not in why else None
                how = process.end(END)
            if output is not None:
                output.close(1.0)
            self.pid = None
        if why is not None and how is not None and (why == GONE):
            why = how
        if died is not None and isinstance(died, WorkerDied) and why is not None:
            died = WorkerDied(pool.name, why)
        self._bury(died, why, hand, output)
        if arena is not None:
            arena.close()

    def _load(self, connection: Connection, process: Process, arena: Arena) -> str | None:
        """Have it load its callable. None, or why it could not."""
        pool = self._pool
        connection.send(frames.encode(frames.SETUP, pool.setup(self.index, arena), generation=process.generation))
        until = time.monotonic() + pool.options.start_timeout
        while True:
            self._bell.rung = False
            if self._is_to_stop:
                return "was told to stop while it started"
            left = until - time.monotonic()
            if left <= 0:
                process.show_stack()
                time.sleep(STACK)
                return f"did not load its model within {pool.options.start_timeout:g} s"
            came, gone = connection.wait(left)
            for frame in came:
                if frame.kind == frames.READY:
                    pool.loaded(frame.payload)
                    return None
                if frame.kind == frames.FAILED:
                    return pool.cannot_load(frame.payload)
            if gone:
                return GONE

    def _wait_to_start(self) -> None:
        """Until it is time for the next try. A worker whose whole pool is broken refuses what comes."""
        pool, supervision = self._pool, self.supervision
        while not self._is_to_stop:
            self._bell.rung = False
            left = supervision.start_at - time.monotonic()
            if left <= 0 or supervision.state not in (State.BACKING_OFF, State.BROKEN):
                return
            refuses = pool.is_broken
            if refuses:
                exchange(pool.engine, self.stream, [], -1, 0)
                refuse_all(pool.engine, self.stream, ModelNotReady(pool.name, "-", "BROKEN", supervision.reason))
            self._bell.wait(left)

    # ---- serving

    def _serve(self, connection: Connection, process: Process, hand: InHand) -> HeadraceError | None:
        """Until it is to stop (None), or the process must not or cannot go on (why)."""
        with self._turn:
            self._serving = connection, hand
            try:
                return self._take_turns(connection, process, hand)
            finally:
                self._serving = None

    def wake(self) -> None:
        """From any thread. On an event loop's it sends what waits itself, if the worker sleeps: a switch of threads is
        longer than that."""
        if loop_runs_here() and self._turn.acquire(False):
            try:
                if self._serving is not None and not self._is_to_stop and not self.restarts and not self._cancelled:
                    connection, hand = self._serving
                    if not hand.sent and not hand.again and not hand.ended and not connection.is_full:
                        self._send_at_once(connection, hand)
                        return
            finally:
                self._turn.release()
        self._bell.ring()

    def _send_at_once(self, connection: Connection, hand: InHand) -> None:
        """A turn of a worker that has nothing in hand, on somebody else's thread."""
        engine, stream = self._pool.engine, self.stream
        works: list[Any] = exchange(engine, stream, [], self.window.size, 0)
        if works:
            connection.send(self._frames_of(works, hand))
        if hand.ended or connection.is_full or stream.alarm is not None or self._is_to_stop:
            self._bell.ring()

    def _frames_of(self, works: list[Any], hand: InHand) -> bytes:
        hand.careful = 0 if self._pool.options.idempotent and not self._pool.tried else frames.CAREFUL
        return hand.send(works, self, self._pool.engine.clock.now(), time.monotonic())

    def _take_turns(self, connection: Connection, process: Process, hand: InHand) -> HeadraceError | None:
        """With `_turn` held, but while it sleeps."""
        engine, stream, window, bell, sent = self._pool.engine, self.stream, self.window, self._bell, hand.sent
        leaving = False
        while True:
            bell.rung = False
            leaving = leaving or self._is_to_stop or self.restarts
            inside = len(sent) + len(hand.again)
            credit = 0 if leaving else max(0, window.size - inside)
            ended, hand.ended = hand.ended, []
            if ended:
                self._learn(ended)
            works: list[Any] = exchange(engine, stream, ended, credit, inside)
            out = self._frames_of(works, hand) if works else b""
            while hand.again and len(sent) < window.size:
                out += hand.send_again(time.monotonic())
            if out:
                connection.send(out)
            if hand.ended:
                continue  # what nobody waits for any more, or cannot be sent
            if leaving and not sent:
                if not self._is_to_stop:
                    self.supervision.replaced(time.monotonic())
                connection.send(frames.encode(frames.STOP, generation=process.generation))
                return None
            if len(sent) >= MANY:
                time.sleep(NAP)
            try:
                patience = self._patience(stream.alarm, hand)
                self._turn.release()
                try:
                    events = connection.listen(patience)
                finally:
                    self._turn.acquire()
                came, gone = connection.hear(events)
                for frame in came:
                    reply = hand.take(frame)
                    if reply:
                        connection.send(reply)
            except frames.FrameError as error:
                return WorkerDied(self._pool.name, f"sent what is no answer ({error}), and was ended")
            if came:
                self._since = time.monotonic()
            if self._cancelled:
                self._cancel(hand)
            if gone:
                return WorkerDied(self._pool.name, GONE)
            if sent and not came:
                why = self._overdue(process, hand)
                if why is not None:
                    return why

    def _learn(self, ended: list[tuple[Any, float | None]]) -> None:
        times = [seconds for _, seconds in ended if seconds is not None]
        if times:
            self.window.learn(sum(times) / len(times))
        if self.supervision.failures:
            self.supervision.answered()
            self._pool.changed()
        tried = self._pool.tried
        if tried:
            for work, _ in ended:
                for request in requests_of(work):
                    tried.discard(request)

    def _patience(self, alarm: float | None, hand: InHand) -> float | None:
        """Seconds until something is to be looked at though nobody says anything."""
        if not hand.sent:  # somebody else may send something meanwhile, which is to be watched
            return IDLE if alarm is None else min(IDLE, max(0.0, alarm - self._pool.engine.clock.now()))
        now = time.monotonic()
        first = next(iter(hand.sent.values()))
        look = STUCK if len(hand.sent) > 1 else LOOK
        left = min(look, max(first.began, self._since) + self._pool.options.response_timeout - now)
        if first.stop_at is not None:
            left = min(left, first.stop_at - now)
        if alarm is not None:
            left = min(left, alarm - self._pool.engine.clock.now())
        return max(0.0, left)

    def _overdue(self, process: Process, hand: InHand) -> HeadraceError | None:
        """Why the process must not go on, if that is so: it hangs, was stopped, or does not leave a run it was told to.
        What waits behind a run that turns out long is taken back before that, where another worker could do it."""
        first = next(iter(hand.sent.values()))
        now, pool = time.monotonic(), self._pool
        since = max(first.began, self._since)
        if len(hand.sent) > 1 and now - since >= STUCK and pool.options.idempotent and pool.ready > 1:
            taken = hand.withdraw()
            if taken:
                self.window.forget()
                hand_back(pool.engine, self.stream, [(each.work, each.taken_at) for each in taken])
        if first.stop_at is not None and now >= first.stop_at:
            return WorkerDied(pool.name, "ran what was cancelled, did not leave it in time, and was ended")
        if now - since >= pool.options.response_timeout:
            process.show_stack()
            time.sleep(STACK)
            return ResponseTimeout(pool.name, pool.options.response_timeout)
        if now - since >= STOPPED and process.is_stopped():
            return WorkerDied(pool.name, "was stopped by a signal (SIGSTOP, or a debugger), and was ended")
        return None

    def _cancel(self, hand: InHand) -> None:
        while self._cancelled:
            id = self._cancelled.popleft()
            each = hand.sent.get(id)
            if each is not None and each.stop_at is None:
                hand.arena.mark(id)
                each.stop_at = time.monotonic() + self._pool.options.cancel_grace

    # ---- its end

    def _bury(self, died: HeadraceError | None, why: str | None, hand: InHand | None, output: Output | None) -> None:
        """The process has ended: what it had is told, or waits again; and it is known when to start the next one."""
        pool, now = self._pool, time.monotonic()
        begun_last = hand.arena.begun() if hand is not None else 0
        sent = [*hand.sent.values(), *hand.again] if hand is not None else []
        ended = hand.ended if hand is not None else []
        self._cancelled.clear()
        if why is not None and not (self._is_to_stop and died is None):
            if isinstance(died, ResponseTimeout) and output is not None:
                died.stack = "\n".join(output.last)
            if pool.is_open:  # else whoever compiles it is told
                self._tell(why, sum(len(each.requests) for each in sent), output)
            self.supervision.failed(now, why)
        error = died or WorkerDied(pool.name, why or "has ended")
        may_try = pool.options.idempotent and not isinstance(error, ResponseTimeout)
        back: list[tuple[Any, float]] = []
        ending: dict[int, tuple[Any, list[Pending], list[Pending], float]] = {}  # by work: ends, waits again
        for each in sent:
            _, ends, waits, _ = ending.setdefault(id(each.work), (each.work, [], [], each.taken_at))
            begun = each.id > 0 and has_begun(each.id, begun_last)
            for request in each.requests:
                its = fate(begun=begun, tried=request in pool.tried, idempotent=may_try, wanted=not request._done)
                if its is Fate.FAILS:
                    request.failure = error
                    ends.append(request)
                else:
                    if its is Fate.ALONE:
                        request.alike = object()  # like nothing else
                        if begun:
                            pool.tried.add(request)
                    waits.append(request)
        for work, ends, waits, taken_at in ending.values():
            if isinstance(work, Run):  # of one that was divided, some have been answered
                ends = [request for request in work.batch if request not in waits]
            if not waits:
                ended.append((work, None))
            elif not ends:
                back.append((work, taken_at))
            else:
                ended.append((pool.part_of(work, ends), None))
                back.append((pool.part_of(work, waits), taken_at))
        exchange(pool.engine, self.stream, ended, 0, 0)
        if back:
            hand_back(pool.engine, self.stream, back)
        pool.changed()

    def _tell(self, why: str, count: int, output: Output | None) -> None:
        last = list(output.last)[-12:] if output is not None else []
        said = f"; it had written: {' | '.join(last)}" if last else ""
        _log.error(
            "%s %s; %d requests were with it%s",
            self.name,
            " ".join(why.split()),
            count,
            said,
            extra={"model": self._pool.name, "request_id": None},
        )


GONE = "has gone"


class _Stream(RemoteStream):
    def __init__(self, pool: Pool, index: int, name: str, worker: Worker) -> None:
        super().__init__(pool.engine, pool.port, index, name, worker.wake)
        self._worker = worker

    def _join(self, timeout: float | None) -> None:
        if threading.current_thread() is not self._worker.thread:
            self._worker.thread.join(timeout)

    @property
    def thread(self) -> int | None:
        return self._worker.thread.ident
