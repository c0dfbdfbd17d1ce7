import asyncio
import gc
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import headrace as hr
from headrace.engine.admission import Budget
from headrace.engine.dependencies import accesses
from headrace.engine.engine import Engine
from headrace.engine.future import Future
from headrace.engine.operations import Operation, OperationSource
from headrace.engine.topology import made_up
from headrace.errors import (
    Cancelled,
    Closed,
    DeadlineExceeded,
    InvalidOption,
    Overloaded,
    PoisonedVar,
    WouldDeadlock,
)
from headrace.testing import FakeClock, Gate

PATIENCE = 30.0
HERE = (lambda: None).__code__
InThreads = Callable[..., Any]
Until = Callable[[Callable[[], object]], None]


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(topology=made_up(cores=2)) as engine:
        yield engine
        for future in list(engine._unseen):  # what a test made fail on purpose
            future.exception()


@pytest.fixture
def narrow() -> Iterator[Engine]:
    """One core: one operation at a time, so that order is all there is."""
    with Engine(topology=made_up(cores=1), clock=FakeClock()) as engine:
        yield engine


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("headrace-")]


# ---- push


def test_push_returns_at_once_and_the_future_has_what_the_function_returned(engine: Engine) -> None:
    gate = Gate()
    future = engine.push(lambda: (gate(), 7)[1])
    gate.wait()
    assert not future.can_read()
    assert repr(future) == "<Operation running>"
    gate.open()
    assert future.result(PATIENCE) == 7


def test_operations_without_common_vars_run_side_by_side(engine: Engine) -> None:
    meet = threading.Barrier(2)
    both = [engine.push(lambda: meet.wait(PATIENCE), writes=[hr.Var()]) for _ in range(2)]
    assert sorted(future.result(PATIENCE) for future in both) == [0, 1]


def test_readers_run_together_and_a_writer_alone(engine: Engine) -> None:
    var, meet, inside = hr.Var(), threading.Barrier(2), []

    def alone() -> None:
        inside.append("in")
        assert inside.count("in") - inside.count("out") == 1
        inside.append("out")

    for _ in range(5):
        engine.push(alone, writes=[var])
        for _ in range(2):
            engine.push(lambda: meet.wait(PATIENCE), reads=[var])
        engine.push(alone, reads=[var], writes=[var])
    engine.waitall(PATIENCE)
    assert inside == ["in", "out"] * 10
    assert var.version == 10


def test_what_is_not_a_function_a_var_or_a_number_is_refused_and_holds_nothing(narrow: Engine) -> None:
    var = hr.Var()
    push: Any = narrow.push
    for wrong in (
        lambda: push(3),
        lambda: push(None, writes=[var]),
        lambda: push(int, writes=var),
        lambda: push(int, reads=[var, 3]),
        lambda: push(int, writes=[var], priority="high"),
        lambda: push(int, writes=[var], priority=None),
        lambda: push(int, writes=[var], priority=float("nan")),
        lambda: push(int, writes=[var], priority=1j),
        lambda: push(int, writes=[var], deadline="soon"),
        lambda: push(int, writes=[var], deadline=float("nan")),
    ):
        with pytest.raises(TypeError):
            wrong()
    assert narrow.statistics().budget.inside == 0
    assert push(int, writes=[var], priority=2.5, deadline=1e9).result(PATIENCE) == 0


def test_an_error_reaches_every_reader_and_what_depends_on_it(engine: Engine) -> None:
    a, b = hr.Var("a"), hr.Var("b")
    error = ValueError("the cause")

    def fail() -> None:
        raise error

    failed = engine.push(fail, writes=[a])
    further = engine.push(lambda: pytest.fail("it must not run"), reads=[a], writes=[b])
    last = engine.push(lambda: pytest.fail("it must not run"), reads=[b])
    for _ in range(3):
        for future in failed, further, last:
            with pytest.raises(ValueError if future is failed else PoisonedVar) as raised:
                future.result(PATIENCE)
            assert error in (raised.value, raised.value.__cause__)
    assert engine.push(lambda: 1, writes=[a]).result(PATIENCE) == 1
    assert engine.push(lambda: 2, reads=[a]).result(PATIENCE) == 2
    with pytest.raises(PoisonedVar):
        engine.push(lambda: 3, reads=[b]).result(PATIENCE)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
