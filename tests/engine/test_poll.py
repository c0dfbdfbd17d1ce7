"""`engine.poll`: what has ended and nobody has looked at, in the order it ended."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import headrace as hr
from headrace.engine import finished
from headrace.engine.engine import Engine
from headrace.engine.future import Future
from headrace.engine.naive import NaiveEngine
from headrace.engine.topology import made_up
from headrace.errors import Cancelled, Closed, DeadlineExceeded, InvalidOption, Overloaded, PoisonedVar, WouldDeadlock
from headrace.testing import FakeClock, Gate

PATIENCE = 30.0
InThreads = Callable[..., Any]
Until = Callable[[Callable[[], object]], None]
before_and_after = pytest.mark.parametrize("polled_before", [True, False], ids=["polled before", "the first poll"])


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(topology=made_up(cores=3)) as engine:
        yield engine
        for future in list(engine._unseen):  # what a test made fail on purpose
            future.exception()


@pytest.fixture
def narrow() -> Iterator[Engine]:
    """One core: one run at a time."""
    with Engine(topology=made_up(cores=1)) as engine:
        yield engine
        for future in list(engine._unseen):
            future.exception()


def ended(*futures: Future[Any]) -> None:
    """Waits for their ends, and looks at none of them."""
    for future in futures:
        gone = threading.Event()
        future.add_done_callback(lambda _, gone=gone: gone.set())
        assert gone.wait(PATIENCE)


def fail() -> None:
    raise ValueError("on purpose")


# ---- what it hands out


@before_and_after
def test_futures_come_in_the_order_they_ended_not_in_that_they_were_pushed(engine: Engine, polled_before: bool) -> None:
    if polled_before:
        assert engine.poll() == []
    gates = [Gate() for _ in range(3)]
    a, b, c = (engine.push(gate) for gate in gates)
    for gate in gates:
        gate.wait()
    for gate, future in ((gates[2], c), (gates[0], a), (gates[1], b)):
        gate.open()
        ended(future)
    assert engine.poll() == [c, a, b]


@before_and_after
def test_at_most_max_n_come_and_the_others_the_next_time(narrow: Engine, polled_before: bool) -> None:
    if polled_before:
        assert narrow.poll() == []
    futures = [narrow.push(lambda: None) for _ in range(5)]
    ended(*futures)
    assert narrow.poll(0) == []
    assert narrow.poll(2) == futures[:2]
    assert narrow.poll(max_n=2, timeout=PATIENCE) == futures[2:4]
    assert narrow.poll() == futures[4:]
    assert narrow.poll() == []


@pytest.mark.parametrize("max_n", [-1, 1.5, "3"])
def test_a_max_n_that_is_no_count_is_refused(engine: Engine, max_n: Any) -> None:
    with pytest.raises(InvalidOption, match="max_n"):
        engine.poll(max_n)
    assert engine.guard.finished is None, "nothing was started"


@before_and_after
def test_what_was_looked_at_is_not_handed_out(narrow: Engine, polled_before: bool) -> None:
    if polled_before:
        assert narrow.poll() == []

    async def awaited(future: Future[Any]) -> None:
        await future

    futures = [narrow.push(lambda: None) for _ in range(4)]
    failures = [narrow.push(fail) for _ in range(3)]
    ended(*futures, *failures)
    futures[0].result()
    asyncio.run(awaited(futures[1]))
    failures[0].exception()
    with pytest.raises(ValueError, match="on purpose"):
        failures[1].wait_to_read()
    # To wait, and to ask whether it is there, is not to look.
    futures[2].wait_to_read()
    assert futures[2].can_read()
    assert narrow.poll() == [futures[2], futures[3], failures[2]]


@before_and_after
def test_what_failed_or_was_never_run_is_handed_out_too(polled_before: bool) -> None:
    clock, var, gate = FakeClock(), hr.Var("v"), Gate()
    with Engine(topology=made_up(cores=1), clock=clock) as engine:
        if polled_before:
            assert engine.poll() == []
        failed = engine.push(lambda: (gate(), fail()), writes=[var])
        gate.wait()
        late = engine.push(lambda: None, deadline=clock.now() + 1)
        poisoned = engine.push(lambda: None, reads=[var])
        cancelled = engine.push(lambda: None)
        assert cancelled.cancel()
        clock.advance(2)
        gate.open()
        ended(failed, late, poisoned)
        found = engine.poll()
        assert len(found) == 4
        assert {type(future.exception()) for future in found} == {ValueError, DeadlineExceeded, PoisonedVar, Cancelled}
        assert set(found) == {failed, late, poisoned, cancelled}


def test_the_first_poll_knows_when_a_future_was_cancelled() -> None:
    clock, gate = FakeClock(), Gate()
    with Engine(topology=made_up(cores=1), clock=clock) as engine:
        first = engine.push(lambda: 1)
        ended(first)
        second = engine.push(gate)
        gate.wait()
        cancelled = engine.push(lambda: 3)
        clock.advance(1)
        cancelled.cancel()
        clock.advance(1)
        gate.open()
        ended(second)
        assert engine.poll() == [first, cancelled, second]


def test_a_cancelled_future_comes_when_it_is_cancelled_and_not_again_when_its_run_ends(narrow: Engine) -> None:
    assert narrow.poll() == []
    gate = Gate()
    running = narrow.push(gate)
    gate.wait()
    assert running.cancel()
    assert narrow.poll() == [running]
    gate.open()
    narrow.push(lambda: None).result(PATIENCE)
    assert narrow.poll() == []


def test_what_was_shed_or_refused_by_close_is_handed_out() -> None:
    gate = Gate()
    engine = Engine(topology=made_up(cores=1), max_operations=2, on_full="shed")
    assert engine.poll() == []
    running = engine.push(gate)
    gate.wait()
    shed = engine.push(lambda: None)
    refused = engine.push(lambda: None, priority=1)
    assert engine.poll() == [shed]
    closing = threading.Thread(target=engine.close, kwargs={"drain": False})
    closing.start()
    assert engine.poll(timeout=PATIENCE) == [refused]
    gate.open()
    closing.join(PATIENCE)
    assert engine.poll() == [running], "also when the engine is closed"
    assert isinstance(shed.exception(), Overloaded)
    assert isinstance(refused.exception(), Closed)


def test_a_future_is_handed_out_once_though_nobody_reads_it(narrow: Engine) -> None:
    future = narrow.push(lambda: None)
    ended(future)
    assert narrow.poll() == [future]
    other = narrow.push(lambda: None)
    ended(other)
    assert narrow.poll() == [other]


@before_and_after
def test_futures_the_caller_has_let_go_of_are_not_handed_out(narrow: Engine, polled_before: bool) -> None:
    if polled_before:
        assert narrow.poll() == []
    narrow.push(lambda: None)
    kept = narrow.push(lambda: None)
    narrow.push(lambda: None)
    last = narrow.push(lambda: None)
    ended(last)  # the stream has none of those before it in hand any more
    assert narrow.poll() == [kept, last]


def test_a_future_is_not_kept_for_a_poll_that_may_never_come(narrow: Engine) -> None:
    class Value:
        pass

    assert narrow.poll() == []
    future = narrow.push(Value)
    last = narrow.push(lambda: None)
    ended(future, last)
    gone, value = weakref.ref(future), weakref.ref(future._value)
    del future
    assert gone() is None
    assert value() is None


def test_model_requests_and_operations_come_together_in_the_order_they_ended(narrow: Engine) -> None:
    assert narrow.poll() == []
    gate = Gate()
    with (
        hr.compile_model(lambda xs: xs, engine=narrow, max_batch_size=4) as joined,
        hr.compile_model(lambda x: x, engine=narrow) as single,
    ):
        first = narrow.push(gate)
        gate.wait()
        batch = [joined.submit(i) for i in range(4)]
        alone = single.submit(4)
        gate.open()
        ended(first, *batch, alone)
        last = narrow.push(lambda: None)
        ended(last)
        assert narrow.poll() == [first, *batch, alone, last]
        assert joined.statistics().runs == 1


def test_a_model_request_that_was_cancelled_or_failed_is_handed_out(narrow: Engine) -> None:
    assert narrow.poll() == []
    gate = Gate()
    with hr.compile_model(lambda x: (gate(), 1 / x)[1], engine=narrow) as model:
        failed = model.submit(0)
        gate.wait()
        cancelled = model.submit(1)
        cancelled.cancel()
        gate.open()
        ended(failed)
        assert narrow.poll() == [cancelled, failed]
        assert model(2) == 0.5
        assert narrow.poll() == [], "who called has read it"


def test_engines_do_not_see_each_others(narrow: Engine, engine: Engine) -> None:
    assert narrow.poll() == []
    mine, others = narrow.push(lambda: None), engine.push(lambda: None)
    ended(mine, others)
    assert narrow.poll() == [mine]
    assert engine.poll() == [others], "nor the first time, when it looks through all there are"


def test_the_naive_engine_can_be_polled_too() -> None:
    engine = NaiveEngine()
    first = engine.push(lambda: 1)
    futures = [first, engine.push(fail), engine.push(lambda: 3), engine.push(lambda: 4)]
    assert futures[2].result() == 3
    assert engine.poll(1) == [first]
    assert engine.poll(timeout=0.001) == [futures[1], futures[3]]
    with pytest.raises(ValueError, match="on purpose"):
        futures[1].result()
    assert engine.poll() == []


# ---- waiting


def test_poll_without_a_timeout_returns_though_nothing_has_ended(narrow: Engine) -> None:
    gate = Gate()
    future = narrow.push(gate)
    gate.wait()
    assert narrow.poll() == []
    assert narrow.poll(timeout=0.001) == [], "nor does one with a timeout wait for ever"
    assert narrow.poll(0, timeout=PATIENCE) == [], "and who wants nothing need not wait for it"
    gate.open()
    ended(future)


def test_poll_waits_for_the_first_that_ends(narrow: Engine, in_threads: InThreads, until: Until) -> None:
    gate, found = Gate(), []
    future = narrow.push(gate)
    gate.wait()
    poller = in_threads(lambda: found.extend(narrow.poll(timeout=PATIENCE)))
    until(lambda: narrow.guard.finished is not None and narrow.guard.finished._pollers)
    assert not found
    gate.open()
    poller.join()
    assert found == [future]


def test_of_two_that_wait_each_gets_one(engine: Engine, in_threads: InThreads, until: Until) -> None:
    assert engine.poll() == []
    gates, found = [Gate(), Gate()], []
    futures = [engine.push(gate) for gate in gates]
    for gate in gates:
        gate.wait()

    def poll() -> None:
        found.append(engine.poll(1, timeout=PATIENCE))

    pollers = in_threads(poll, poll)
    waiting = engine.guard.finished
    assert waiting is not None
    until(lambda: len(waiting._pollers) == 2)
    gates[0].open()
    until(lambda: len(found) == 1 and len(waiting._pollers) == 1)  # the other one waits on
    gates[1].open()
    pollers.join()
    assert found == [[futures[0]], [futures[1]]]


def test_who_waits_hears_what_is_refused_when_the_engine_is_closed(in_threads: InThreads, until: Until) -> None:
    engine, gate = Engine(topology=made_up(cores=1)), Gate()
    running = engine.push(gate)
    gate.wait()
    refused, found = engine.push(lambda: None), []
    poller = in_threads(lambda: found.extend(engine.poll(timeout=PATIENCE)))
    until(lambda: engine.guard.finished is not None and engine.guard.finished._pollers)
    closing = in_threads(lambda: engine.close(drain=False))
    poller.join()
    gate.open()
    closing.join()
    assert found == [refused]
    assert running.can_read()
    assert isinstance(refused.exception(), Closed)


def test_whose_time_is_up_leaves_nothing_behind(narrow: Engine) -> None:
    assert narrow.poll(timeout=0.001) == []
    assert narrow.guard.finished is not None
    assert narrow.guard.finished._pollers == []


# ---- streams and callbacks


def test_poll_on_a_stream_may_look_but_not_wait(engine: Engine) -> None:
    ready = engine.push(lambda: None)
    ended(ready)
    assert engine.push(lambda: engine.poll(timeout=PATIENCE)).result(PATIENCE) == [ready]
    assert engine.push(engine.poll).result(PATIENCE) == []
    waits = engine.push(lambda: engine.poll(timeout=PATIENCE))
    with pytest.raises(WouldDeadlock):
        waits.result(PATIENCE)


def test_who_may_not_wait_leaves_nothing_behind(engine: Engine) -> None:
    def refused() -> int:
        with pytest.raises(WouldDeadlock):
            engine.poll(timeout=PATIENCE)
        assert engine.guard.finished is not None
        return len(engine.guard.finished._pollers)

    assert engine.push(refused).result(PATIENCE) == 0


def test_a_callback_may_poll(narrow: Engine) -> None:
    assert narrow.poll() == []
    gate, found = Gate(), []
    future = narrow.push(gate)
    gate.wait()
    future.add_done_callback(lambda _: found.append(narrow.poll()))
    gate.open()
    ended(future)
    assert found == [[future]]
    assert narrow.poll() == []


# ---- several threads


def test_two_threads_that_poll_share_the_futures_between_them(engine: Engine, in_threads: InThreads) -> None:
    assert engine.poll() == []
    count, found = 300, [[], []]
    futures: list[Future[int]] = []

    def collect(mine: list[Future[int]]) -> Callable[[], None]:
        def poll() -> None:
            while len(found[0]) + len(found[1]) < count:
                mine.extend(engine.poll(2, timeout=0.01))

        return poll

    pollers = in_threads(*(collect(mine) for mine in found))
    for i in range(count):
        futures.append(engine.push(lambda i=i: i))
    pollers.join()
    assert sorted(future.result() for future in found[0] + found[1]) == list(range(count))


def test_two_first_polls_at_once_hand_out_each_future_once(
    engine: Engine, in_threads: InThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    future, gate, found = engine.push(lambda: None), Gate(), []
    ended(future)
    objects, here, quick_is_back = gc.get_objects, threading.local(), threading.Event()

    def get_objects() -> list[Any]:
        if getattr(here, "slow", False):
            gate()
        return objects()

    def slow() -> None:
        here.slow = True
        found.extend(engine.poll())

    def quick() -> None:
        found.extend(engine.poll())
        quick_is_back.set()

    monkeypatch.setattr(gc, "get_objects", get_objects)
    first = in_threads(slow)
    gate.wait()
    second = in_threads(quick)
    quick_is_back.wait(0.1)  # it need not be: it may wait for the slow one
    gate.open()
    first.join()
    second.join()
    assert found == [future]


def test_what_ends_while_the_first_poll_looks_round_is_found(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    objects, meanwhile = gc.get_objects, []
    engine.push(int).result(PATIENCE)  # its streams are there: making them takes a lock that comes before the engine's

    def get_objects() -> list[Any]:
        there = objects()
        meanwhile.append(engine.push(lambda: None))
        if not engine.guard.lock._is_owned():  # else it cannot end before the look is over
            ended(meanwhile[0])
        return there

    monkeypatch.setattr(gc, "get_objects", get_objects)
    assert engine.poll(timeout=PATIENCE) == meanwhile


# ---- the first poll looks through objects that are not ours


class Thing:
    pass


class Local:
    """As the proxies of web frameworks are."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise RuntimeError("outside of a request")


