"""Streams whose runs go on elsewhere: in a worker process. They take several at a time, and need none of our cores.

Rule 1: the lane of such a stream is idle while it would take more, and running while it would not; what it has in hand
        is its own affair. Its mask is empty: nobody waits for it, and it waits for nobody.
Rule 2: one step, `exchange`, gives outcomes and takes work, under the engine's lock; a saturated one needs no other.
Rule 3: what a round trip takes says nothing about a run. Times are those the worker has measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from headrace.engine.bundle import deliver
from headrace.engine.convoy import take_patiently
from headrace.engine.dispatch import Dispatch
from headrace.engine.events import RUN
from headrace.engine.guard import refuse_to_wait_inside
from headrace.engine.here import here
from headrace.engine.port import Port
from headrace.engine.source import Entering, Refused, Source, Work
from headrace.engine.stream import Stream
from headrace.errors import Closed


class RemotePort(Port):
    """Where one source meets streams whose runs go on elsewhere."""

    def __init__(self, source: Source, name: str) -> None:
        super().__init__(source, name)
        self.in_hand = 0  # works that streams have taken, and that have not ended
        self.shortest = float("inf")
        """Seconds the quickest run took, as the worker measured it."""

    def wait(self, batches: int) -> float:
        if self.runs - self.runs_before < 8:
            return 0.0
        return batches // max(1, len(self.streams)) * self.shortest

    def is_idle(self) -> bool:
        return not self.in_hand and self.source.is_empty()

    def ran(self, ended: Sequence[tuple[Work, float | None]]) -> None:
        """They have ended; None: without a run. With the lock held."""
        self.in_hand -= len(ended)
        runs, total, times = 0, 0.0, self.run_times
        for _, seconds in ended:
            if seconds is not None:
                runs += 1
                total += seconds
                if seconds < self.shortest:
                    self.shortest = seconds
                if times is not None:
                    times.observe(seconds)
        self.runs += runs
        self.run_seconds += total


class RemoteStream(Stream):
    """One that is driven by somebody's own thread, which `wake` wakes."""

    def __init__(self, engine: Dispatch, port: Port, index: int, name: str, wake: Callable[[], object]) -> None:
        super().__init__(engine, port, 0, index, name)
        self._wake = wake
        self.hands: list[Work] = []
        """What it has in hand, for those who look."""

    def start(self) -> None:
        pass

    def ring(self) -> None:
        self._wake()

    def join(self, timeout: float | None = None) -> None:
        self._wake()
        self._join(timeout)

    def _join(self, timeout: float | None) -> None:
        raise NotImplementedError


def adopt(engine: Dispatch, port: RemotePort, make: Callable[[str], Sequence[RemoteStream]]) -> None:
    """The engine serves by `port` from now on. `make`: its streams, for a name that no other port has. Closed."""
    refuse_to_wait_inside(engine.guard)
    with engine.guard.lock:
        if engine._closed:
            raise Closed("the engine is closed")
        wanted = port.name
        port.name = next(each for i in count(1) if (each := wanted if i == 1 else f"{wanted}.{i}") not in engine._names)
        engine._names.add(port.name)
    port.streams = tuple(make(port.name))
    port.made = len(port.streams)
    with engine.guard.lock:
        closed = bool(engine._closed)  # meanwhile
        if closed:
            engine._names.discard(port.name)
        else:
            engine._ports.append(port)
    if closed:
        raise Closed("the engine is closed")


def may_enter_in_exchange(engine: Dispatch) -> bool:
    """Whether `exchange` may be given what enters: where nobody looks at entries one by one, and this is no finaliser
    that has come between two steps of the engine."""
    guard = engine.guard
    return guard.trace is None and engine._shedding is None and not guard.lock._is_owned()  # type: ignore[attr-defined]


