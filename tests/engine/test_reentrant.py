"""What the collector finalises, and what a signal interrupts, may use the engine though its lock is held right there.

The collector may run at almost any line, and a finaliser does what it likes: it pushes, cancels, closes, raises. It
cannot wait for the lock, which its own thread holds; so it must neither hang nor see, or leave, anything half changed.
The clock here calls the collector while the lock is held; the explorer at the end does so before each line in turn.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

import headrace
from headrace.engine.dependencies import Var
from headrace.engine.engine import Engine
from headrace.engine.future import Future
from headrace.engine.operations import TOMBSTONES
from headrace.engine.source import Refused
from headrace.engine.stream import Stream
from headrace.engine.topology import made_up
from headrace.errors import Cancelled, Closed, HeadraceError
from headrace.testing import FakeClock, Gate

PATIENCE = 30.0
InThreads = Callable[..., Any]
Until = Callable[[Callable[[], object]], None]


class Garbage:
    """Found by the collector alone: it does `act` then."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act, self.me = act, self

    def __del__(self) -> None:
        self.act()


def collect(*acts: Callable[[], object]) -> None:
    for act in acts:
        Garbage(act)
    gc.collect()


class Littered(FakeClock):
    """The engine asks it for the time with its lock held: what was dropped here is collected then."""

    def __init__(self) -> None:
        super().__init__()
        self.engine: Engine | None = None
        self.thread: threading.Thread | None = None  # None: whichever comes first
        self.acts: deque[Callable[[], object]] = deque()

    def drop(self, act: Callable[[], object], thread: threading.Thread | None = None) -> None:
        self.thread = thread
        self.acts.append(act)

    def now(self) -> float:
        engine = self.engine
        here = self.thread in (None, threading.current_thread())
        if self.acts and here and engine is not None and engine.guard.lock._is_owned():  # type: ignore[attr-defined]
            acts = [*self.acts]
            self.acts.clear()
            collect(*acts)
        return super().now()


@pytest.fixture
def clock() -> Littered:
    return Littered()


@pytest.fixture
def engine(clock: Littered) -> Iterator[Engine]:
    engine = clock.engine = Engine(topology=made_up(2), clock=clock)
    yield engine
    engine.close(timeout=PATIENCE)
    assert not clock.acts, "what was dropped was not collected"