def test_nothing_an_operation_raises_ends_its_stream(narrow: Engine, error: BaseException) -> None:
    def fail() -> None:
        raise error

    future = narrow.push(fail)
    assert future.exception(PATIENCE) is error
    assert narrow.push(lambda: 1).result(PATIENCE) == 1


@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError])
def test_nothing_a_callback_raises_ends_its_stream(narrow: Engine, error: type[BaseException]) -> None:
    gate = Gate()
    future = narrow.push(gate)
    gate.wait()

    def fail(_: object) -> None:
        raise error

    future.add_done_callback(fail)
    gate.open()
    assert narrow.push(lambda: 1).result(PATIENCE) == 1


# ---- order


def test_larger_priority_first_then_first_come_first_served(narrow: Engine) -> None:
    gate, order = Gate(), []
    narrow.push(gate)
    gate.wait()
    for name, priority in [("a", 0), ("b", 5), ("c", -1), ("d", 5), ("e", 0), ("f", 5.5), ("g", True)]:
        narrow.push(lambda name=name: order.append(name), priority=priority)
    gate.open()
    narrow.waitall(PATIENCE)
    assert "".join(order) == "fbdgaec"


def test_priority_never_overtakes_on_one_var(narrow: Engine) -> None:
    gate, var, order = Gate(), hr.Var(), []
    narrow.push(gate, writes=[var])
    gate.wait()
    for i in range(5):
        narrow.push(lambda i=i: order.append(i), writes=[var], priority=i)
    gate.open()
    narrow.waitall(PATIENCE)
    assert order == [0, 1, 2, 3, 4]


def test_one_that_starts_too_late_is_not_run_and_poisons_what_it_was_to_write(narrow: Engine) -> None:
    gate, var, clock = Gate(), hr.Var("late"), narrow.clock
    assert isinstance(clock, FakeClock)
    narrow.push(gate)
    gate.wait()
    late = narrow.push(lambda: pytest.fail("it must not run"), writes=[var], deadline=clock.now() + 1)
    reader = narrow.push(lambda: pytest.fail("it must not run"), reads=[var])
    punctual = narrow.push(lambda: 7, deadline=clock.now() + 2)
    clock.advance(2)
    gate.open()
    with pytest.raises(DeadlineExceeded):
        late.result(PATIENCE)
    with pytest.raises(PoisonedVar):
        reader.result(PATIENCE)
    assert punctual.result(PATIENCE) == 7


# ---- cancelling


def test_what_is_cancelled_while_it_waits_is_never_run_and_its_vars_stay_as_they_were(narrow: Engine) -> None:
    gate, var, order = Gate(), hr.Var(), []
    narrow.push(lambda: (gate(), order.append("first")), writes=[var])
    gate.wait()
    queued = narrow.push(lambda: order.append("queued"), writes=[var])  # waits for its Var
    ready = narrow.push(lambda: order.append("ready"))  # waits for a stream
    following = narrow.push(lambda: order.append("following"), reads=[var])
    assert narrow.statistics().budget.inside == 4
    assert [future.cancel() for future in (queued, ready)] == [True, True]
    assert narrow.statistics().budget.inside == 2, "their room is free at once"
    gate.open()
    following.result(PATIENCE)
    narrow.waitall(PATIENCE)
    assert order == ["first", "following"]
    assert (var.version, var.error) == (1, None)


