"""The engine without its threads: the test does what streams do, one step at a time, in random order.

A stream is asleep, has heard its bell (or its alarm) and not acted yet, runs, or has ended. A ring that was promised
arrives some time later. So every window between two steps of two streams is tried, also those that threads hit rarely.
Runs take as long as the test says: `pace`. Some hang for as long as the test likes.
"""

import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.engine.bundle import Bundle
from headrace.engine.dependencies import Var
from headrace.engine.dispatch import BUNDLE, PATIENCE, SHORT
from headrace.engine.engine import Engine, Port
from headrace.engine.future import Future
from headrace.engine.handover import replace_streams
from headrace.engine.placement import Placement
from headrace.engine.source import Refused, Work
from headrace.engine.stream import Stream
from headrace.engine.topology import made_up
from headrace.errors import Closed, DeadlineExceeded, NotEnoughCores, PoisonedVar
from headrace.testing import FakeClock

PACES: dict[str, Callable[[random.Random], float]] = {
    "at once": lambda rng: 0.0,
    "short": lambda rng: rng.uniform(0.1, 0.9) * SHORT,
    "long": lambda rng: rng.uniform(1.1, 5) * SHORT,
    "mixed": lambda rng: rng.choice([0.2 * SHORT, 0.5 * SHORT, 2 * SHORT, 1.5 * PATIENCE]),
}
"""How many seconds a run takes."""


class Job(Future[int]):
    """A Future that is its own permit."""

    __slots__ = ("budget", "deadline", "held", "nbytes", "priority")

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.guard)
        self.budget, self.held, self.nbytes = engine.budget, False, 0
        self.priority, self.deadline = 0.0, None

    def _settled(self) -> None:
        self.budget.release(self)


class Batch:
    """What a stream runs: some jobs together."""

    name = "batch"

    def __init__(self, jobs: list[Future[int]], waited_until: list[float]) -> None:
        self.jobs, self.waited_until = jobs, waited_until
        self.ran = False

    def futures(self) -> list[Future[int]]:
        return self.jobs

    def run(self) -> None:
        assert not self.ran
        self.ran = True

    def complete(self, now: float) -> None:
        assert self.ran or all(job.can_read() for job in self.jobs)

    def deliver(self) -> None:
        for job in self.jobs:
            job.settle(len(self.jobs))


class Line:
    """A small Source: jobs wait for company, up to `size` of them and for at most `delay`, unless nothing runs."""

    def __init__(self, size: int, delay: float) -> None:
        self.size, self.delay = size, delay
        self.waiting: deque[tuple[float, Future[int]]] = deque()
        self.place: dict[Future[int], int] = {}  # in the order they came
        self.streams = 0  # that may pull: 0, 1, …
        self.error: BaseException | None = None

    def add(self, job: Future[int], now: float) -> None:
        self.place[job] = len(self.place)
        self.waiting.append((now + self.delay, job))

    def batches(self, now: float, busy: bool) -> int:
        full, rest = divmod(len(self.waiting), self.size)
        return full + bool(rest and ((not busy and not full) or now >= self.waiting[0][0]))

    def pull(self, now: float, busy: bool, stream: int, refused: Refused) -> Batch | None:
        assert stream < self.streams or not self.streams
        if self.error is not None:
            refused += [(job, self.error) for _, job in self.waiting]
            self.waiting.clear()
        if busy and not self.batches(now, busy):
            return None
        jobs: list[Future[int]] = []
        until: list[float] = []
        while self.waiting and len(jobs) < self.size:
            late, job = self.waiting.popleft()
            if job.begin():
                jobs.append(job)
                until.append(late)
        return Batch(jobs, until) if jobs else None

    def put_back(self, works: Sequence[Batch], pulled_at: float) -> list[Batch]:
        gone = [work for work in works if all(job.can_read() for job in work.jobs)]
        for work in reversed([work for work in works if work not in gone]):
            for late, job in reversed(list(zip(work.waited_until, work.jobs))):
                job._begun = False
                self.waiting.appendleft((late, job))
        return gone

    def __len__(self) -> int:
        return len(self.waiting)

    def next_deadline(self) -> float | None:
        return self.waiting[0][0] if self.waiting else None

    def is_empty(self) -> bool:
        return not any(not job.can_read() for _, job in self.waiting)

    def abandon(self, error: BaseException) -> None:
        self.error = error

    def refuse_behind(self, running: list[Work], refused: Refused) -> None:
        pass