def exchange(
    engine: Dispatch,
    stream: RemoteStream,
    ended: Sequence[tuple[Work, float | None]],
    credit: int,
    inside: int,
    entering: Entering | None = None,
) -> list[Work]:
    """`ended` have, each in so many seconds (None: without a run); the stream takes up to `credit` more, and has
    `inside` others in hand.

    `credit` -1: it takes nothing, and wants to be rung all the same. `entering`: what enters its source before it
    takes, if `may_enter_in_exchange`. On its own thread.
    """
    port, lane, refused = stream.port, stream.lane, stream.refused
    assert isinstance(port, RemotePort)
    group, source, leases = port.group, port.source, engine._leases
    wake: list[Stream] = []
    works: list[Work] = []
    lock = engine.guard.lock
    if not lock.acquire(False):
        take_patiently(lock)
    try:
        engine._busy = True
        try:
            now = engine.clock.now()
            stream.rung, stream.alarm = False, None
            if port.watcher is stream:
                port.watcher, port.vigilant = None, False
            if ended:
                port.ran(ended)
                if engine.guard.trace is not None:
                    for work, seconds in ended:
                        _trace(engine, stream, work, seconds, now)
                for work, _ in ended:
                    work.complete(now)
                    now += 1e-9  # each after the one before: whoever sorts them by when they ended finds their order
            if entering is not None:
                add, item = entering
                add(item, now)
            if lane.waking:
                lane.awake()
            waits = len(source)  # at most so many; 0: then there is nothing to arrange either
            while True:
                if stream.stopping or not port.attached:
                    source.pull(now, False, stream.index, refused)  # it was abandoned: what waits is refused
                    credit = 0
                while waits and len(works) < credit:
                    if works and group.waking and source.batches(now, True) <= group.waking:
                        break  # the rest was promised to others, who have nothing to do
                    work_ = source.pull(now, port.in_hand > 0, stream.index, refused)
                    if work_ is None:
                        waits = len(source)
                        break
                    waits -= 1
                    port.in_hand += 1
                    works.append(work_)
                if credit < 0:
                    if lane.running:
                        leases.release(lane)
                    break
                if len(works) >= credit:
                    if not lane.running:
                        leases._grant(lane)
                        lane.awake()
                    break
                if lane.running:
                    leases.release(lane)
                if (inside or works) and group.idle[-1] is lane:  # who has nothing to do is taken first
                    group.idle.pop()
                    group.idle.insert(0, lane)
                if waits and port.attached:
                    engine._arrange(port, now, wake, stream)
                if not lane.running:
                    break
                lane.awake()  # there is work after all
            if waits and len(works) >= credit >= 0 and group.idle and port.attached:
                engine._arrange(port, now, wake, stream)
            if engine._later:
                engine._put_what_was_put_off(wake, refused)
            if port.drained is not None:
                engine._tell_drained(port)
        finally:
            engine._busy = False
    finally:
        lock.release()
    if ended or wake or refused or engine.budget.woken:
        before, here.stream = here.stream, True  # whoever is told of an outcome in here must not wait for another
        try:
            if wake or refused:
                engine._follow_up(wake, refused)
                refused.clear()
            if ended:
                deliver([work for work, _ in ended])
            if engine.budget.woken:
                engine.budget.wake()
        finally:
            here.stream = before
    return works


def hand_back(engine: Dispatch, stream: RemoteStream, works: Sequence[tuple[Work, float]]) -> None:
    """What has not begun, or is to begin once more, waits again. Each with when it was taken, in the order it was."""
    port = stream.port
    assert isinstance(port, RemotePort)
    wake: list[Stream] = []
    refused: Refused = []
    gone: list[Work] = []
    with engine.guard.lock:
        engine._busy = True
        try:
            now = engine.clock.now()
            for work, taken_at in reversed(works):
                port.in_hand -= 1
                for left in port.source.put_back([work], taken_at):
                    left.complete(now)
                    gone.append(left)
            if port.attached:
                if port.group.idle:
                    engine._arrange(port, now, wake)
            else:
                port.source.pull(now, False, stream.index, refused)
            engine._put_what_was_put_off(wake, refused)
            engine._tell_drained(port)
        finally:
            engine._busy = False
    engine._follow_up(wake, refused)
    deliver(gone)


def lose(engine: Dispatch, stream: RemoteStream) -> None:
    """What it ran in has ended: what only that could have done is refused."""
    refused: Refused = []
    with engine.guard.lock:
        stream.port.source.lose(stream.index, refused)  # type: ignore[attr-defined]
        engine._tell_drained(stream.port)
    engine._follow_up((), refused)


def refuse_all(engine: Dispatch, stream: RemoteStream, error: BaseException) -> None:
    """Nobody is there to do what waits."""
    refused: Refused = []
    with engine.guard.lock:
        stream.port.source.refuse_waiting(error, refused)  # type: ignore[attr-defined]
        engine._tell_drained(stream.port)
    engine._follow_up((), refused)


def has_stopped(engine: Dispatch, stream: RemoteStream) -> None:
    """Its thread is about to end."""
    port, group = stream.port, stream.port.group
    refused: Refused = []
    with engine.guard.lock:
        now = engine.clock.now()
        stream.ended, stream.ended_at = True, now
        stream.work = None
        if stream.lane.running:
            engine._leases.release(stream.lane)
        if not port.attached:  # its lane stays: what comes when all have ended is refused by whoever brings it
            port.source.pull(now, False, stream.index, refused)
        elif stream.lane in group.idle:
            group.idle.remove(stream.lane)
        engine._tell_drained(port)
    engine._follow_up((), refused)


def _trace(engine: Dispatch, stream: Stream, work: Work, seconds: float | None, now: float) -> None:
    trace = engine.guard.trace
    if trace is not None and seconds is not None:
        rows = sum(getattr(future, "rows", 1) for future in work.futures())
        ids = tuple(id(future) for future in work.futures())
        trace.record((RUN, now - seconds, now, stream.name, ids, work.name, rows))