def test_what_is_cancelled_while_it_runs_goes_on_and_its_result_is_dropped(narrow: Engine) -> None:
    gate, var, order = Gate(), hr.Var(), []
    running = narrow.push(lambda: (gate(), order.append("written")), writes=[var])
    gate.wait()
    assert running.cancel()
    with pytest.raises(Cancelled):
        running.result()
    assert narrow.statistics().budget.inside == 1, "it still holds its memory"
    reader = narrow.push(lambda: list(order), reads=[var])
    gate.open()
    assert reader.result(PATIENCE) == ["written"]
    narrow.waitall(PATIENCE)
    assert var.version == 1


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("seed", range(4))
def test_cancelling_at_any_moment_loses_nothing(seed: int, in_threads: InThreads) -> None:
    rng = random.Random(seed)
    with Engine(topology=made_up(cores=2), max_operations=20) as engine:
        variables = [hr.Var() for _ in range(3)]
        futures: list[Future[int]] = []
        ran: list[int] = []
        done = threading.Event()

        def cancel(rng: random.Random) -> None:
            while not done.is_set():
                if futures:
                    rng.choice(futures[-8:]).cancel()

        canceller = in_threads(lambda: cancel(random.Random(seed + 100)))
        for i in range(400):
            futures.append(engine.push(lambda i=i: ran.append(i) or i, writes=rng.sample(variables, rng.randint(0, 2))))
        done.set()
        canceller.join()
        engine.waitall(PATIENCE)
        assert all(future.can_read() for future in futures)
        assert {i for i, future in enumerate(futures) if not future.cancelled()} <= {*ran}
        assert len(ran) == len({*ran})
        assert engine.push(lambda: 1, writes=variables).result(PATIENCE) == 1, "no Var was left behind"
        assert engine.statistics().budget.inside == 0


# ---- waitall


def test_waitall_raises_what_nobody_has_looked_at_once(engine: Engine) -> None:
    def fail(i: int) -> None:
        raise ValueError(i)

    futures = [engine.push(lambda i=i: fail(i)) for i in range(4)]
    engine.push(lambda: 1)
    engine.push(lambda: 1).cancel()
    assert futures[0].exception(PATIENCE)
    with pytest.raises(ValueError):
        futures[1].result(PATIENCE)
    with pytest.raises(ExceptionGroup) as raised:
        engine.waitall(PATIENCE)
    assert {*raised.value.exceptions} == {futures[2].exception(), futures[3].exception()}
    engine.waitall(PATIENCE)
    with pytest.raises(ValueError):
        futures[2].result()


def test_waitall_finds_every_outcome_and_every_error(engine: Engine) -> None:
    # Also of those that are refused without being run, whose errors are told on another way.
    var = hr.Var()
    for _ in range(200):
        futures = [engine.push(lambda: 1 / 0, writes=[var]), *(engine.push(int, reads=[var]) for _ in range(3))]
        with pytest.raises(ExceptionGroup) as raised:
            engine.waitall(PATIENCE)
        assert [future.can_read() for future in futures] == [True] * 4
        assert len(raised.value.exceptions) == 4


@pytest.mark.parametrize("runs", [True, False])
def test_an_error_is_remembered_before_its_room_is_given_back(runs: bool) -> None:
    # `waitall` waits for the room, and then looks for errors.
    budget, inside = Budget(1), list[int]()
    source = OperationSource(lambda _: inside.append(budget.statistics().inside), budget)
    operation = Operation(lambda: 1 / 0, accesses((), ()), 0, None, source, HERE, 0)
    budget.admit(0, operation)
    operation.add_done_callback(lambda _: inside.append(budget.statistics().inside))
    if runs:
        operation.begin()
        operation.run()
        operation.complete(0.0)
        operation.deliver()
    else:
        operation.settle(error=Closed("refused"))
    assert inside == [1, 0], "and the room is there before anybody hears of the outcome"