def dead_proxy() -> Any:
    return weakref.proxy(Thing())


def half_made() -> Any:
    """Another thread may be about to make a future."""
    return Future.__new__(Future)


@pytest.mark.parametrize("strange", [dead_proxy, Local, half_made])
def test_the_first_poll_is_not_disturbed_by_what_else_there_is(narrow: Engine, strange: Callable[[], Any]) -> None:
    future = narrow.push(lambda: None)
    ended(future)
    thing, found, problem = strange(), [], ""
    try:
        found = narrow.poll()
    except Exception as error:
        problem = repr(error)  # without its traceback, which would keep the thing for the tests that follow
    del thing
    assert found == [future], problem


# ---- memory


def test_who_never_polls_has_nothing_kept_for_it(narrow: Engine) -> None:
    ended(narrow.push(lambda: None))
    assert narrow.guard.finished is None


@pytest.mark.parametrize("kept", [False, True], ids=["let go of", "read"])
def test_nothing_piles_up_when_nobody_polls_any_more(
    narrow: Engine, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished, "SWEEP_AT", 64)
    assert narrow.poll() == []
    futures = []
    for _ in range(10):
        some = [narrow.push(lambda: None) for _ in range(64)]
        for future in some:
            future.result(PATIENCE)
        if kept:
            futures.append(some)
    del some, future
    assert narrow.guard.finished is not None
    assert len(narrow.guard.finished._refs) <= 2 * 64


def test_what_nobody_has_read_survives_the_sweeps(narrow: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished, "SWEEP_AT", 16)
    assert narrow.poll() == []
    futures = [narrow.push(lambda: None) for _ in range(200)]
    ended(*futures)
    for future in futures[::3]:
        future.result()
    more = [narrow.push(lambda: None) for _ in range(100)]
    ended(*more)
    assert narrow.poll() == [future for i, future in enumerate(futures) if i % 3] + more