class Stage:
    """An engine whose streams do a step when `step` says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
        thread = lambda target, name, daemon: SimpleNamespace(  # noqa: E731
            name=name, ident=0, start=lambda: self.awake.add(target.__self__), join=lambda timeout=None: None
        )
        threads = SimpleNamespace(Thread=thread, Lock=threading.Lock, current_thread=threading.current_thread)
        monkeypatch.setattr("headrace.engine.stream.threading", threads)
        monkeypatch.setattr(Stream, "ring", lambda stream: self.promise(stream))
        self.clock = FakeClock()
        self.engine = Engine(topology=made_up(cores=cores), clock=self.clock, max_operations=10_000)
        self.engines = [self.engine]
        self.pace: Callable[[], float] = lambda: 0.0
        self.awake: set[Stream] = set()  # will take their turn
        self.asleep: set[Stream] = set()
        self.looked: set[Stream] = set()  # their alarm went since their last turn
        self.must_hear: set[Stream] = set()  # their alarm went when a ring was on its way: they wait for it
        self.running: dict[Stream, Work] = {}
        self.in_bundle: dict[Stream, Work] = {}  # the one of a bundle that runs
        self.hung: set[Stream] = set()  # they run, and the test does not let them end
        self.ended: set[Stream] = set()
        self.promised: list[Stream] = []  # rings on their way
        self.happened: Counter[str] = Counter()

    def promise(self, stream: Stream) -> None:
        assert stream not in self.promised, "its bell would be rung twice"
        assert stream.rung
        self.promised.append(stream)

    def able(self) -> list[Stream]:
        now = self.clock.now()
        late = [s for s in self.asleep if s.alarm is not None and s.alarm <= now and s not in self.must_hear]
        # By name, so that a seed does the same each time.
        return sorted([*self.awake, *(self.running.keys() - self.hung), *late], key=lambda stream: stream.name)

    def step(self, stream: Stream) -> None:
        done: Work | None = None
        others = stream.port.group.running - stream.lane.running
        idle = not stream.lane.running
        if stream in self.asleep:  # its alarm goes
            self.looked.add(stream)
            if stream._engine.woke_by_itself(stream):
                self.must_hear.add(stream)
                return
            self.asleep.remove(stream)
        elif stream in self.running:
            work = self.running[stream]
            self.happened["replaced while it ran"] += stream not in stream.port.streams
            if isinstance(work, Bundle) and self.step_in_bundle(stream, work):
                return
            done = self.running.pop(stream)
            if not isinstance(done, Bundle):
                self.clock.advance(self.pace())
                done.run()
        else:
            self.awake.remove(stream)
        watched = self.watched()
        work = stream._engine.turn(stream, done)
        self.happened["taken back"] += len(watched - self.watched())
        looked = stream in self.looked
        self.looked.discard(stream)
        port = stream.port
        if others and port.typical < SHORT:
            assert not idle or work is None or looked, "it joined in, and had not watched"
            self.happened["joined in"] += idle and work is not None
            self.happened["retired"] += done is not None and work is None and self.parked(port)
            self.happened["watched on"] += looked and work is None and port.watcher is stream
        if work is not None:
            assert stream in port.streams, "it was replaced, or is none of the port's yet"
            self.running[stream] = work
        elif stream.ended:
            self.ended.add(stream)
        elif stream._bell.acquire(blocking=False):
            self.awake.add(stream)
        else:
            self.asleep.add(stream)
        self.check()
        self.check_work(port)

    def watched(self) -> set[Stream]:
        return {stream for stream, work in self.running.items() if isinstance(work, Bundle) and work.watched}

    def step_in_bundle(self, stream: Stream, bundle: Bundle) -> bool:
        """A run of it begins, or ends. False if there is none. As `Bundle.run`, which has no steps."""
        running = self.in_bundle.pop(stream, None)
        if running is not None:
            self.clock.advance(self.pace())
            running.run()
            bundle.ended.append(running)
            return True
        if not bundle.left:
            return False
        self.in_bundle[stream] = bundle.left.popleft()
        self.happened["bundled"] += 1
        return True

    def hear(self, stream: Stream) -> None:
        """A ring arrives."""
        self.promised.remove(stream)
        stream._bell.release()  # raises if it was rung already, and had not heard
        if stream in self.asleep:
            assert stream._bell.acquire(blocking=False)
            self.asleep.remove(stream)
            self.must_hear.discard(stream)
            self.awake.add(stream)

    def check(self) -> None:
        for a, b in combinations(self.running, 2):
            assert not a.lane.mask & b.lane.mask, "two runs share a core"
        assert not any(stream.ended for stream in self.running)
        for engine in self.engines:
            self.check_engine(engine)

    def check_engine(self, engine: Engine) -> None:
        leases = engine._leases
        streams = [each for port in (*engine._ports, *engine._leaving) for each in (*port.streams, *port.former)]
        leased = [stream.lane.mask for stream in streams if stream.lane.running]
        assert leases.free == leases.cores & ~sum(leased), "what is leased and what runs differ"
        assert sum(mask.bit_count() for mask in leased) <= len(engine.cores)
        available = leases.free
        for group in leases.line:
            for lane in group.idle:
                assert lane.mask & ~available, "it stands in line, and its cores are free"
            for lane in group.idle:
                available &= ~lane.mask
        for port in engine._ports:
            if isinstance(port.source, Line):
                places = [port.source.place[job] for _, job in port.source.waiting]
                assert places == sorted(places), "one overtook another"
            assert all(not lane.out and lane.stream in port.streams for lane in port.group.idle)
            lanes = [stream.lane for stream in (*port.streams, *port.former)]
            assert port.group.running == sum(lane.running for lane in lanes)
            assert port.group.waking == sum(stream.lane.waking for stream in port.streams), "they will not pull"
            watching = [s for s in port.streams if s.alarm is not None and not s.lane.running]
            assert len(watching) <= 1, "two watch the clock"
            assert port.watcher is None or port.watcher.alarm is not None
            assert port.watcher is None or port.watcher in port.streams
            self.check_conserving(port)

    def parked(self, port: Port) -> bool:
        """Whether a run could begin now, and an idle stream that could do it stands in no line."""
        group, source = port.group, port.source
        if not port.attached or not group.idle or group.in_line:
            return False
        return source.batches(self.clock.now(), group.running > 0) > group.waking

    def check_conserving(self, port: Port) -> None:
        """No stream is idle while a run could begin on it, but where that is wanted and somebody sees to its end: runs
        are short and one watches, or time has passed and the one that watches is about to look."""
        if not self.parked(port) or any(stream.rung or stream in self.looked for stream in port.streams):
            return
        assert port.watcher is not None, "work waits, and nobody knows"
        assert port.watcher.alarm is not None
        short = port.typical < SHORT and port.group.running > 0
        assert port.watcher.alarm <= self.clock.now() + (PATIENCE * 1.001 if short else 0.0)

    def check_work(self, port: Port) -> None:
        """No time has passed since the port was touched: its idle streams have been woken, or one waits to join in."""
        if not self.parked(port):
            return
        assert port.group.running, "work waits, and nobody was woken"
        assert port.typical < SHORT, "work waits, a stream is idle, and runs are not short"
        watcher = port.watcher
        if not any(stream.rung for stream in port.streams):  # else one is about to look
            assert watcher is not None, "work waits, and nobody watches"
            assert watcher.alarm is not None
            assert watcher.alarm <= self.clock.now() + PATIENCE * 1.001

    def offer(self, port: Port, job: Job, *, enter: bool = False) -> None:
        if enter:
            assert port.streams[0]._engine.try_enter(port, port.source.add, job)  # type: ignore[attr-defined]
        else:
            port.streams[0]._engine.offer(port, port.source.add, job)  # type: ignore[attr-defined]
        self.check()
        self.check_work(port)

    def replace(self, port: Port, masks: Sequence[int]) -> None:
        """The port has other streams from now on."""
        line, before = port.source, [job for _, job in port.source.waiting]  # type: ignore[attr-defined]
        for stream in port.streams:
            self.happened["replaced before it woke"] += stream.lane.waking
            self.happened["replaced while it watched"] += port.watcher is stream
        self.happened["replaced with a bundle in hand"] += port.bundles > 0
        self.happened["replaced in line"] += port.group.in_line

        def switch() -> None:
            line.streams = len(masks)  # type: ignore[attr-defined]

        replace_streams(port.streams[0]._engine, port, masks, switch)
        after = [job for _, job in line.waiting]  # type: ignore[attr-defined]
        assert {*before} <= {*after}, "what waited was lost"
        self.check()
        self.check_work(port)

    def ports(self) -> list[Port]:
        return [port for engine in self.engines for port in engine._ports]

    def settle_down(self, rng: random.Random) -> None:
        """Until nothing can happen any more, however long one waits."""
        for _ in range(1000):
            while self.able() or self.promised:
                self.something(rng)
            alarms = [s.alarm for s in self.asleep if s.alarm is not None]
            if not alarms:
                break
            self.clock.advance(max(0.0, min(alarms) - self.clock.now()))
        else:
            raise AssertionError("they watch, and look, and never act")
        for port in self.ports():
            assert not self.parked(port), "work waits for ever, and a stream is idle"

    def something(self, rng: random.Random) -> None:
        choices = [*self.able(), *([None] * len(self.promised))]
        if choices:
            choice = rng.choice(choices)
            if choice is None:
                self.hear(rng.choice(self.promised))
            else:
                self.step(choice)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch, cores=4)


def masks_of(rng: random.Random, cores: int) -> list[int]:
    width = rng.choice([1, 1, 2, 4])
    return [Placement(tuple(range(at, at + width))).mask for at in range(0, cores - width + 1, width)]


def explore(stage: Stage, seed: int, pace: str) -> None:
    rng, engine = random.Random(f"{seed} {pace}"), stage.engine
    stage.pace = lambda: PACES[pace](rng)
    ports: list[Port] = []
    for i in range(rng.randint(0, 3)):
        source = Line(rng.choice([1, 1, 2, 4]), rng.choice([0.0, 0.5 * PATIENCE, 0.5, 3.0]))
        ports.append(engine.attach(source, masks_of(rng, 4), f"model{i}"))
    jobs: list[Job] = []
    variables = [Var() for _ in range(3)]
    operations: list[Future[int]] = []
    attached = list(ports)
    drains: list[tuple[Port, threading.Event]] = []
    for _ in range(300):
        event = rng.random()
        if event < 0.2 and ports:
            jobs.append(Job(engine))
            stage.offer(rng.choice(ports), jobs[-1], enter=rng.random() < 0.7)  # also to one that was detached
        elif event < 0.35:
            how = rng.choices("r.w", k=3)
            operations.append(
                engine.push(
                    lambda: 1,
                    reads=[var for var, h in zip(variables, how) if h == "r"],
                    writes=[var for var, h in zip(variables, how) if h == "w"],
                    priority=rng.choice([0, 0, 1, 2.5]),
                    deadline=stage.clock.now() + 1 if rng.random() < 0.1 else None,
                )
            )
            stage.check()
            assert engine._operations is not None
            stage.check_work(engine._operations)
        elif event < 0.4 and jobs + operations:
            rng.choice(jobs + operations).cancel()
        elif event < 0.45:
            stage.clock.advance(rng.choice([0.1 * PATIENCE, PATIENCE, 0.1, 0.5, 2.0]))
        elif event < 0.455 and attached:
            engine.detach(attached.pop(rng.randrange(len(attached))))
        elif event < 0.465 and ports:
            port = rng.choice(ports)
            if port.group.running or not port.source.is_empty():  # `drain`, up to its wait
                port.drained = port.drained or threading.Event()
                drains.append((port, port.drained))
        elif event < 0.475 and stage.running:
            stage.hung.add(rng.choice(sorted(stage.running, key=lambda stream: stream.name)))
        elif event < 0.485:
            stage.hung.clear()
        elif event < 0.51 and ports:
            port = rng.choice(ports)
            if port in attached:
                stage.replace(port, masks_of(rng, 4))
            else:
                with pytest.raises(Closed):
                    stage.replace(port, masks_of(rng, 4))
        else:
            stage.something(rng)
    stage.settle_down(rng)  # round what hangs
    stage.hung.clear()
    closed = rng.random() < 0.5
    if closed:
        engine.close(drain=False)
    stage.settle_down(rng)
    for future in jobs + operations:
        assert future.can_read(), "it was forgotten"
        error = future.exception()
        assert error is None or future.cancelled() or isinstance(error, Closed | DeadlineExceeded | PoisonedVar)
        assert not isinstance(error, Closed) or closed or len(attached) < len(ports)
    assert all(drained.is_set() and port.drained is None for port, drained in drains)
    statistics = engine.statistics()
    assert (statistics.cores_leased, statistics.streams_running) == (0, 0)
    assert statistics.budget.inside == 0
    assert not stage.running
    for port in ports:
        assert {*port.streams} <= (stage.asleep if port in engine._ports else stage.ended)
        assert {*port.former} <= stage.ended
    if closed:
        assert not stage.asleep, "every stream has ended"


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("seed", range(60))
def test_whatever_the_order_every_job_ends_once_and_every_core_comes_back(stage: Stage, seed: int, pace: str) -> None:
    explore(stage, seed, pace)


def test_the_orders_that_are_tried_are_not_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: Counter[str] = Counter()
    for seed in range(60):
        with monkeypatch.context() as patches:
            stage = Stage(patches, cores=4)
            explore(stage, seed, "short")
            happened += stage.happened
    every = (
        "joined in", "retired", "watched on", "bundled", "taken back", "replaced while it ran",
        "replaced before it woke", "replaced while it watched", "replaced with a bundle in hand", "replaced in line",
    )  # fmt: skip
    assert min(happened[what] for what in every) > 5, happened


def test_a_stream_that_is_stopped_before_it_woke_returns_its_cores(stage: Stage) -> None:
    engine, rng = stage.engine, random.Random(0)
    closing = engine.attach(Line(1, 0), [0b1111], "closing")
    staying = engine.attach(Line(1, 0), [0b1111], "staying")
    stage.settle_down(rng)
    first, second = Future[int](), Future[int]()
    engine.offer(closing, closing.source.add, first)  # type: ignore[attr-defined]
    assert stage.promised == [closing.streams[0]]
    engine.offer(staying, staying.source.add, second)  # type: ignore[attr-defined]
    engine.detach(closing)  # it has the cores, and its bell has not rung
    assert isinstance(first.exception(0), Closed)
    stage.settle_down(rng)
    assert second.result(0) == 1
    assert stage.ended == {*closing.streams}


def test_what_the_last_run_makes_ready_is_refused_though_others_wait_for_its_cores(stage: Stage) -> None:
    engine, rng, var = stage.engine, random.Random(0), Var()
    blocker = engine.push(lambda: 1, writes=[var])
    waiting = engine.push(lambda: 2, reads=[var])
    while not stage.running:
        stage.something(rng)
    wide = engine.attach(Line(1, 0), [0b1111], "wide")
    job = Future[int]()
    engine.offer(wide, wide.source.add, job)  # type: ignore[attr-defined]
    assert engine._operations is not None
    engine.detach(engine._operations)
    stage.settle_down(rng)
    assert blocker.result(0) == 1
    assert isinstance(waiting.exception(0), Closed)
    assert job.result(0) == 1


def test_who_drains_hears_of_the_last_run_though_it_gives_the_cores_to_others(stage: Stage) -> None:
    engine, rng = stage.engine, random.Random(0)
    ports = [engine.attach(Line(1, 0), [0b1111], f"model{i}") for i in range(2)]
    for port in ports:
        engine.offer(port, port.source.add, Future())  # type: ignore[attr-defined]
    drained = ports[0].drained = threading.Event()
    while not drained.is_set():
        assert stage.able() or stage.promised, "it waits for ever"
        stage.something(rng)
    assert not ports[0].group.running
    assert ports[0].source.is_empty()
    stage.settle_down(rng)


def test_ports_take_turns_on_the_cores_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, cores=1)
    rng, order = random.Random(0), list[int]()
    ports = [stage.engine.attach(Line(1, 0), [0b1], f"model{i}") for i in range(3)]
    for _ in range(3):
        for i, port in enumerate(ports):
            job = Future[int]()
            job.add_done_callback(lambda _, i=i: order.append(i))
            stage.engine.offer(port, port.source.add, job)  # type: ignore[attr-defined]
    stage.settle_down(rng)
    assert order == [0, 1, 2] * 3


def test_a_stream_outlives_an_outcome_that_cannot_be_delivered(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, rng = stage.engine, random.Random(0)
    port = engine.attach(Line(1, 0), [0b1111], "model")
    jobs = [Future[int](), Future[int]()]
    for job in jobs:
        engine.offer(port, port.source.add, job)  # type: ignore[attr-defined]

    def deliver(batch: Batch) -> None:
        if batch.jobs == jobs[:1]:
            raise SystemExit
        batch.jobs[0].settle(7)

    monkeypatch.setattr(Batch, "deliver", deliver)
    stage.settle_down(rng)
    assert jobs[1].result(0) == 7
    assert engine.statistics().cores_leased == 0


def test_as_many_streams_are_woken_as_there_is_work_for(stage: Stage) -> None:
    port = stage.engine.attach(Line(1, 0), [0b1, 0b10, 0b100, 0b1000], "model")
    stage.settle_down(random.Random(0))
    for woken in 1, 2, 3, 4, 4:
        stage.engine.offer(port, port.source.add, Future())  # type: ignore[attr-defined]
        assert len(stage.promised) == woken
    stage.settle_down(random.Random(0))


def test_the_delay_is_watched_by_one_stream_and_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, cores=3)
    engine, rng = stage.engine, random.Random(0)
    port = engine.attach(Line(4, 0.5), [0b1, 0b10, 0b100], "model")
    stage.settle_down(rng)
    first, second = Future[int](), Future[int]()
    engine.offer(port, port.source.add, first)  # type: ignore[attr-defined]
    stage.hear(stage.promised[0])
    stage.step(stage.able()[0])
    assert len(stage.running) == 1, "one that comes alone is taken at once"
    engine.offer(port, port.source.add, second)  # type: ignore[attr-defined]
    stage.hear(stage.promised[0])
    (watcher,) = stage.awake
    stage.step(watcher)
    assert [stream.alarm for stream in stage.asleep].count(None) == 1, "one of the two idle ones watches the clock"
    assert watcher.alarm == stage.clock.now() + 0.5
    stage.clock.advance(0.5)
    stage.step(watcher)
    assert stage.running[watcher].jobs == [second]  # type: ignore[attr-defined]


def test_a_ring_and_an_alarm_at_once_ring_the_bell_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, cores=1)
    engine = stage.engine
    port = engine.attach(Line(1, 0), [0b1], "model")
    stage.settle_down(random.Random(0))
    (stream,) = port.streams
    # The alarm goes first: until its turn nobody promises it a ring, which it would not hear.
    assert not engine.woke_by_itself(stream)
    engine.offer(port, port.source.add, Future())  # type: ignore[attr-defined]
    assert stage.promised == []
    work = engine.turn(stream, None)
    assert work is not None
    work.run()
    assert engine.turn(stream, work) is None
    # The ring comes first: it must be heard.
    engine.offer(port, port.source.add, Future())  # type: ignore[attr-defined]
    assert stage.promised == [stream]
    assert engine.woke_by_itself(stream)


def test_masks_the_engine_does_not_own_are_refused_and_leave_nothing_behind(stage: Stage) -> None:
    for masks in ([0b10000], [0b1, 0b110000], [0], []):
        with pytest.raises(NotEnoughCores):
            stage.engine.attach(Line(1, 0), masks, "model")
    stage.settle_down(random.Random(0))
    assert not stage.asleep
    assert stage.engine.statistics().ports == 0


# ---- short runs


def after_short_runs(stage: Stage, cores: int, size: int = 1, delay: float = 0.0) -> Port:
    """A port whose runs have been short; its streams sleep."""
    rng = random.Random(0)
    stage.pace = lambda: 0.5 * SHORT
    port = stage.engine.attach(Line(size, delay), [1 << i for i in range(cores)], "model")
    stage.settle_down(rng)
    stage.offer(port, Job(stage.engine), enter=True)
    stage.settle_down(rng)
    assert port.typical == pytest.approx(0.5 * SHORT)
    return port


def hear_all(stage: Stage) -> None:
    while stage.promised:
        stage.hear(stage.promised[0])
    while stage.awake:
        stage.step(min(stage.awake, key=lambda stream: stream.name))


def test_one_stream_does_what_is_short_and_another_watches(stage: Stage) -> None:
    port = after_short_runs(stage, cores=4)
    jobs = [Job(stage.engine) for _ in range(100)]
    for job in jobs:
        stage.offer(port, job, enter=True)
    assert len(stage.promised) == 2, "one that runs and one that watches"
    hear_all(stage)
    ((worker, _),) = stage.running.items()
    assert [s.alarm for s in port.streams if s.alarm is not None] == [stage.clock.now() + PATIENCE]
    while any(not job.can_read() for job in jobs):
        stage.step(worker)
        late = [stream for stream in stage.able() if stream is not worker]
        for stream in late:  # runs have ended since it began to watch: it goes on watching
            stage.step(stream)
            assert stream.alarm == stage.clock.now() + PATIENCE
        assert [*stage.running] in ([worker], [])
        assert stage.promised == []
    assert stage.happened["watched on"] > 0
    stage.settle_down(random.Random(0))
    assert all(stream.alarm is None for stream in port.streams), "nothing to do: nobody watches"


def test_when_no_run_ends_in_time_the_one_that_watches_joins_in_and_then_the_next(stage: Stage) -> None:
    port = after_short_runs(stage, cores=4)
    jobs = [Job(stage.engine) for _ in range(6)]
    for job in jobs:
        stage.offer(port, job, enter=True)
    hear_all(stage)
    for running in 1, 2, 3:
        assert len(stage.running) == running
        stage.hung |= {*stage.running}
        (alarm,) = (stream.alarm for stream in port.streams if stream.alarm is not None)
        assert alarm == stage.clock.now() + PATIENCE
        stage.clock.advance(0.9 * PATIENCE)
        assert stage.able() == [], "it has not been patient for long enough"
        stage.clock.advance(0.2 * PATIENCE)
        (watcher,) = stage.able()
        stage.step(watcher)
        assert watcher in stage.running
        hear_all(stage)
    stage.settle_down(random.Random(0))
    assert len([job for job in jobs if job.can_read()]) == 3, "the fourth stream did them"
    stage.hung.clear()
    stage.settle_down(random.Random(0))
    assert all(job.can_read() for job in jobs)


def test_who_ends_a_short_run_while_another_gets_on_leaves_the_rest_to_it(stage: Stage) -> None:
    port = after_short_runs(stage, cores=2)
    for _ in range(8):
        stage.offer(port, Job(stage.engine), enter=True)
    hear_all(stage)
    (first,) = stage.running
    (second,) = {*port.streams} - {first}
    stage.clock.advance(PATIENCE)
    stage.step(second)
    assert {*stage.running} == {first, second}
    stage.step(second)
    assert second in stage.running, "the other does not get on: its run began too long ago"
    stage.step(first)  # its run ended after all, and the other's has just begun
    assert {*stage.running} == {second}
    assert first.alarm == stage.clock.now() + PATIENCE, "it watches"
    stage.hung.add(second)
    stage.clock.advance(PATIENCE)
    stage.step(first)
    assert first in stage.running
    stage.hung.clear()
    stage.settle_down(random.Random(0))


def test_runs_that_turn_out_long_are_done_by_all_streams_again(stage: Stage) -> None:
    port = after_short_runs(stage, cores=4)
    stage.pace = lambda: 200 * SHORT
    for _ in range(20):
        stage.offer(port, Job(stage.engine), enter=True)
    stage.settle_down(random.Random(0))
    assert port.typical > SHORT
    for _ in range(4):
        stage.offer(port, Job(stage.engine), enter=True)
    assert len(stage.promised) == 4
    stage.settle_down(random.Random(0))


def test_nothing_is_rung_before_its_first_turn_which_it_takes_unasked(stage: Stage) -> None:
    port = stage.engine.attach(Line(1, 0), [0b1, 0b10], "model")
    jobs = [Job(stage.engine) for _ in range(3)]
    for job in jobs:
        stage.offer(port, job, enter=True)
    assert stage.promised == []
    for stream in port.streams:
        stage.step(stream)
    assert {*stage.running} == {*port.streams}
    stage.settle_down(random.Random(0))
    assert all(job.can_read() for job in jobs)


def test_streams_that_are_ended_before_their_first_turn_end_in_it(stage: Stage) -> None:
    port = stage.engine.attach(Line(1, 0), [0b1, 0b10], "model")
    job = Job(stage.engine)
    stage.offer(port, job)
    stage.engine.detach(port)
    assert stage.promised == []
    stage.settle_down(random.Random(0))
    assert stage.ended == {*port.streams}
    assert isinstance(job.exception(0), Closed)
    assert stage.engine.statistics().cores_leased == 0


def test_a_full_batch_does_not_wait_as_long_as_one_that_has_room_for_company(stage: Stage) -> None:
    port = after_short_runs(stage, cores=2, size=2, delay=3.0)
    jobs = [Job(stage.engine) for _ in range(5)]
    stage.offer(port, jobs[0], enter=True)
    hear_all(stage)
    stage.hung |= {*stage.running}
    for job in jobs[1:]:  # the first of them has the idle stream watch for the end of its delay
        stage.offer(port, job, enter=True)
        hear_all(stage)
    assert stage.parked(port)
    (alarm,) = (stream.alarm for stream in port.streams if stream.alarm is not None)
    assert alarm <= stage.clock.now() + PATIENCE
    stage.clock.advance(PATIENCE)
    for stream in stage.able():
        stage.step(stream)
    assert len(stage.running) == 2
    stage.hung.clear()
    stage.settle_down(random.Random(0))


# ---- bundles


def with_a_bundle(stage: Stage, jobs: list[Job], cores: int = 2) -> tuple[Port, Stream, Bundle]:
    """A stream has taken several short runs at a time, and has begun the first of them."""
    port = after_short_runs(stage, cores)
    for job in jobs:
        stage.offer(port, job, enter=True)
    hear_all(stage)
    (worker,) = stage.running
    while not isinstance(bundle := stage.running[worker], Bundle):
        stage.step(worker)
    stage.step(worker)
    return port, worker, bundle


def test_short_runs_are_taken_no_more_at_a_time_than_take_so_long(stage: Stage) -> None:
    _, _, bundle = with_a_bundle(stage, [Job(stage.engine) for _ in range(100)])
    assert len(bundle.left) + 1 == int(BUNDLE / (0.5 * SHORT))


@pytest.mark.parametrize("ran_before", [0, 1, 5])
def test_a_run_that_hangs_in_a_bundle_keeps_nobody_waiting_in_front_of_it_or_behind(
    stage: Stage, ran_before: int
) -> None:
    jobs = [Job(stage.engine) for _ in range(30)]
    port, worker, bundle = with_a_bundle(stage, jobs)
    for _ in range(2 * ran_before):
        stage.step(worker)
    assert len(bundle.ended) == ran_before
    stage.hung.add(worker)
    stage.settle_down(random.Random(0))
    assert sum(not job.can_read() for job in jobs) == 1, "the one that hangs"
    assert port.bundles == 0
    assert all(stream.alarm is None for stream in port.streams), "there is nothing left to watch"
    stage.hung.clear()
    stage.settle_down(random.Random(0))
    assert all(job.can_read() for job in jobs)


def test_what_has_not_begun_in_a_bundle_is_refused_when_its_port_is_detached(stage: Stage) -> None:
    jobs = [Job(stage.engine) for _ in range(30)]
    port, worker, bundle = with_a_bundle(stage, jobs)
    stage.step(worker)  # the first has ended
    stage.step(worker)  # the second runs
    in_hand = len(bundle.left)
    assert in_hand
    stage.engine.detach(port)
    refused = [job for job in jobs if job.can_read() and isinstance(job.exception(), Closed)]
    assert len(refused) >= in_hand, "also while the run before them goes on"
    assert sum(not job.can_read() for job in jobs) == 1, "what had ended was not held back, either"
    stage.settle_down(random.Random(0))
    assert all(job.can_read() for job in jobs)
    assert stage.engine.statistics().budget.inside == 0


def test_what_is_cancelled_in_hand_gives_its_room_back_when_it_is_taken_back(stage: Stage) -> None:
    jobs = [Job(stage.engine) for _ in range(30)]
    _, worker, bundle = with_a_bundle(stage, jobs)
    stage.hung.add(worker)
    gone = bundle.left[0].jobs[0]  # type: ignore[attr-defined]
    assert gone.cancel()
    stage.settle_down(random.Random(0))
    assert stage.engine.statistics().budget.inside == 1
    assert gone.cancelled()


def operations_in_hand(stage: Stage) -> tuple[Stream, list[Future[Any]], list[int], Var]:
    """A bundle of operations, the first of which has begun; each notes that it ran, and reads a Var of all of them."""
    stage.pace = lambda: 0.5 * SHORT
    ran: list[int] = []
    var = Var()
    for _ in range(3):  # until runs are known to be short
        stage.engine.push(lambda: None)
        stage.settle_down(random.Random(0))
    futures = [stage.engine.push(lambda i=i: ran.append(i), reads=[var]) for i in range(30)]
    hear_all(stage)
    (worker,) = stage.running
    while not isinstance(stage.running[worker], Bundle):
        stage.step(worker)
    stage.step(worker)
    return worker, futures, ran, var


@pytest.mark.parametrize("hangs", [False, True])
def test_an_operation_cancelled_in_hand_never_runs_and_leaves_its_vars_free(stage: Stage, hangs: bool) -> None:
    worker, futures, ran, var = operations_in_hand(stage)
    bundle = stage.running[worker]
    assert isinstance(bundle, Bundle)
    gone = bundle.left[3]
    index = futures.index(gone)  # type: ignore[arg-type]
    assert futures[index].cancel()
    if hangs:
        stage.hung.add(worker)
        stage.settle_down(random.Random(0))
        stage.hung.clear()
    stage.settle_down(random.Random(0))
    assert sorted(ran) == [i for i in range(30) if i != index]
    assert (var._readers, var._writing, var.version) == (0, False, 0)
    assert stage.engine.statistics().budget.inside == 0
    assert stage.engine.push(lambda: 1, writes=[var]).cancel(), "nobody holds it"


def test_a_write_cancelled_in_hand_is_no_new_version(stage: Stage) -> None:
    stage.pace = lambda: 0.5 * SHORT
    for _ in range(3):
        stage.engine.push(lambda: None)
        stage.settle_down(random.Random(0))
    variables = [Var() for _ in range(30)]
    futures = [stage.engine.push(lambda: None, writes=[var]) for var in variables]
    hear_all(stage)
    (worker,) = stage.running
    while not isinstance(bundle := stage.running[worker], Bundle):
        stage.step(worker)
    index = futures.index(bundle.left[2])  # type: ignore[arg-type]
    futures[index].cancel()
    stage.settle_down(random.Random(0))
    assert [var.version for var in variables] == [int(i != index) for i in range(30)]


def test_what_is_put_back_keeps_its_place(stage: Stage) -> None:
    worker, _, ran, _ = operations_in_hand(stage)
    stage.hung.add(worker)
    stage.settle_down(random.Random(0))
    assert ran == sorted(ran)
    stage.hung.clear()
    stage.settle_down(random.Random(0))
    assert sorted(ran) == [*range(30)]


@pytest.mark.parametrize("why", ["traced", "bytes are bounded"])
def test_there_are_no_bundles_where_each_run_is_to_be_seen_by_itself(stage: Stage, why: str, tmp_path: Path) -> None:
    port = after_short_runs(stage, cores=2)
    if why == "traced":
        stage.engine.trace(tmp_path / "trace.json")
    if why == "bytes are bounded":
        stage.engine.budget.max_bytes = 1 << 30
    for _ in range(50):
        stage.offer(port, Job(stage.engine))
    hear_all(stage)
    (worker,) = stage.running
    for _ in range(10):
        stage.step(worker)
        assert not any(isinstance(work, Bundle) for work in stage.running.values())
