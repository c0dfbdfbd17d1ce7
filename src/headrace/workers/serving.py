"""A worker's process at work: turns, each of which takes answers in, gives outcomes, takes work and sends it.

Rule 1: one turn at a time, under `_turn`. They are the worker's own thread's, and while that sleeps whoever's has
        something for it: an event loop's, or a caller's, which then hear the answers too (`hearing`). Nobody but the
        worker's thread ever waits for a turn.
Rule 2: a turn is one step of the engine (`engine.remote.exchange`) and one system call for what it sends.
Rule 3: what ends the process, and whatever is to be looked at again, is the worker's thread's alone.
Rule 4: whatever the process says is checked against what it was sent: what is no answer is its end.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from headrace.engine.remote import exchange
from headrace.engine.source import Entering
from headrace.errors import HeadraceError, WorkerDied
from headrace.model.pending import Pending
from headrace.workers import frames, messages
from headrace.workers.answers import Answers
from headrace.workers.at_once import AtOnce, WatchAtOnce
from headrace.workers.caller import Caller
from headrace.workers.connection import Connection
from headrace.workers.hearing import GRACE, Hearing
from headrace.workers.in_hand import InHand, Sent
from headrace.workers.process import Process
from headrace.workers.requests import requests_of
from headrace.workers.watch import IDLE, Watch
from headrace.workers.window import MOST, Window

if TYPE_CHECKING:
    from headrace.workers.worker import Worker

MANY = 8
"""Short runs with the process from which on its thread takes a nap between two turns, so that more goes together and it
does not fight event loops and callers for the interpreter."""
NAP = 100e-6
"""Seconds."""
GONE = "has gone"


class Serving:
    """Of one process, from when it is ready until it must not, cannot or need not go on."""

    def __init__(self, worker: Worker, process: Process, connection: Connection, hand: InHand) -> None:
        self._worker, self._process, self._connection, self._hand = worker, process, connection, hand
        limit = worker.pool.options.memory_limit
        self._answers = Answers(hand, worker.pool.name, limit, self._has_read, worker.pool.told.tell)
        self._read: deque[tuple[int, int]] = deque()  # what it is to be told of its parts
        self._pool, self._stream, self._engine = worker.pool, worker.stream, worker.pool.engine
        self._bell, self.fd = connection.bell, connection.fd
        at_once = bool(worker.pool.at_once)
        self._window = AtOnce(worker, hand) if at_once else Window(most=1 if worker.pool.is_sequenced else MOST)
        self._turn = threading.Lock()
        self._serves = False
        watched = worker.pool, worker.stream, process, hand, self._window
        self._watch = WatchAtOnce(*watched, connection) if at_once else Watch(*watched)
        self._looks_always = at_once  # one may take too long while others answer
        self._hearing = Hearing(connection, hand, self._watch)
        self._may_sleep = worker.pool.options.response_timeout > 2 * IDLE  # while others send
        self._broken: frames.FrameError | None = None  # what a loop heard

    # ---- from any thread

    def cancel(self, id: int) -> None:
        """The run with this id is not wanted any more. It is for the caller to wake the worker."""
        self._watch.cancelled.append(id)

    def silent(self) -> float:
        """Seconds since its process said anything, while it has something in hand; -1: it has nothing."""
        first = next(iter(list(self._hand.sent.values())), None)
        return -1.0 if first is None else max(0.0, time.monotonic() - max(first.began, self._watch.since))

    def _has_read(self, each: Sent, nbytes: int) -> None:
        """Of its parts. It is told of many at a time."""
        each.read += nbytes
        if each.read >= messages.WINDOW // 4:
            self._read.append((each.id, each.read))
            each.read = 0
            self._bell.ring()

    def send_at_once(self, entering: Entering | None = None) -> bool:
        """Send what waits on the caller's thread, if nothing is with the process or the caller's loop hears what it
        answers: a switch of threads takes longer than that. False: nothing was done, and the worker is to be woken.

        `entering`: what enters its source before that, as `exchange` says.
        """
        if not self._turn.acquire(False):
            return False
        rings = False
        try:
            hand = self._hand
            if not self._is_free or (hand.sent and self._hearing.ear is None):
                return False
            self._exchange([], entering)
            self._hearing.choose(self._hear_on_loop)
            # The worker's thread sleeps longer than what lies behind a long run may wait.
            waits = len(hand.sent) > 1 and time.monotonic() - self._watch.since >= GRACE
            rings = waits or not (self._is_free and self._stream.alarm is None and self._may_sleep)
            return True
        finally:
            self._turn.release()
            if rings:  # not before: its thread would have the turn, and no interpreter, where a caller wants it next
                self._bell.ring()

    def is_lent_to(self, caller: Caller) -> bool:
        return self._hearing.caller is caller

    def lend_to(self, caller: Caller, request: Pending) -> None:
        """The caller waits for `request`: where nothing else is with the process, it hears what comes from now on."""
        if not self._turn.acquire(False):
            return
        try:
            if self._is_free:
                self._hearing.lend_to(caller, request)
        finally:
            self._turn.release()

    def hear_for(self, caller: Caller, request: Pending) -> bool:
        """There may be something to hear. Whether it goes on to hear."""
        if not self._turn.acquire(False):  # the worker's thread is at something, and will find that it is left alone
            return False
        try:
            if self._hearing.caller is not caller or not self._serves or not self._hear_a_turn():
                return False
            if not request._done:
                return True
            self._hearing.caller = None
            if self._hand.sent:  # others' meanwhile
                self._connection.leave(False)
                self._bell.ring()
            return False
        finally:
            self._turn.release()

    def caller_has_left(self) -> None:
        """It hears no more, whatever comes."""
        self._hearing.caller = None
        self._bell.ring()

    @property
    def _is_free(self) -> bool:
        """Whether there is nothing that only the worker's thread does."""
        worker, hand = self._worker, self._hand  # as `_is_to_go_on`, without the call
        stays = self._serves and not (self._stream.stopping or worker.leaves or worker.restarts)
        return stays and not (hand.again or hand.ended or self._watch.cancelled or self._connection.rest)

    def _exchange(self, ended: list[tuple[Any, float | None]], entering: Entering | None = None) -> None:
        inside = len(self._hand.sent)
        credit = max(0, self._window.size - inside)
        works: list[Any] = exchange(self._engine, self._stream, ended, credit, inside, entering)
        if works:
            self._connection.send(self._frames_of(works))

    def _hear_on_loop(self) -> None:
        """On an event loop's thread: the process has said something."""
        if not self._turn.acquire(False):
            return
        try:
            if not self._serves or self._hearing.ear is None:
                return
            self._hearing.missed = 0
            if not self._hear_a_turn():
                self._hearing.stop_listening()
        finally:
            self._turn.release()

    def _hear_a_turn(self) -> bool:
        """A turn that begins with what the process has said. With `_turn`. False: the worker's thread goes on."""
        try:
            self._take(self._connection.receive())
            gone = self._connection.gone
        except frames.FrameError as error:
            self._broken, gone = error, True
        if gone or not self._is_to_go_on:
            self._bell.ring()
            return False
        ended, self._hand.ended = self._hand.ended, []
        if ended:
            self._learn(ended)
        self._exchange(ended)
        if not self._is_free or self._stream.alarm is not None:
            self._bell.ring()
        return True

    @property
    def _is_to_go_on(self) -> bool:
        worker = self._worker  # as its `is_to_stop`, without the call
        stays = not (self._stream.stopping or worker.leaves or worker.restarts)
        return stays and not (self._hand.again or self._watch.cancelled or self._connection.rest)

    # ---- on the worker's thread

    def serve(self) -> HeadraceError | None:
        """Until the worker is to stop (None), or the process must not or cannot go on (why)."""
        with self._turn:
            self._serves = True
            try:
                return self._take_turns()
            finally:
                self._serves = False
                self._hearing.stop_listening()
                self._connection.close()

    def _frames_of(self, works: list[Any]) -> bytes:
        pool = self._pool
        self._hand.may_share = pool.version is None
        is_tried = pool.has_tried and pool.tried
        self._hand.careful = 0 if pool.options.idempotent and not is_tried else frames.CAREFUL
        return self._hand.send(works, self._worker, self._engine.clock.now(), time.monotonic())

    def _take_turns(self) -> HeadraceError | None:
        """With `_turn` held, but while it sleeps."""
        worker, stream, hand, connection = self._worker, self._stream, self._hand, self._connection
        window, sent = self._window, hand.sent
        leaving = False
        while True:
            self._bell.rung = False
            leaving = leaving or ((worker.is_to_stop or worker.restarts) and self._pool.may_leave(worker))
            inside = len(sent) + len(hand.again)
            credit = 0 if leaving else max(0, window.size - inside)
            ended, hand.ended = hand.ended, []
            if ended:
                self._learn(ended)
            works: list[Any] = exchange(self._engine, stream, ended, credit, inside)
            out = self._frames_of(works) if works else b""
            while self._read:
                id, nbytes = self._read.popleft()
                self._watch.since = time.monotonic()  # it may have waited for that, and goes on now
                piece = messages.pack_piece(0, nbytes)
                out += frames.encode(frames.MORE, piece, id=id, generation=self._process.generation)
            if hand.again:
                out += hand.send_again(window.size - len(sent), time.monotonic())
            if out:
                connection.send(out)
            if hand.ended:
                continue  # what nobody waits for any more, or cannot be sent
            if leaving and not sent:
                connection.send(frames.encode(frames.STOP, generation=self._process.generation))
                return None
            if worker.ends_at is not None and sent:
                self._watch.tell_all()
                if time.monotonic() >= worker.ends_at:
                    return WorkerDied(self._pool.name, "was ended, as its model was closed")
            if len(sent) >= MANY:
                time.sleep(NAP)
            try:
                came, gone = self._hear()
            except frames.FrameError as error:
                return WorkerDied(self._pool.name, f"sent what is no answer ({error}), and was ended")
            if self._watch.cancelled:
                self._watch.cancel()
            if gone:
                return WorkerDied(self._pool.name, GONE)
            if not came or self._looks_always:
                why = self._watch.overdue() if sent else self._watch.idle()
                if why is not None:
                    return why

    def _hear(self) -> tuple[bool, bool]:
        """Whether something came, and whether the process has gone. FrameError."""
        patience, hearing = self._watch.patience(), self._hearing
        if self._worker.ends_at is not None:
            patience = min(patience, max(0.0, self._worker.ends_at - time.monotonic()))
        hearing.leave()
        self._turn.release()
        try:
            events = hearing.listen(patience)
        finally:
            self._turn.acquire()
        if self._broken is not None:
            raise self._broken
        came, gone = self._take_in(events)
        if came:
            hearing.thread_has_heard()
        return came, gone

    def _take_in(self, events: list[tuple[int, int]]) -> tuple[bool, bool]:
        came, gone = self._connection.hear(events)
        self._take(came)
        return bool(came), gone

    def _take(self, came: list[frames.Frame]) -> None:
        """FrameError."""
        for frame in came:
            reply = self._answers.take(frame)
            if reply:
                self._connection.send(reply)
        if came:
            self._watch.since = time.monotonic()

    def _learn(self, ended: list[tuple[Any, float | None]]) -> None:
        runs, total = 0, 0.0
        for _, seconds in ended:
            if seconds is not None:
                runs += 1
                total += seconds
        if runs:
            self._window.learn(total / runs)
        if self._worker.supervision.failures:
            self._worker.supervision.answered()
            self._pool.changed()
        if self._pool.has_tried and self._pool.tried:
            for work, _ in ended:
                for request in requests_of(work):
                    self._pool.tried.discard(request)
                    self._pool.source.alone.discard(request)