@pytest.fixture
def raised(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What finalisers raise: the interpreter tells it, and goes on."""
    raised: list[BaseException] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: raised.append(what.exc_value))
    return raised


# ---- what finalisers do


def test_a_finaliser_pushes_in_the_middle_of_a_push_and_the_order_is_kept(engine: Engine, clock: Littered) -> None:
    var, order = Var(), list[int]()
    inner: list[Future[Any]] = []

    def act() -> None:
        inner.extend(engine.push(lambda i=i: order.append(i), writes=[var]) for i in (1, 2, 3))

    engine.push(int).wait_to_read(PATIENCE)
    clock.drop(act, threading.current_thread())
    engine.push(lambda: order.append(0), writes=[var])
    assert len(inner) == 3
    engine.push(lambda: order.append(4), writes=[var])
    engine.waitall(PATIENCE)
    assert order == [0, 1, 2, 3, 4]
    assert all(future.can_read() for future in inner)


def test_a_finaliser_pushes_in_the_middle_of_a_turn(engine: Engine, clock: Littered) -> None:
    var, order, gate, inner = Var(), list[int](), Gate(), list[Future[Any]]()

    def act() -> None:
        inner.extend(engine.push(lambda i=i: order.append(i), writes=[var]) for i in (1, 2, 3))

    engine.push(lambda: (gate(), order.append(0)), writes=[var])
    gate.wait()
    clock.drop(act)
    gate.open()
    engine.waitall(PATIENCE)
    assert order[:1] == [0]
    for future in inner:
        future.wait_to_read(PATIENCE)
    assert sorted(order) == [0, 1, 2, 3]


def test_a_finaliser_cancels_what_waits_and_what_runs(engine: Engine, clock: Littered, until: Until) -> None:
    for thread in threading.current_thread(), None:  # in a push; in a turn or in a push
        gate, var = Gate(), Var()
        running = engine.push(gate, writes=[var])
        gate.wait()
        waiting = [engine.push(int, writes=[var]) for _ in range(3)]
        heard: list[object] = []
        waiting[0].add_done_callback(heard.append)
        clock.drop(lambda: [future.cancel() for future in (running, waiting[0])], thread)  # noqa: B023
        engine.push(int).wait_to_read(PATIENCE)
        gate.open()
        assert isinstance(running.exception(PATIENCE), Cancelled)
        assert isinstance(waiting[0].exception(PATIENCE), Cancelled)
        assert [future.result(PATIENCE) for future in waiting[1:]] == [0, 0]
        assert heard == waiting[:1]
    engine.waitall(PATIENCE)
    assert engine.statistics().budget.inside == 0


def test_a_weak_reference_that_breaks_may_push_and_cancel(engine: Engine, clock: Littered) -> None:
    class Owner:
        pass

    gate, owner, inner = Gate(), Owner(), list[Future[Any]]()
    owner.me = owner  # type: ignore[attr-defined]
    engine.push(gate)
    gate.wait()
    later = engine.push(int, writes=[Var()])
    weakref.finalize(owner, lambda: (later.cancel(), inner.append(engine.push(lambda: 7))))
    del owner
    clock.drop(int, threading.current_thread())
    engine.push(int)
    gate.open()
    assert inner[0].result(PATIENCE) == 7
    engine.waitall(PATIENCE)


def test_a_finaliser_submits_to_a_model(engine: Engine, clock: Littered) -> None:
    model = headrace.compile_model(None, backend="null", engine=engine)
    answers: list[Any] = []
    model.submit([1]).wait_to_read(PATIENCE)
    clock.drop(lambda: answers.append(model.submit([2])), threading.current_thread())
    first = model.submit([1])
    engine.waitall(PATIENCE)
    assert first.can_read()
    assert answers[0].result(PATIENCE) == [2]
    clock.drop(lambda: answers.append(model.submit([3])))
    engine.push(int).wait_to_read(PATIENCE)
    engine.waitall(PATIENCE)
    assert answers[1].result(PATIENCE) == [3]
    model.close()


def test_a_finaliser_that_raises_costs_nobody_anything(
    engine: Engine, clock: Littered, raised: list[BaseException]
) -> None:
    def act() -> None:
        raise KeyError("a finaliser's own")

    engine.push(int).wait_to_read(PATIENCE)
    for _ in range(3):
        clock.drop(act)
        assert engine.push(lambda: 1).result(PATIENCE) == 1
    assert [type(error) for error in raised] == [KeyError] * 3


def test_a_callback_of_what_a_finaliser_cancels_may_push_and_raise(
    engine: Engine, clock: Littered, caplog: pytest.LogCaptureFixture
) -> None:
    gate, var, inner = Gate(), Var(), list[Future[Any]]()
    engine.push(gate, writes=[var])
    gate.wait()
    waiting = engine.push(int, writes=[var])

    def callback(_: object) -> None:
        inner.append(engine.push(lambda: 7, writes=[var]))
        raise KeyError("a callback's own")

    waiting.add_done_callback(callback)
    clock.drop(waiting.cancel, threading.current_thread())
    engine.push(int)
    assert "a callback of a future raised" in caplog.text
    gate.open()
    assert inner[0].result(PATIENCE) == 7


def test_what_runs_returns_may_push_when_it_dies(engine: Engine) -> None:
    """No collector: the value of an operation that was cancelled while it ran is let go of under the lock."""
    gate, inner = Gate(), list[Future[Any]]()

    class Value:
        def __del__(self) -> None:
            inner.append(engine.push(lambda: 7))

    def run() -> Value:
        gate()
        return Value()

    future = engine.push(run)
    gate.wait()
    future.cancel()
    gate.open()
    engine.waitall(PATIENCE)
    engine.push(int).wait_to_read(PATIENCE)
    assert inner[0].result(PATIENCE) == 7


# ---- nobody waits with the lock held


@pytest.fixture
def no_wait_with_the_lock(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits with the engine's lock held, which would be for ever, raises instead."""

    def check() -> None:
        assert not engine.guard.lock._is_owned(), "it waits with the lock held"  # type: ignore[attr-defined]

    class Lock:
        def __init__(self) -> None:
            self._lock = threading.Lock()
            self.release = self._lock.release

        def acquire(self, *args: Any, **kwargs: Any) -> bool:
            if not self._lock.acquire(blocking=False):
                check()
                return self._lock.acquire(*args, **kwargs)
            return True

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if not self.is_set():
                check()
            return super().wait(timeout)

    join = Stream.join
    monkeypatch.setattr(Stream, "join", lambda stream, timeout=None: (check(), join(stream, timeout)))
    for module in "admission", "future", "finished":
        watched = SimpleNamespace(**{**vars(threading), "Lock": Lock})
        monkeypatch.setattr(f"headrace.engine.{module}.threading", watched)
    watched = SimpleNamespace(**{**vars(threading), "Event": Event})
    monkeypatch.setattr("headrace.engine.dispatch.threading", watched)


@pytest.mark.usefixtures("no_wait_with_the_lock")
@pytest.mark.parametrize(
    "what",
    [
        pytest.param(lambda engine, inside: engine.close(), id="close"),
        pytest.param(lambda engine, inside: engine.close(drain=False), id="close at once"),
        pytest.param(lambda engine, inside: engine.waitall(), id="waitall"),
        pytest.param(lambda engine, inside: inside.wait_to_read(), id="wait_to_read"),
        pytest.param(lambda engine, inside: engine.poll(timeout=1000), id="poll"),
        pytest.param(lambda engine, inside: engine.detach(engine._operations), id="detach"),
        pytest.param(lambda engine, inside: engine.drain(engine._operations), id="drain"),
    ],
)
def test_a_finaliser_that_would_wait_is_refused_or_does_not_wait(
    engine: Engine, clock: Littered, raised: list[BaseException], what: Callable[[Engine, Future[Any]], object]
) -> None:
    gate = Gate()
    inside = engine.push(gate)
    gate.wait()
    try:
        clock.drop(lambda: what(engine, inside), threading.current_thread())
        engine.push(int)
    finally:
        gate.open()
    assert all(isinstance(error, HeadraceError) for error in raised), raised
    engine.close(timeout=PATIENCE)
    assert inside.can_read()


@pytest.mark.parametrize("how", ["finaliser", "signal"])
def test_a_push_in_the_middle_of_a_push_does_not_wait_for_room(
    clock: Littered, raised: list[BaseException], monkeypatch: pytest.MonkeyPatch, how: str, request: Any
) -> None:
    engine = clock.engine = Engine(topology=made_up(2), clock=clock, max_operations=2)
    refused: list[BaseException] = []

    def push(*_: object) -> None:
        try:
            engine.push(int)
        except BaseException as error:
            refused.append(error)

    monkeypatch.setattr("headrace.engine.admission.threading", SimpleNamespace(**vars(threading)))
    gate = Gate()

    class Lock:
        """Whoever would wait here waits with the lock held."""

        release = staticmethod(int)

        def acquire(self, timeout: float | None = None) -> bool:
            assert timeout is None or not engine.guard.lock._is_owned()  # type: ignore[attr-defined]
            return True

    before = signal.signal(signal.SIGUSR1, push)
    try:
        engine.push(gate)
        gate.wait()
        monkeypatch.setattr("headrace.engine.admission.threading.Lock", Lock)
        clock.drop(push if how == "finaliser" else lambda: signal.raise_signal(signal.SIGUSR1), threading.main_thread())
        engine.push(int)
    finally:
        signal.signal(signal.SIGUSR1, before)
        gate.open()
        monkeypatch.setattr("headrace.engine.admission.threading.Lock", threading.Lock)
        engine.close(timeout=PATIENCE)
    assert len(refused) == 1
    assert isinstance(refused[0], HeadraceError)


# ---- what was put off


def test_what_was_put_off_enters_in_its_order_though_two_threads_look_after_it(
    engine: Engine, clock: Littered, in_threads: InThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    var, order, gate = Var(), list[int](), Gate()
    engine.push(int).wait_to_read(PATIENCE)
    offer = Engine.offer

    def slow(self: Engine, *args: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            gate()  # the main thread has taken the first one out, and is not quick to put it in
        offer(self, *args)

    monkeypatch.setattr(Engine, "offer", slow)

    def act() -> None:
        for i in 1, 2:
            engine.push(lambda i=i: order.append(i), writes=[var])

    def another() -> None:
        gate.wait()
        try:
            engine.push(int).wait_to_read(PATIENCE)
        finally:
            gate.open()

    crowd = in_threads(another)
    clock.drop(act, threading.current_thread())
    engine.push(int)
    gate._reached.release()  # where nothing was put off until later, nobody comes by the gate
    crowd.join()
    engine.waitall(PATIENCE)
    assert order == [1, 2]


def test_what_was_put_off_and_cancelled_meanwhile_costs_nobody_anything(engine: Engine, clock: Littered) -> None:
    gate, var = Gate(), Var()
    engine.push(gate, writes=[var])
    gate.wait()
    for _ in range(TOMBSTONES - 1):
        engine.push(int, writes=[var]).cancel()
    cancelled: list[Future[Any]] = []

    def act() -> None:
        cancelled.append(engine.push(int, writes=[var]))
        cancelled[0].cancel()

    clock.drop(act, threading.current_thread())
    last = engine.push(lambda: 7, writes=[var])  # then it is found that there are many tombstones
    gate.open()
    assert last.result(PATIENCE) == 7
    assert cancelled[0].cancelled()
    engine.waitall(PATIENCE)


class Line:
    """A Source that is in the middle of things while the collector runs."""

    def __init__(self) -> None:
        self.waiting: list[Future[Any]] = []
        self.error: BaseException | None = None
        self.inside = self.entered_twice = False
        self.collect: Callable[[], object] = int

    def _in_the_middle(self) -> None:
        self.entered_twice |= self.inside
        self.inside = True
        collect, self.collect = self.collect, int
        collect()
        self.inside = False

    def add(self, job: Future[Any], now: float) -> None:
        self._in_the_middle()
        self.waiting.append(job)

    def batches(self, now: float, busy: bool) -> int:
        return 0

    def pull(self, now: float, busy: bool, stream: int, refused: Refused) -> None:
        self._in_the_middle()
        if self.error is not None:
            refused += [(job, self.error) for job in self.waiting]
            self.waiting.clear()

    def next_deadline(self) -> None:
        return None

    def is_empty(self) -> bool:
        return not self.waiting

    def refuse_behind(self, running: object, refused: object) -> None:
        pass

    def abandon(self, error: BaseException) -> None:
        self._in_the_middle()
        self.error = error


def test_a_source_in_the_middle_of_an_add_is_not_entered_again(engine: Engine) -> None:
    source, jobs = Line(), [Future[Any]() for _ in range(2)]
    port = engine.attach(source, [0b1], "line")  # type: ignore[arg-type]
    source.collect = lambda: collect(lambda: engine.offer(port, source.add, jobs[1]))
    engine.offer(port, source.add, jobs[0])
    assert source.waiting == jobs
    assert not source.entered_twice
    engine.detach(port)
    assert all(isinstance(job.exception(0), Closed) for job in jobs)


def test_a_source_in_the_middle_of_being_abandoned_is_not_entered_again(engine: Engine) -> None:
    source, jobs = Line(), [Future[Any]() for _ in range(2)]
    port = engine.attach(source, [0b1], "line")  # type: ignore[arg-type]
    engine.offer(port, source.add, jobs[0])
    source.collect = lambda: collect(lambda: engine.offer(port, source.add, jobs[1]))
    engine.detach(port)
    assert all(isinstance(job.exception(0), Closed) for job in jobs)
    assert not source.entered_twice


# ---- signals


def test_a_signal_handler_pushes_in_the_middle_of_a_push(engine: Engine, clock: Littered) -> None:
    var, order = Var(), list[int]()

    def handler(*_: object) -> None:
        for i in 1, 2:
            engine.push(lambda i=i: order.append(i), writes=[var])

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        engine.push(int).wait_to_read(PATIENCE)
        for _ in range(20):
            clock.drop(lambda: signal.raise_signal(signal.SIGUSR1), threading.main_thread())
            engine.push(lambda: order.append(0), writes=[var])
    finally:
        signal.signal(signal.SIGUSR1, before)
    engine.waitall(PATIENCE)
    assert order == [0, 1, 2] * 20


# ---- before each line


class Alone:
    """An engine without threads: `drive` does what its streams do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.rung: deque[Stream] = deque()
        thread = lambda target, name, daemon: SimpleNamespace(  # noqa: E731
            name=name, ident=0, start=lambda: self.rung.append(target.__self__), join=lambda timeout=None: None
        )
        threads = SimpleNamespace(Thread=thread, Lock=threading.Lock, current_thread=threading.current_thread)
        monkeypatch.setattr("headrace.engine.stream.threading", threads)
        monkeypatch.setattr(Stream, "ring", lambda stream: self.rung.append(stream))
        self.engine = Engine(topology=made_up(2), clock=FakeClock(), **options)
        self.interrupted = False

    def drive(self) -> None:
        while self.rung:
            stream = self.rung.popleft()
            work = self.engine.turn(stream, None)
            while work is not None:
                work.run()
                work = self.engine.turn(stream, work)

    def interrupt(self, at: int, program: Callable[[], object], act: Callable[[], object]) -> bool:
        """Do `program`, and `act` before the line `at` of what the engine does with its lock held. False: it is over
        before."""
        left = at
        lock = self.engine.guard.lock

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal left
            if "headrace/engine" not in frame.f_code.co_filename:
                return None
            if event == "line" and left >= 0 and lock._is_owned():  # type: ignore[attr-defined]
                if left == 0:
                    act()  # what is called from here is not traced
                left -= 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            program()
        finally:
            sys.settrace(before)
        return left < 0


ACTS = [
    "push",
    "push and cancel",
    pytest.param("cancel one that waits"),
    pytest.param("cancel the one that comes"),
    pytest.param("cancel all"),
]


@pytest.mark.parametrize("act", ACTS)
def test_before_whatever_line_it_happens_nothing_is_lost_and_the_order_is_kept(
    monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    at, there_is_more = 0, True
    while there_is_more:
        with monkeypatch.context() as patches:
            alone = Alone(patches)
            engine = alone.engine
            var, other = Var(), Var()
            order: list[str] = []
            pushed: list[Future[Any]] = []
            named: dict[str, Future[Any]] = {}

            def push(name: str, **how: Any) -> None:
                future = engine.push(lambda: order.append(name), **{"writes": [var], **how})  # noqa: B023
                pushed.append(future)  # noqa: B023
                named[name] = future  # noqa: B023

            def finalise() -> None:
                if "push" in act:
                    push("x")
                    push("y")
                if act == "push and cancel":
                    pushed[-2].cancel()  # noqa: B023
                elif act == "cancel one that waits":
                    pushed[1].cancel()  # noqa: B023
                elif act == "cancel the one that comes":
                    pushed[-1].cancel()  # noqa: B023
                elif act == "cancel all":
                    for future in pushed:  # noqa: B023
                        future.cancel()

            def program() -> None:
                push("a")
                push("b", reads=[other])  # noqa: B023
                push("c", priority=2)
                alone.drive()  # noqa: B023
                push("d", reads=[var], writes=[other])  # noqa: B023
                push("e")
                alone.drive()  # noqa: B023

            engine.push(int)
            alone.drive()
            pushed += [engine.push(int, writes=[other]), engine.push(int, writes=[other])]
            there_is_more = alone.interrupt(at, program, finalise)
            alone.drive()
            last = engine.push(lambda: 7, reads=[var], writes=[other])
            alone.drive()
            where = f"before line {at}"
            assert last.can_read(), where
            assert last.result(0) == 7, where
            for future in pushed:
                assert future.can_read(), where
                assert future.cancelled() or future.exception(0) is None, where
            main = [name for name in order if name in "abcde"]
            assert main == sorted(main), where
            assert len(order) == len({*order}), where
            for name, future in named.items():  # one that is cancelled may run all the same: it had begun
                assert future.cancelled() or name in order, where
            if act == "push" and there_is_more:
                assert order.index("x") < order.index("y"), where
                assert len(order) == 7, where
            statistics = engine.statistics()
            assert statistics.budget.inside == 0, where
            assert statistics.cores_leased == 0, where
            assert not engine._later, where
            at += 1
    assert at > 200, "the lines that hold the lock"