def test_waitall_says_when_the_time_is_up(engine: Engine) -> None:
    gate = Gate()
    engine.push(gate)
    gate.wait()
    for timeout in 0, -1, 0.001:
        with pytest.raises(TimeoutError):
            engine.waitall(timeout)
    gate.open()
    engine.waitall(PATIENCE)


@pytest.mark.usefixtures("restless")
def test_threads_that_wait_for_all_at_once_share_the_errors(engine: Engine, in_threads: InThreads) -> None:
    seen: list[BaseException] = []

    def wait() -> None:
        try:
            engine.waitall(PATIENCE)
        except ExceptionGroup as group:
            seen.extend(group.exceptions)

    for _ in range(30):
        futures = [engine.push(lambda: 1 / 0) for _ in range(20)]
        in_threads(*[wait] * 4).join()
        wait()
        assert len(seen) == 20
        assert {*map(id, seen)} == {id(future.exception()) for future in futures}
        seen.clear()


def test_the_cost_of_a_wait_does_not_depend_on_what_else_is_queued(engine: Engine) -> None:
    gate, blocked = Gate(), hr.Var()
    unrelated = [engine.push(gate, writes=[blocked])]
    gate.wait()
    unrelated += [engine.push(int, writes=[blocked]) for _ in range(500)]
    assert engine.push(lambda: 7, writes=[hr.Var()]).result(PATIENCE) == 7
    assert asyncio.run(awaited(engine.push(lambda: 8))) == 8
    assert not any(future.can_read() for future in unrelated)
    gate.open()
    engine.waitall(PATIENCE)


async def awaited(future: Future[Any]) -> Any:
    return await future


# ---- bounds


def test_when_it_is_full_a_push_waits_for_room(in_threads: InThreads, until: Until) -> None:
    gate = Gate()
    with Engine(topology=made_up(cores=1), max_operations=3) as engine:
        for _ in range(3):
            engine.push(gate)
        late: list[Future[int]] = []
        crowd = in_threads(lambda: late.append(engine.push(lambda: 7)))
        until(lambda: engine.statistics().budget.waiting == 1)
        assert late == []
        gate.open()
        crowd.join()
        assert late[0].result(PATIENCE) == 7


def test_where_an_event_loop_runs_a_push_never_waits() -> None:
    gate = Gate()

    async def main() -> None:
        with pytest.raises(Overloaded):
            engine.push(int)
        gate.open()
        assert await blocker == 7
        for i in range(100):  # whoever has its answer has its room, too
            assert await engine.push(lambda i=i: i) == i

    with Engine(topology=made_up(cores=1), max_operations=1) as engine:
        blocker = engine.push(lambda: (gate(), 7)[1])
        asyncio.run(main())


def test_it_refuses_when_it_is_told_to() -> None:
    gate = Gate()
    with Engine(topology=made_up(cores=1), max_operations=1, on_full="reject") as engine:
        blocker = engine.push(gate)
        with pytest.raises(Overloaded):
            engine.push(int)
        gate.open()
        blocker.result(PATIENCE)
        for _ in range(100):
            assert engine.push(int).result(PATIENCE) == 0


def test_a_callback_finds_the_room_its_operation_had() -> None:
    finished, count = threading.Event(), 0
    with Engine(topology=made_up(cores=1), max_operations=1) as engine:

        def following(_: object) -> None:
            nonlocal count
            count += 1
            if count == 50:
                finished.set()
            else:
                engine.push(int).add_done_callback(following)

        engine.push(int).add_done_callback(following)
        assert finished.wait(PATIENCE)


def test_bytes_are_bounded_too() -> None:
    with Engine(topology=made_up(cores=1), max_bytes=100, on_full="reject") as engine:
        permit = engine.admit(80)
        with pytest.raises(Overloaded):
            engine.admit(30)
        permit.release()


