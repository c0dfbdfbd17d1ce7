"""Where streams meet their work: the one lock, and the decisions taken under it.

Rule 1: one lock is the linearisation point. It covers dependencies, sources, leases and outcomes; it is never held
        across a run, a callback, a wake-up or a wait. There is no dispatcher thread: who submits starts an idle stream,
        and a stream that ends a run picks its own next one.
Rule 2: for each run a stream leases its cores (`leases`). What runs never needs more cores than there are.
Rule 3: a stream that has been granted cores and not yet pulled is `waking`. Work arriving meanwhile is left to it, as
        long as it fits in the run it will pull.
Rule 4: of a port's idle streams at most one watches the clock (`alarm`), and only if there is something to watch for.
Rule 5: while runs are SHORT, one stream does them, one after the other. A second one would only fight it for the
        interpreter: waking a thread and changing hands cost more than such a run. An idle stream watches meanwhile:
        when no run has ended for PATIENCE seconds it joins in.
        It takes up to BUNDLE seconds of them at a time (`bundle`). What hangs in one is found by the stream that
        watches: it settles what has ended, and what has not begun waits again, for whoever is free.
Rule 6: the collector may run while the lock is held, and a finaliser may enter work. It cannot wait for the lock, which
        its own thread holds, nor change what is half changed: it is put off until the lock is let go.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

from headrace.clock import Clock, SystemClock
from headrace.engine.admission import Budget
from headrace.engine.bundle import Bundle, deliver
from headrace.engine.convoy import take_patiently
from headrace.engine.events import COUNT, RUN, SUBMIT
from headrace.engine.future import Future
from headrace.engine.guard import Guard, refuse_to_wait_inside
from headrace.engine.leases import Group, Lane, Leases
from headrace.engine.masks import bits_of, mask_of
from headrace.engine.port import Port
from headrace.engine.rehearsal import Rehearsal
from headrace.engine.shedding import Shedding
from headrace.engine.source import Refused, Source, Work
from headrace.engine.stream import Stream
from headrace.engine.topology import Core
from headrace.engine.trace import Several, Trace
from headrace.errors import Closed, NotEnoughCores

_log = logging.getLogger("headrace.engine")

SHORT = 20e-6
"""Seconds. Two threads that hand the interpreter to and fro lose more than that for each run."""
COUNT_EVERY = 500e-6
"""Seconds between two looks at the counters while the engine is traced."""
PATIENCE = 500e-6
"""Seconds without an end of a run after which what was taken for short is not."""
BUNDLE = 200e-6
"""Seconds of short runs a stream takes at a time."""


class Dispatch:
    def __init__(self, cores: tuple[Core, ...], budget: Budget, guard: Guard, clock: Clock | None) -> None:
        self.cores = cores
        self.clock: Clock = clock or SystemClock()
        self.budget = budget
        self.guard = guard
        guard.now = self.clock.now
        self._leases = Leases(mask_of(cores))
        self._ports: list[Port] = []
        self._leaving: list[Port] = []  # detached, and a last run of theirs goes on
        self._names: set[str] = set()  # of both: streams are told apart by them, in traces and dumps
        self._closed = False
        self._busy = False  # somebody is between taking the lock and letting it go
        self._later: deque[tuple[Port, Callable[[Any, float], None], Any]] = deque()  # entered by finalisers
        self._counted = 0.0  # when the counters were last traced
        self._shedding: Shedding[weakref.ref[Any]] | None = None  # who could make room, if the engine sheds

    # ---- what the engine and models call

    def attach(self, source: Source, masks: Sequence[int], name: str, *, bound: bool = False) -> Port:
        """Start one stream for each core mask, all pulling from `source`; `bound`: each runs on its own cores.

        NotEnoughCores if `masks` were made before another engine took some of these cores.
        """
        from headrace.engine.ownership import deciding

        with self.guard.lock:
            name = next(each for i in count(1) if (each := name if i == 1 else f"{name}.{i}") not in self._names)
            self._names.add(name)
        port = Port(source, name)
        port.streams = tuple(
            Stream(self, port, mask, i, f"headrace-{name}-{i}", bits_of(mask) if bound else None)
            for i, mask in enumerate(masks)
        )
        port.made = len(port.streams)
        started: list[Stream] = []
        try:
            # Before others can see the port: whoever detaches it joins its threads, and must find them started.
            for stream in port.streams:
                stream.start()
                started.append(stream)
            with deciding, self.guard.lock:
                if self._closed:
                    raise Closed("the engine is closed")
                if not masks or any(not mask or mask & ~self._leases.cores for mask in masks):
                    wanted = set().union(*(bits_of(mask) for mask in masks))
                    have = bits_of(self._leases.cores)
                    raise NotEnoughCores(
                        max(1, len(wanted)),
                        len(wanted & have),
                        "another engine has taken the others meanwhile; close it, or compile on it with engine=",
                    )
                self._ports.append(port)
        except BaseException:
            with self.guard.lock:
                self._names.discard(name)
                port.attached = False
                wake: list[Stream] = []
                for stream in port.streams:
                    stream.stopping = True
                    self._wake(stream, wake)
            for stream in started:
                if stream in wake:
                    stream.ring()
                stream.join()
            raise
        return port

    def rehearse(self, stream: Stream, call: Callable[[], object], timeout: float) -> bool:
        """Have `stream` do `call` as a run of its own, with its cores leased. Not on a stream.

        False if it has not ended within `timeout` seconds, or the port was detached: if it has not begun it does not,
        if it has it goes on. False at once where the port has work, another rehearsal, or other streams by now: there
        is nothing to rehearse any more. What arrives meanwhile waits for its end. Nothing of it is counted or learnt
        from.
        """
        refuse_to_wait_inside(self.guard)
        port, group = stream.port, stream.port.group
        wake: list[Stream] = []
        refused: Refused = []
        with self.guard.lock:
            source = port.source
            if port not in self._ports or port.rehearsing or stream.lane.out or not source.is_empty():
                return False
            works = [each.work for each in (*port.streams, *port.former)]
            if any(work is not None and type(work) is not Rehearsal for work in works):
                return False
            self._busy = port.rehearsing = True
            before = port.runs, port.run_seconds, port.typical, port.quickest
            run_times, port.run_times = port.run_times, None
            port.source = rehearsal = Rehearsal(call, f"{port.name} warms up", source)
            # The others are put aside, so that only this one can be granted its cores.
            aside = [lane for lane in group.idle if lane is not stream.lane]
            group.idle = [lane for lane in group.idle if lane is stream.lane]
            self._arrange(port, self.clock.now(), wake)
            self._put_what_was_put_off(wake, refused)
            self._busy = False
        try:
            self._follow_up(wake, refused)
            rehearsal.ended.wait(timeout)
        finally:
            wake, refused = [], []
            with self.guard.lock:
                self._busy = True
                attached = port in self._ports
                rehearsal.forsake()
                port.source, port.rehearsing = source, False
                aside = [lane for lane in aside if not lane.out]
                group.idle = sorted((*aside, *group.idle), key=lambda lane: lane.stream.index)
                port.runs, port.run_seconds, port.typical, port.quickest = before
                if port.run_times is None:  # else somebody has begun to measure
                    port.run_times = run_times
                now = self.clock.now()
                if attached:
                    self._leases.leave(group)
                    self._grant(wake)
                    self._arrange(port, now, wake)  # for what arrived meanwhile
                else:
                    rehearsal.abandon(Closed("the model or the engine was closed"))
                    source.pull(now, False, 0, refused)
                self._tell_drained(port)
                self._put_what_was_put_off(wake, refused)
                self._busy = False
            self._follow_up(wake, refused)
        return rehearsal.done and attached

    def runs_only(self, port: Port) -> bool:
        """Whether no other port's streams run."""
        with self.guard.lock:
            return not any(each.group.running for each in (*self._ports, *self._leaving) if each is not port)

    def try_enter(self, port: Port, add: Callable[[Any, float], None], item: Any) -> bool:
        """`item` is inside, and in the port's source, as `offer` puts it there. False if there is no room at once."""
        try:
            with self.guard.lock:
                budget = self.budget
                if budget.inside >= budget.ceiling:
                    return False
                budget.inside += 1
                item.held = True
                if self._busy or self._shedding is not None or self.guard.trace is not None:
                    follow_up = self._put(port, add, item)
                else:  # as `_put`, without the call
                    self._busy = True
                    try:
                        add(item, now := self.clock.now())
                        group = port.group
                        if self._later or (
                            group.idle and not (port.vigilant and group.running and port.typical < SHORT)
                        ):
                            follow_up = self._start(port, now)
                        else:
                            follow_up = None
                    finally:
                        self._busy = False
            if follow_up is not None:
                self._follow_up(*follow_up)
        except BaseException:
            self.recover(port, item)
            raise
        return True

    def offer(self, port: Port, add: Callable[[Any, float], None], item: Any) -> None:
        """Put `item` into the port's source with `add(item, now)`, and start whoever should start.

        It has been admitted, if it is one that must be. After `detach` it is refused: settled with Closed.
        """
        try:
            if port.straight is not None and port.straight((add, item)):
                return
            with self.guard.lock:
                follow_up = self._put(port, add, item)
            if follow_up is not None:
                self._follow_up(*follow_up)
        except BaseException:
            self.recover(port, item)
            raise

    def offer_all(self, port: Port, add: Callable[[Any, float], None], items: Sequence[Any]) -> None:
        """As `offer`, of several, in their order and in one step."""
        try:
            with self.guard.lock:
                if self._busy or self._shedding is not None or self.guard.trace is not None:
                    follow_ups = [self._put(port, add, item) for item in items]
                else:  # as `_put`, without the calls
                    self._busy = True
                    try:
                        now = self.clock.now()
                        for item in items:
                            add(item, now)
                        group = port.group
                        watched = port.vigilant and group.running and port.typical < SHORT
                        starts = self._later or (group.idle and not watched)
                        follow_ups = [self._start(port, now) if starts else None]
                    finally:
                        self._busy = False
            for follow_up in follow_ups:
                if follow_up is not None:
                    self._follow_up(*follow_up)
        except BaseException:
            for item in items:
                self.recover(port, item)
            raise

    def drain(self, port: Port) -> None:
        """Wait until nothing of the port waits or runs. What is in its last run may still be about to be delivered."""
        refuse_to_wait_inside(self.guard)
        with self.guard.lock:
            if port.is_idle():
                return
            drained = port.drained = port.drained or threading.Event()
        drained.wait()

    def detach(self, port: Port, timeout: float | None = None) -> None:
        """End the port's streams. What has not begun is refused with Closed; what runs is waited for.

        With a `timeout`, a stream whose run does not end within so many seconds is left to itself: a daemon thread.
        """
        self.abandon(port)
        until = None if timeout is None else time.monotonic() + timeout
        for stream in (*port.streams, *port.former):
            stream.join(None if until is None else max(0.0, until - time.monotonic()))
        with self.guard.lock:
            if port in self._leaving and all(stream.ended for stream in (*port.streams, *port.former)):
                self._leaving.remove(port)
                self._names.discard(port.name)

    def abandon(self, port: Port) -> None:
        """The first half of `detach`: nothing of the port begins from now on. It waits for nothing."""
        refuse_to_wait_inside(self.guard)
        refused: Refused = []
        wake: list[Stream] = []
        settled: list[Work] = []
        with self.guard.lock:
            if port.attached:
                self._busy = True
                try:
                    port.attached = False
                    self._ports.remove(port)
                    self._leaving.append(port)
                    settled = self._take_back(port, self.clock.now())
                    port.source.abandon(Closed("the model or the engine was closed"))
                    port.source.pull(self.clock.now(), False, 0, refused)
                    works = [stream.work for stream in (*port.streams, *port.former) if stream.work is not None]
                    port.source.refuse_behind(works, refused)
                    self._leases.leave(port.group)
                    self._grant(wake)
                    for stream in port.streams:
                        stream.stopping = True
                        if not stream.lane.running:  # one that runs sees it when it looks for its next run
                            self._wake(stream, wake)
                    self._put_what_was_put_off(wake, refused)
                finally:  # Ctrl-C: the engine may go on without this port
                    self._busy = False
        self._follow_up(wake, refused)
        deliver(settled)

    # ---- what streams call

    def turn(self, stream: Stream, done: Work | None) -> Work | None:
        """`stream` has ended `done` (None: it has just woken). Its next work; None: it should sleep, or stop."""
        port, refused = stream.port, stream.refused
        group, leases = port.group, self._leases
        work: Work | None = None
        wake: list[Stream] | None = None
        lock = self.guard.lock
        if not lock.acquire(False):
            take_patiently(lock)
        try:
            self._busy = True
            now = self.clock.now()
            if done is not None:
                seconds = now - stream.began
                port.run_seconds += seconds
                if type(done) is Bundle:
                    port.bundles -= done.watched
                    runs = len(done.ended) or 1  # what another stream has settled, that one has counted
                    seconds /= runs
                    port.runs += len(done.ended)
                    if port.run_times is not None:
                        port.run_times.observe_many(seconds, len(done.ended))
                else:
                    port.runs += 1
                    if seconds < port.quickest:
                        port.quickest = seconds
                    if port.run_times is not None:
                        port.run_times.observe(seconds)
                typical = port.typical
                port.typical = seconds if seconds < typical else typical + 0.01 * (seconds - typical)
                if self.guard.trace is not None:
                    self._trace_run(self.guard.trace, stream, done, now)
                if self.budget.max_bytes is not None and not stream.holds:
                    stream.holds = True
                    self.budget.holding += 1
                done.complete(now)
                if not (leases.line or stream.stopping or (group.running > 1 and port.typical < SHORT)):
                    # What happens most: the next run, at once.
                    work = port.source.pull(now, group.running > 1, stream.index, refused)
                    if work is not None and port.vigilant and port.typical < SHORT:
                        work = self._bundle(stream, work, now)
                if work is None or (group.idle and not (port.vigilant and port.typical < SHORT)):
                    wake = []
            else:
                wake = []
                stream.rung = False
                stream.alarm = None
                if port.watcher is stream:
                    port.watcher, port.vigilant = None, False
            if wake is not None:
                work = self._next(stream, done, work, now, wake)
            stream.work, stream.began = work, now
            if self._later:
                wake = wake or []
                self._put_what_was_put_off(wake, refused)
            self._busy = False
        finally:
            lock.release()
        if wake or refused:
            self._follow_up(wake or (), refused)
            refused.clear()
        if stream.settled:
            settled, stream.settled = stream.settled, []
            deliver(settled)
        if done is not None:
            hold = stream.hold
            hold.on = work is not None and port.typical < SHORT
            try:
                done.deliver()
            except BaseException:  # the stream must outlive it: it has been given its next work, and holds cores
                _log.exception("an outcome could not be delivered")
            hold.let_go(now)
        if self.budget.woken:
            self.budget.wake()
        return work

    def woke_by_itself(self, stream: Stream) -> bool:
        """Its alarm woke it. True: a ring has been promised as well, and it must hear it. Nobody rings it from now on
        until its turn: a bell that is rung twice raises."""
        with self.guard.lock:
            rung, stream.rung, stream.looked = stream.rung, True, True
            return rung

    def runs_one(self) -> bool:
        """Whether a single stream of the engine runs."""
        with self.guard.lock:
            return sum(port.group.running for port in self._ports) == 1

    # ---- with the lock held

    def _put(self, port: Port, add: Callable[[Any, float], None], item: Any) -> tuple[list[Stream], Refused] | None:
        """`item` enters the port's source. What `_follow_up` is to do, if anything."""
        if self._busy:
            self._later.append((port, add, item))
            return None
        self._busy = True
        try:
            now = self.clock.now()
            if self.guard.trace is not None:
                self.guard.trace.record((SUBMIT, now, id(item), threading.get_ident(), port.name))
            if self._shedding is not None:
                self._can_be_shed(item)
            add(item, now)
            group = port.group
            if not self._later and (not group.idle or (port.vigilant and group.running and port.typical < SHORT)):
                return None
            return self._start(port, now)
        finally:
            self._busy = False

    def _start(self, port: Port, now: float) -> tuple[list[Stream], Refused]:
        wake: list[Stream] = []
        refused: Refused = []
        self._start_whoever_should(port, now, wake, refused)
        if self._later:
            self._put_what_was_put_off(wake, refused)
        return wake, refused

    def _put_what_was_put_off(self, wake: list[Stream], refused: Refused) -> None:
        """What finalisers have entered meanwhile. The last thing before `_busy` ends, so that it keeps its order."""
        while self._later:
            port, add, item = self._later.popleft()
            now = self.clock.now()
            if self.guard.trace is not None:
                self.guard.trace.record((SUBMIT, now, id(item), threading.get_ident(), port.name))
            if self._shedding is not None:
                self._can_be_shed(item)
            add(item, now)
            self._start_whoever_should(port, now, wake, refused)

    def _start_whoever_should(self, port: Port, now: float, wake: list[Stream], refused: Refused) -> None:
        if not port.group.idle:
            return
        if port.attached:
            self._arrange(port, now, wake)
        else:
            port.source.pull(now, False, 0, refused)

    def _can_be_shed(self, item: Any) -> None:
        # Not what writes: those who read that must not take old data for new.
        if self._shedding is not None and not getattr(item, "writes", ()):
            self._shedding.add(weakref.ref(item), item.priority, item.deadline)

    def _trace_run(self, trace: Trace | Several, stream: Stream, work: Work, now: float) -> None:
        ids = tuple(id(future) for future in work.futures())
        trace.record(
            (
                RUN,
                stream.began,
                now,
                stream.name,
                ids,
                work.name,
                sum(getattr(future, "rows", 1) for future in work.futures()),
            )
        )
        if now - self._counted >= COUNT_EVERY:
            self._counted = now
            waiting = sum(len(port.source) for port in self._ports)
            running = sum(port.group.running for port in self._ports)
            trace.record((COUNT, now, waiting, self.budget.inside, self.budget.nbytes, running))

    def stop_tracing(self, trace: Trace, ports: Sequence[Port] | None = None) -> None:
        """What a trace is told to do first when it stops. `ports`: whose streams it shows; None: all."""
        with self.guard.lock:
            self.guard.end_trace(trace)
            now = self.clock.now()
            streams = [
                stream
                for port in ports or (*self._ports, *self._leaving)
                for stream in (*port.former, *port.streams)
                if not stream.ended or stream.ended_at >= trace.began
            ]
            trace.streams = [stream.name for stream in streams]
            trace.masks = [stream.lane.mask for stream in streams]
            trace.unfinished = [stream.name for stream in streams if stream.work is not None]
            for stream in streams:
                if stream.work is not None:
                    self._trace_run(trace, stream, stream.work, now)
            for port in tuple(self._leaving):
                self._let_go(port)

    def _next(
        self, stream: Stream, done: Work | None, work: Work | None, now: float, wake: list[Stream]
    ) -> Work | None:
        """The general case of a turn: others may want the cores, or there may be nothing to do, or too much."""
        port, lane, refused = stream.port, stream.lane, stream.refused
        group, source, leases = port.group, port.source, self._leases
        looked, stream.looked = stream.looked, False
        if work is not None:
            self._arrange(port, now, wake, stream)
            return work
        if lane.out:
            self._step_aside(stream, now, wake)
            return None
        if looked and port.bundles and port.runs == port.seen:
            stream.settled += self._take_back(port, now)
            port.seen = port.runs  # those were run before: nothing gets on all the same
        if done is not None:
            if leases.line:
                self._let_others_go_first(port, lane, now, wake)
            elif group.running > 1 and port.typical < SHORT and self._another_gets_on(port, stream, now):
                leases.release(lane)
        while True:
            if not lane.running:
                if not stream.stopping:
                    self._arrange(port, now, wake, stream, looked)
                if not lane.running:
                    if stream.stopping:
                        # What its last run made ready is refused: no other stream of the port may be left to do it.
                        source.pull(now, False, stream.index, refused)
                        stream.ended, stream.ended_at = True, now
                        self._let_go(port)
                    self._tell_drained(port)
                    return None
            lane.awake()
            work = source.pull(now, group.running > 1, stream.index, refused)
            if work is not None:
                if group.idle and port.attached:
                    self._arrange(port, now, wake, stream)
                return work
            leases.release(lane)
            if leases.line:
                self._grant(wake, stream)

    def _step_aside(self, stream: Stream, now: float, wake: list[Stream]) -> None:
        """A turn of one that is none of its port's, not yet or no more: it pulls nothing."""
        port, lane = stream.port, stream.lane
        if lane.running:  # that was its last run
            self._leases.release(lane)
            self._grant(wake)
        if port.attached:
            self._arrange(port, now, wake)
        else:  # what that run made ready is refused, as in `_next`
            port.source.pull(now, False, 0, stream.refused)
        if stream.stopping:
            stream.ended, stream.ended_at = True, now
            self._let_go(port)
        self._tell_drained(port)

    def _let_go(self, port: Port) -> None:
        """Of a port that nobody detaches, once its streams have ended; unless somebody traces, whose picture they are
        in."""
        streams = (*port.streams, *port.former)
        if self.guard.trace is None and port in self._leaving and all(stream.ended for stream in streams):
            self._leaving.remove(port)
            self._names.discard(port.name)

    def _arrange(
        self, port: Port, now: float, wake: list[Stream], me: Stream | None = None, looked: bool = False
    ) -> None:
        """Start the streams there is work for. Where work waits for company or runs are short, see that somebody
        watches the clock.

        `me`: the caller, who need not be woken. `looked`: it has watched since `port.seen`.
        """
        group, source = port.group, port.source
        until: float | None = None
        while group.idle and not group.in_line and source.batches(now, group.running > 0) > group.waking:
            if group.running and port.typical < SHORT and not (looked and port.runs == port.seen):
                until = now + PATIENCE
                break
            looked = False
            lane = self._leases.want(group)
            if lane is None:
                return
            if lane.stream is not me:
                self._wake(lane.stream, wake)
        if not group.idle or (group.in_line and not port.bundles):
            return
        if (
            until is None
            and group.running
            and port.typical < SHORT
            and (port.bundles or (looked and port.runs != port.seen))
        ):
            until = now + PATIENCE
        vigilant = until is not None
        if until is None and not group.waking:
            until = source.next_deadline()
        if until is None or (port.watcher is not None and not (vigilant and not port.vigilant)):
            return
        watcher: Stream = port.watcher or group.idle[-1].stream
        if me is not None and not me.lane.running and port.watcher is None:
            watcher = me
        port.watcher, port.vigilant, port.seen = watcher, vigilant, port.runs
        watcher.alarm = until
        if watcher is not me:
            self._wake(watcher, wake)

    def _another_gets_on(self, port: Port, me: Stream, now: float) -> bool:
        """Whether another stream of the port is in a run that has just begun, so that this one need not help."""
        return any(
            stream is not me and stream.lane.running and (stream.lane.waking or now - stream.began < PATIENCE)
            for stream in port.streams
        )

    def _bundle(self, stream: Stream, work: Work, now: float) -> Work:
        """`work` and more of its kind, where that is worth it, and another stream watches that it gets on."""
        port, source = stream.port, stream.port.source
        if port.group.running > 1 or self.guard.trace is not None or self.budget.max_bytes is not None:
            return work  # each run is to be seen by itself, and what it made
        count = min(len(source) + 1, int(BUNDLE / max(port.typical, 1e-6)))
        works = [work]
        while len(works) < count and (one_more := source.pull(now, True, stream.index, stream.refused)) is not None:
            works.append(one_more)
        if len(works) == 1:
            return work
        port.bundles += 1
        return Bundle(works)

    def _take_back(self, port: Port, now: float) -> list[Work]:
        """Whatever of bundles has not begun waits again; what has ended is settled, and to be delivered."""
        settled: list[Work] = []
        for stream in port.streams:
            bundle = stream.work
            if type(bundle) is Bundle and bundle.watched:
                bundle.watched = False
                port.bundles -= 1
                ended = bundle.settle(now)
                port.runs += len(ended)
                if ended and port.run_times is not None:  # what each of them took nobody knows: no more than is usual
                    port.run_times.observe_many(port.typical, len(ended))
                settled += ended
                for gone in port.source.put_back(bundle.take_back(), stream.began):
                    gone.complete(now)
                    port.runs += 1  # it says itself that it was none
                    settled.append(gone)
        return settled

    def _let_others_go_first(self, port: Port, lane: Lane, now: float, wake: list[Stream]) -> None:
        """`lane` has ended a run while others wait for cores: it stands behind them if it has more to do."""
        group = port.group
        self._leases.release(lane)
        if port.attached and port.source.batches(now, group.running > 0) > group.waking:
            self._leases.line_up(group)
        self._grant(wake, lane.stream)

    def _grant(self, wake: list[Stream], me: Stream | None = None) -> None:
        for lane in self._leases.grant(self._lanes_wanted):
            if lane.stream is not me:
                self._wake(lane.stream, wake)

    def _lanes_wanted(self, group: Group) -> int:
        """How many more lanes a group that stood in line, and has an idle one, has work for."""
        port: Port = group.idle[0].stream.port
        if port.typical < SHORT:
            return 1
        return port.source.batches(self.clock.now(), group.running > 0) - group.waking

    @staticmethod
    def _wake(stream: Stream, wake: list[Stream]) -> None:
        if not stream.rung:
            stream.rung = True
            wake.append(stream)

    @staticmethod
    def _tell_drained(port: Port) -> None:
        if port.drained is not None and port.is_idle():
            port.drained.set()
            port.drained = None  # whoever drains it again waits for what comes meanwhile

    # ---- without

    def _follow_up(self, wake: Iterable[Stream], refused: Iterable[tuple[Future[Any], BaseException]]) -> None:
        """What was decided under the lock, and is done without it."""
        try:
            for stream in wake:
                stream.ring()
            for future, error in refused:
                future.settle(error=error)
        except BaseException:  # interrupted: once more does no harm
            for stream in wake:
                stream.ring()
            for future, error in refused:
                future.settle(error=error)
            raise

    def recover(self, port: Port, item: Any) -> None:
        """An entry was interrupted, which Ctrl-C can do between any two steps, or refused by its source. Give back its
        room unless it is in the source, and ring every idle stream: some may have been promised a ring, and one too
        many does no harm."""
        with self.guard.lock:
            if getattr(item, "held", False) and not item._begun:
                waits = getattr(item, "waiting_for", 0) > 0 or any(each is item for each in port.source.waiting())
                if item._done or not waits:
                    self.budget.leave(item)
        self.budget.mend()
        for port in list(self._ports):
            for stream in (*port.streams, *port.former):
                if stream.work is None:
                    stream.ring()