@pytest.mark.parametrize(
    "wrong",
    [
        {"on_full": "drop"},
        {"on_full": None},
        {"max_operations": 0},
        {"max_operations": True},
        {"max_operations": 1.5},
        {"max_bytes": 0},
        {"max_bytes": "1G"},
        {"num_cores": 0},
        {"num_cores": True},
        {"num_cores": "2"},
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        Engine(topology=made_up(cores=4), **wrong)


# ---- on its own streams


def test_an_operation_may_push_others(engine: Engine) -> None:
    var, order = hr.Var(), []

    def outer() -> Future[int]:
        order.append("outer")
        inner = engine.push(lambda: order.append("inner") or 7, writes=[var])  # needs what we hold: it follows
        order.append("end of outer")
        return inner

    assert engine.push(outer, writes=[var]).result(PATIENCE).result(PATIENCE) == 7
    assert order == ["outer", "end of outer", "inner"]


def test_an_operation_that_would_wait_for_its_own_engine_is_told() -> None:
    with Engine(topology=made_up(cores=1), max_operations=2) as engine:

        def full() -> None:
            engine.push(int)
            engine.push(int)

        waits = [
            lambda: engine.push(int).result(),
            lambda: engine.push(int).wait_to_read(timeout=1),
            lambda: engine.push(int).exception(),
            lambda: next(hr.as_completed([engine.push(int)])),
            lambda: asyncio.run(awaited(engine.push(int))),
            lambda: engine.waitall(),
            full,
        ]
        for wait in waits:
            assert isinstance(engine.push(wait).exception(PATIENCE), WouldDeadlock)
            engine.waitall(PATIENCE)


@pytest.mark.usefixtures("restless")
def test_an_operation_may_close_its_engine(in_threads: InThreads) -> None:
    for _ in range(20):
        engine = Engine(topology=made_up(cores=2))
        meet = threading.Barrier(3)
        both = [engine.push(lambda: (meet.wait(PATIENCE), engine.close())) for _ in range(2)]  # noqa: B023
        waiting = engine.push(lambda: 7, writes=[hr.Var()])
        meet.wait(PATIENCE)
        for future in both:
            assert future.exception(PATIENCE) is None
        assert isinstance(waiting.exception(PATIENCE), Closed | None)
        engine.close()
        assert engine.closed


# ---- closing


def test_closing_finishes_what_is_inside(in_threads: InThreads, until: Until) -> None:
    engine, gate, var = Engine(topology=made_up(cores=1)), Gate(), hr.Var()
    engine.push(gate, writes=[var])
    gate.wait()
    futures = [engine.push(lambda i=i: i, reads=[var]) for i in range(10)]
    crowd = in_threads(engine.close)
    until(lambda: engine.closed and engine.budget._closed)
    with pytest.raises(Closed):
        engine.push(int)
    gate.open()
    crowd.join()
    assert [future.result(0) for future in futures] == list(range(10))
    assert not ours()


def test_closing_without_draining_refuses_what_has_not_begun(in_threads: InThreads, until: Until) -> None:
    engine, gate, var = Engine(topology=made_up(cores=1)), Gate(), hr.Var()
    running = engine.push(lambda: (gate(), 7)[1], writes=[var])
    gate.wait()
    queued, ready = engine.push(int, reads=[var]), engine.push(int)
    crowd = in_threads(lambda: engine.close(drain=False))
    assert isinstance(ready.exception(PATIENCE), Closed)
    gate.open()
    crowd.join()
    assert running.result(0) == 7
    assert isinstance(queued.exception(0), Closed)
    assert not ours()


def test_closing_with_a_timeout_leaves_a_run_that_does_not_end_to_itself() -> None:
    engine, gate = Engine(topology=made_up(cores=1)), Gate()
    running = engine.push(lambda: (gate(), 7)[1])
    gate.wait()
    queued = engine.push(int)
    engine.close(timeout=0.001)
    assert isinstance(queued.exception(0), Closed)
    gate.open()
    assert running.result(PATIENCE) == 7
    for thread in threading.enumerate():
        if thread.name.startswith("headrace-"):
            thread.join(PATIENCE)


def test_closing_it_twice_and_from_two_threads_ends_when_it_is_closed(in_threads: InThreads, until: Until) -> None:
    engine, gate = Engine(topology=made_up(cores=1)), Gate()
    running = engine.push(gate)
    gate.wait()
    first = in_threads(engine.close)
    until(lambda: engine.closed)

    def second() -> None:
        engine.close()
        assert running.can_read(), "it was not closed yet"

    others = in_threads(second, second)
    gate.open()
    for crowd in first, others:
        crowd.join()
    engine.close()
    assert not ours()


def test_a_second_close_may_cut_short_what_the_first_waits_for(in_threads: InThreads, until: Until) -> None:
    engine, gate, var = Engine(topology=made_up(cores=1)), Gate(), hr.Var()
    engine.push(gate, writes=[var])
    gate.wait()
    queued = engine.push(int)
    first = in_threads(engine.close)
    until(lambda: engine.closed)
    second = in_threads(lambda: engine.close(drain=False))
    assert isinstance(queued.exception(PATIENCE), Closed)
    gate.open()
    first.join()
    second.join()


def test_closing_tells_those_who_wait_for_room(in_threads: InThreads, until: Until) -> None:
    engine, gate = Engine(topology=made_up(cores=1), max_operations=1), Gate()
    engine.push(gate)

    def push() -> None:
        with pytest.raises(Closed):
            engine.push(int)

    crowd = in_threads(push, push)
    until(lambda: engine.statistics().budget.waiting == 2)
    closing = in_threads(engine.close)
    crowd.join()
    gate.open()
    closing.join()


@pytest.mark.usefixtures("restless")
def test_closing_while_others_push_answers_everything_it_accepted(in_threads: InThreads) -> None:
    for _ in range(20):
        engine, start, accepted = Engine(topology=made_up(cores=2), max_operations=8), threading.Barrier(4), []

        def push(engine: Engine, start: threading.Barrier, accepted: list[Future[int]]) -> None:
            start.wait(PATIENCE)
            try:
                while True:
                    accepted.append(engine.push(int, writes=[hr.Var()]))
            except Closed:
                pass

        crowd = in_threads(*[lambda e=engine, s=start, a=accepted: push(e, s, a)] * 3)
        start.wait(PATIENCE)
        engine.close()
        crowd.join()
        for future in accepted:
            assert isinstance(future.exception(PATIENCE), Closed | None)


def test_a_port_that_is_detached_at_once_gives_its_cores_back(narrow: Engine) -> None:
    for _ in range(30):
        source = OperationSource(narrow.remember, narrow.budget)
        port = narrow.attach(source, [0b1], "short-lived")
        operation = Operation(lambda: 1, accesses((), ()), 0, None, source, HERE, 0)
        narrow.enter(port, source.add, operation, 0)
        narrow.detach(port)  # its stream has been given its cores, and may not have woken yet
        assert isinstance(operation.exception(PATIENCE), Closed | None)
        assert narrow.statistics().cores_leased == 0
        assert narrow.push(int).result(PATIENCE) == 0


def test_opened_and_closed_two_hundred_times_it_leaves_nothing() -> None:
    threads, engines = threading.active_count(), []
    for i in range(200):
        with Engine(topology=made_up(cores=2)) as engine:
            future = engine.push(lambda i=i: i)
            engines.append(weakref.ref(engine))
        assert future.result(0) == i
    assert threading.active_count() == threads
    assert not ours()
    del engine, future
    gc.collect()
    assert not any(ref() for ref in engines)


def test_until_the_first_push_it_has_no_thread() -> None:
    with Engine(topology=made_up(cores=2)) as engine:
        assert not ours()
        assert engine.statistics().streams == 0
        engine.push(int).result(PATIENCE)
        assert ours() == ["headrace-operations-0", "headrace-operations-1"]
        assert engine.statistics().streams == 2


def test_a_future_that_is_kept_keeps_no_var_and_no_function_alive(engine: Engine) -> None:
    class Large:
        def __call__(self) -> int:
            return 7

    function, kept = Large(), hr.Var()
    seen = weakref.ref(function)
    future = engine.push(function, reads=[kept], writes=[hr.Var()])
    cancelled = engine.push(function, writes=[hr.Var()])
    cancelled.cancel()
    del function
    assert future.result(PATIENCE) == 7
    engine.waitall(PATIENCE)
    engine.push(int).result(PATIENCE)  # the streams have let go of it
    gc.collect()
    assert seen() is None
    assert sys.getrefcount(kept) == 2


# ---- everything at once


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_threads_on_shared_vars_equals_running_one_by_one(seed: int, in_threads: InThreads) -> None:
    threads, each = 8, 60
    variables = [hr.Var(str(i)) for i in range(6)]
    values = [0] * len(variables)
    order: list[tuple[int, int]] = []  # written by the operations: those in conflict cannot be in it at once
    what: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
    got: dict[tuple[int, int], Future[int]] = {}

    def operate(values: list[int], name: tuple[int, int]) -> int:
        reads, writes = what[name]
        seen = hash((name, *(values[i] for i in reads)))
        for i in writes:
            values[i] = hash((seen, i))  # the old value is lost: order is everything
        return seen

    def run(name: tuple[int, int]) -> int:
        order.append(name)
        return operate(values, name)

    def push(thread: int) -> None:
        rng = random.Random(seed * 1000 + thread)
        for i in range(each):
            name = thread, i
            reads, writes = (rng.sample(range(6), rng.choice([0, 1, 2, 3])) for _ in range(2))
            what[name] = reads, writes
            got[name] = engine.push(
                lambda name=name: run(name),
                reads=[variables[i] for i in reads],
                writes=[variables[i] for i in writes],
                priority=rng.choice([0, 0, 1]),
            )

    with Engine(topology=made_up(cores=4), max_operations=50) as engine:
        in_threads(*(lambda t=t: push(t) for t in range(threads))).join()
        engine.waitall(PATIENCE)
    assert len(order) == len({*order}) == threads * each
    alone = [0] * len(variables)
    assert {name: operate(alone, name) for name in order} == {name: future.result() for name, future in got.items()}
    assert alone == values
    place = {name: at for at, name in enumerate(order)}
    for thread in range(threads):
        for var in range(6):
            writers = [place[thread, i] for i in range(each) if var in what[thread, i][1]]
            assert writers == sorted(writers), "what one thread pushed on one Var was turned round"


def test_statistics_are_a_snapshot(engine: Engine) -> None:
    gate = Gate()
    futures = [engine.push(gate) for _ in range(3)]
    gate.wait(2)
    before = engine.statistics()
    gate.open()
    for future in futures:
        future.result(PATIENCE)
    engine.waitall(PATIENCE)
    assert (before.cores, before.cores_leased, before.streams, before.streams_running, before.ports) == (2, 2, 2, 2, 1)
    assert (before.budget.inside, before.budget.max_count) == (3, 1024)
    with pytest.raises(AttributeError):
        before.cores = 3  # type: ignore[misc]


def test_errors_somebody_has_looked_at_are_not_kept() -> None:
    class Big:
        pass

    def fail() -> None:
        big = Big()
        kept.append(weakref.ref(big))
        raise ValueError(f"the traceback holds {id(big)}")

    kept: list[weakref.ref[Big]] = []
    with Engine(topology=made_up(1)) as engine:
        for _ in range(20):
            with pytest.raises(ValueError):
                engine.push(fail).result()
        gc.collect()
        assert sum(ref() is not None for ref in kept) <= 1
