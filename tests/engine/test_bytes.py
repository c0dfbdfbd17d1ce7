"""Bounds by bytes: what is charged, until when, and who is told that it waits for itself.

What a run takes of the process's memory is not measured here (`quiet`): it is not the same twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import queue
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest

import headrace as hr
import headrace.model.run
from headrace.engine.admission import COLLECT, COLLECT_AT_MOST, pause_after
from headrace.engine.topology import made_up
from headrace.testing import Gate

PATIENCE = 30.0
InThreads = Callable[..., Any]
Until = Callable[[Callable[[], object]], None]
Made = Callable[..., "Machine"]


def raw(nbytes: int) -> Any:
    return np.zeros(nbytes, np.uint8)


class Machine:
    """An engine of one core and a model on it: `x` in, twice as many bytes out. A request of n bytes is charged 3 n
    while it is inside, and 2 n until its answer is read."""

    def __init__(self, max_bytes: int, on_full: str = "block", cores: int = 1) -> None:
        self.engine = hr.Engine(topology=made_up(cores), max_bytes=max_bytes, on_full=on_full)
        self.gate: Gate | None = None
        self.model = hr.compile_model(self.double, engine=self.engine, scheduler="multi_stream" if cores > 1 else None)
        self.gates: list[Gate] = []

    def double(self, x: Any) -> Any:
        gate = self.gate
        if gate is not None:
            gate()
        if x[0] == 13:
            raise ValueError("unlucky")
        return np.concatenate([x, x])

    def hold(self) -> Gate:
        """Runs that begin from now on wait."""
        self.gates.append(Gate())
        self.gate = self.gates[-1]
        return self.gate

    def knows(self, *sizes: int) -> Machine:
        for size in sizes or (1,):
            self.model(raw(size))
        assert self.charged == 0
        return self

    @property
    def charged(self) -> int:
        return self.engine.statistics().budget.nbytes

    @property
    def waiting(self) -> int:
        return self.engine.statistics().budget.waiting

    def quiet(self) -> None:
        """Wait until nothing is inside; errors have been looked at, or are of no interest."""
        with contextlib.suppress(BaseExceptionGroup):
            self.engine.waitall(PATIENCE)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    monkeypatch.setattr(headrace.model.run, "resident_bytes", lambda: 0)
    made: list[Machine] = []

    def make(max_bytes: int, **options: Any) -> Machine:
        made.append(Machine(max_bytes, **options))
        return made[-1]

    yield make
    for each in made:
        for gate in each.gates:
            gate.open()
        each.engine.close(drain=False, timeout=PATIENCE)


# ---- until when


def test_a_request_is_charged_with_what_goes_in_and_what_will_come_out_and_then_with_what_came(machine: Made) -> None:
    m = machine(1000).knows(10)
    gate = m.hold()
    future = m.model.submit(raw(10))
    assert m.charged == 30
    gate.open()
    future.wait_to_read(PATIENCE)
    m.quiet()
    assert m.charged == 20, "waiting is no reading"
    assert m.engine.statistics().budget.unread == 1
    future.result()
    assert m.charged == 0
    future.result()
    del future
    gc.collect()
    assert m.charged == 0
    assert m.engine.statistics().budget.unread == 0


@pytest.mark.parametrize("drop", ["gone", "in a cycle"])
def test_an_answer_that_is_let_go_of_unread_is_charged_no_more(drop: str, machine: Made) -> None:
    m = machine(1000).knows(10)
    kept: list[Any] = [m.model.submit(raw(10)), m.engine.push(lambda: raw(7))]
    m.quiet()
    assert m.charged == 27
    if drop == "in a cycle":
        kept.append(kept)
    del kept
    gc.collect()
    assert m.charged == 0


def test_an_operation_is_charged_with_what_it_returned_until_that_is_read(machine: Made) -> None:
    m = machine(100)
    futures = [m.engine.push(lambda: [raw(30), "ten chars.", {"x": 1}]), m.engine.push(lambda: None)]
    m.quiet()
    assert m.charged == 40
    assert futures[0].result()[1] == "ten chars."
    assert m.charged == 0


def test_awaiting_is_reading(machine: Made) -> None:
    m = machine(1000).knows(10)

    async def main() -> None:
        for _ in range(20):
            await m.model.asubmit(raw(10))
            await m.engine.push(lambda: raw(300))
            assert m.charged == 0

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_calls_and_map_leave_nothing_charged(machine: Made) -> None:
    m = machine(10_000).knows(10)
    assert len(m.model(raw(10))) == 20
    assert [len(each) for each in m.model.map(raw(n) for n in range(1, 30))] == [2 * n for n in range(1, 30)]
    assert m.charged == 0


def test_polling_and_completing_are_no_reading(machine: Made) -> None:
    m = machine(1000).knows(10)
    futures = [m.model.submit(raw(10)) for _ in range(3)]
    assert set(hr.as_completed(futures, timeout=PATIENCE)) == set(futures)
    m.quiet()
    assert m.charged == 60
    assert set(m.engine.poll()) == set(futures)
    assert m.charged == 60
    for future in futures:
        future.result()
    assert m.charged == 0


def test_errors_and_what_was_cancelled_charge_nothing_afterwards(machine: Made) -> None:
    m = machine(1000).knows(10)
    gate = m.hold()
    unlucky = raw(10)
    unlucky[:] = 13
    failing = m.model.submit(unlucky)
    gate.wait()
    queued = [m.model.submit(raw(10)) for _ in range(3)]
    poisoned = m.engine.push(lambda: 1 / 0)
    assert m.charged == 120
    for each in queued[:2]:
        each.cancel()
    assert m.charged == 60, "what had not begun gives its room back at once"
    gate.open()
    m.quiet()
    assert isinstance(failing.exception(), hr.BackendError)
    assert isinstance(poisoned.exception(), ZeroDivisionError)
    assert m.charged == 20
    queued[2].result()
    assert m.charged == 0


def test_what_is_cancelled_while_it_runs_stays_charged_until_it_ends(machine: Made) -> None:
    m = machine(1000).knows(10)
    gate = m.hold()
    future = m.model.submit(raw(10))
    gate.wait()
    assert future.cancel()
    assert m.charged == 30
    gate.open()
    m.quiet()
    assert m.charged == 0


def test_who_looks_at_what_was_cancelled_while_it_runs_changes_no_charge(machine: Made) -> None:
    m = machine(1000).knows(10)
    gate = m.hold()
    future = m.model.submit(raw(10))
    gate.wait()
    future.cancel()
    with pytest.raises(hr.Cancelled):
        future.result()
    charged_while_it_ran = m.charged
    gate.open()
    m.quiet()
    assert (charged_while_it_ran, m.charged) == (30, 0)


@pytest.mark.usefixtures("restless")
def test_who_reads_in_the_moment_it_is_done_is_not_charged(machine: Made, in_threads: InThreads) -> None:
    m = machine(100)

    def read() -> None:
        for _ in range(400):
            future = m.engine.push(lambda: [b"1"] * 30)
            kept.append(future)
            while not future.can_read():
                pass
            future.result()

    kept: list[Any] = []
    in_threads(read).join()
    assert m.charged == 0


# ---- the bound


def test_one_larger_than_the_bound_runs_alone_and_the_others_wait_meanwhile(
    machine: Made, in_threads: InThreads, until: Until
) -> None:
    m = machine(100).knows(1)
    gate = m.hold()
    large = m.model.submit(raw(1000))
    gate.wait()
    assert m.charged == 3000
    answers: list[int] = []
    crowd = in_threads(*[lambda: answers.append(len(m.model(raw(1))))] * 3)
    until(lambda: m.waiting == 3)
    with pytest.raises(hr.Overloaded):
        m.model.submit(raw(1), timeout=0)
    gate.open()
    large.wait_to_read(PATIENCE)
    m_waiting = m.waiting
    assert (m_waiting, answers) == (3, []), "its answer is still there"
    large.result()
    crowd.join()
    assert answers == [2, 2, 2]
    assert m.charged == 0


def test_one_larger_than_the_bound_waits_until_nothing_is_charged(
    machine: Made, in_threads: InThreads, until: Until
) -> None:
    m = machine(100).knows(1)
    gate = m.hold()
    small = m.model.submit(raw(1))
    crowd = in_threads(lambda: m.model(raw(1000)))
    until(lambda: m.waiting == 1)
    gate.open()
    small.wait_to_read(PATIENCE)
    assert m.waiting == 1
    small.result()
    crowd.join()
    assert m.charged == 0


def test_where_more_comes_out_than_was_known_nobody_else_enters_until_it_is_read(
    machine: Made, in_threads: InThreads, until: Until
) -> None:
    m = machine(100)
    large = m.engine.push(lambda: raw(170))  # an operation's outcome is not known before
    large.wait_to_read(PATIENCE)
    m.engine.budget.wait_until_idle(PATIENCE)
    assert m.charged == 170, "it says what is there, not what may be"
    crowd = in_threads(lambda: m.engine.push(lambda: raw(1)).result(PATIENCE))
    until(lambda: m.waiting == 1)
    large.result()
    crowd.join()
    assert m.charged == 0


def test_where_the_engine_rejects_who_finds_it_full_is_told_in_bytes(machine: Made) -> None:
    m = machine(100, on_full="reject").knows(10)
    m.hold()
    futures = [m.model.submit(raw(10)) for _ in range(3)]
    with pytest.raises(hr.Overloaded) as refused:
        m.model.submit(raw(10))
    assert (refused.value.inside, refused.value.limit, refused.value.unit) == (90, 100, "bytes")
    assert futures[-1].cancel()
    m.model.submit(raw(10))


@pytest.mark.parametrize("seed", range(6))
def test_what_is_charged_is_what_lives_and_what_is_unread(seed: int, machine: Made) -> None:
    """A random program in phases: the stream is held, and what enters is counted; it runs, and what came out is."""
    rng, bound = random.Random(seed), 400
    sizes = [1, 5, 10, 30, 200, 200]
    m = machine(bound, on_full="reject").knows(*sizes)
    unread: list[tuple[hr.Future[Any], int]] = []
    seen = set()
    for _ in range(30):
        gate = m.hold()
        live: list[tuple[hr.Future[Any], int, int]] = []  # what it is charged with inside, and afterwards
        for _ in range(rng.randint(1, 12)):
            n, unlucky = rng.choice(sizes), rng.random() < 0.1
            x = raw(n)
            x[:] = 13 if unlucky else 0
            charged = sum(inside for _, inside, _ in live) + sum(after for _, after in unread)
            fits = charged + 3 * n <= bound or not charged
            try:
                future = m.model.submit(x, priority=rng.choice([0, 1]))
            except hr.Overloaded:
                assert not fits
                seen.add("refused")
            else:
                assert fits
                live.append((future, 3 * n, 0 if unlucky else 2 * n))
                charged += 3 * n
                if len(live) == 1:
                    gate.wait()
            assert m.charged == charged
            assert charged <= bound or len(live) == 1
            seen.add("alone" if charged > bound else "fits")
            if live and rng.random() < 0.2:
                i = rng.randrange(len(live))
                future, inside, _ = live[i]
                future.cancel()
                live[i] = (future, inside if i == 0 else 0, 0)  # the first one runs: it is inside until it ends
                assert m.charged == sum(inside for _, inside, _ in live) + sum(after for _, after in unread)
        future = None
        gate.open()
        m.quiet()
        unread += [(future, after) for future, _, after in live]
        del live
        assert m.charged == sum(after for _, after in unread)
        rng.shuffle(unread)
        for _ in range(rng.choice([len(unread), rng.randint(0, len(unread))])):
            future, after = unread.pop()
            how = rng.choice(["read", "drop", "cycle"])
            if how == "read":
                assert future.exception() is not None or len(future.result()) == after
            elif how == "cycle":
                cycle: list[Any] = [future]
                cycle.append(cycle)
                del cycle
            del future
            gc.collect()
            assert m.charged == sum(after for _, after in unread)
    unread.clear()
    gc.collect()
    assert m.charged == 0
    assert m.engine.statistics().budget.unread == 0
    assert seen == {"refused", "alone", "fits"}


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("seed", range(4))
def test_threads_and_tasks_never_pass_the_bound_and_leave_nothing(
    seed: int, machine: Made, in_threads: InThreads, until: Until
) -> None:
    """Who is told that it waits for itself is told of its own results, reads one, and goes on."""
    bound = 100
    m = machine(bound, cores=2).knows(1, 5, 10, 50)
    wrong: list[Any] = []

    def look() -> None:
        seen = m.engine.statistics().budget
        # One larger than the bound is charged alone, inside or as its answer.
        if seen.nbytes > bound and seen.inside + seen.unread > 1:
            wrong.append(seen)

    def thread(rng: random.Random) -> None:
        mine: list[hr.Future[Any]] = []
        ever: WeakSet[hr.Future[Any]] = WeakSet()
        for i in range(80):
            look()
            told: tuple[hr.Future[Any], ...] = ()
            try:
                mine.append(m.model.submit(raw(rng.choice([1, 1, 5, 10, 50]))))
                ever.add(mine[-1])
            except hr.WouldDeadlock as error:
                told = error.futures
                assert told
            if told:
                gc.collect()  # an error and its traceback hold each other, and what both hold
            for future in rng.sample(told, min(1, len(told))):
                assert future in ever
                future.result(0)
                mine = [each for each in mine if each is not future]
            if mine and rng.random() < 0.6:
                future = mine.pop(rng.randrange(len(mine)))
                if rng.random() < 0.3:
                    future.cancel()
                elif rng.random() < 0.8:
                    future.result(PATIENCE)
            future = None
            if i % 20 == 0:
                gc.collect()
        for future in mine:
            future.result(PATIENCE)

    async def loop(rng: random.Random) -> None:
        for _ in range(12):
            tasks = [asyncio.create_task(m.model.asubmit(raw(rng.choice([1, 5, 50])))) for _ in range(5)]
            await asyncio.sleep(0)
            look()
            for answer in await asyncio.gather(*tasks):
                assert answer.size > 1

    threads = [lambda i=i: thread(random.Random(seed * 10 + i)) for i in range(3)]
    in_threads(*threads, lambda: asyncio.run(loop(random.Random(seed)))).join()
    m.quiet()
    assert wrong == []
    until(lambda: gc.collect() >= 0 and m.charged == 0)  # a stream may hold the last one it has run for a moment
    assert m.waiting == 0


def test_the_collector_may_find_unread_answers_whenever_it_runs(machine: Made, in_threads: InThreads) -> None:
    # Also inside the engine's lock, while others are let in, or told that they wait for themselves.
    m = machine(60)
    told: list[int] = []

    def abandon() -> None:
        cycle: list[Any] = [m.engine.push(lambda: raw(20))]
        cycle.append(cycle)

    def storm() -> None:
        gc.set_threshold(7)
        kept: list[Any] = []
        for i in range(250):
            kept.append([[] for _ in range(i % 13)])
            try:
                abandon()
            except hr.WouldDeadlock as error:
                told.append(len(error.futures))
                del error
                gc.collect()

    before = gc.get_threshold()
    try:
        in_threads(storm, storm).join()
    finally:
        gc.set_threshold(*before)
    m.quiet()
    gc.collect()
    assert m.charged == 0
    assert m.engine.push(lambda: "alive").result(PATIENCE) == "alive"


# ---- waiting for oneself


def test_who_fills_the_engine_with_what_it_does_not_read_is_told_which_results_those_are(machine: Made) -> None:
    m = machine(100).knows(10)
    futures = [m.model.submit(raw(10)) for _ in range(3)]
    m.quiet()
    read = m.engine.push(lambda: raw(40))
    assert len(read.result(PATIENCE)) == 40
    futures.append(m.engine.push(lambda: raw(40)))
    m.quiet()
    assert m.charged == 100
    with pytest.raises(hr.WouldDeadlock) as told:
        m.model.submit(raw(10))
    assert sorted(map(id, told.value.futures)) == sorted(map(id, futures))
    for future in told.value.futures:
        future.result(0)
    assert len(m.model(raw(10))) == 20


def test_who_is_told_may_let_go_of_its_results_instead(machine: Made) -> None:
    m = machine(100).knows(10)
    futures = [m.model.submit(raw(10)) for _ in range(4)]
    m.quiet()
    with pytest.raises(hr.WouldDeadlock):
        m.model.submit(raw(10))
    futures.clear()
    gc.collect()
    assert len(m.model(raw(10))) == 20


def test_the_error_that_tells_keeps_nothing_once_it_is_gone(machine: Made) -> None:
    m = machine(100).knows(10)
    futures = [m.model.submit(raw(10)) for _ in range(4)]
    m.quiet()
    gc.disable()
    try:
        try:
            m.model.submit(raw(10))
        except hr.WouldDeadlock as error:
            told = len(error.futures)
        futures.clear()
        assert (told, m.charged) == (4, 0)
    finally:
        gc.enable()


def test_who_waited_for_its_results_and_did_not_read_them_is_told_too(
    machine: Made, in_threads: InThreads, until: Until
) -> None:
    m = machine(100).knows(30)
    gate = m.hold()
    mine = m.model.submit(raw(30))
    in_threads(lambda: (until(lambda: mine._callbacks), gate.open()))
    mine.wait_to_read(PATIENCE)
    m.quiet()
    with pytest.raises(hr.WouldDeadlock) as told:
        m.model.submit(raw(30), timeout=0.5)  # without one it waits for ever
    assert told.value.futures == (mine,)


def test_a_callback_that_does_not_read_hides_nobody_who_waits_for_itself(
    machine: Made, in_threads: InThreads, until: Until
) -> None:
    m = machine(100).knows(30)
    gate, called = m.hold(), []
    mine = m.model.submit(raw(30))
    mine.add_done_callback(lambda future: called.append("done"))
    gate.open()
    until(lambda: called)
    m.quiet()
    with pytest.raises(hr.WouldDeadlock) as told:
        m.model.submit(raw(30), timeout=0.5)  # without one it waits for ever
    assert told.value.futures == (mine,)


def test_who_hands_its_results_on_in_a_callback_is_not_told_before_they_could_be_read(
    machine: Made, in_threads: InThreads, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in "admission", "unread":
        monkeypatch.setattr(f"headrace.engine.{module}.GRACE", PATIENCE)
    m, handed = machine(100).knows(30), queue.SimpleQueue[Any]()

    def produce() -> None:
        for _ in range(5):
            m.model.submit(raw(30)).add_done_callback(handed.put)

    crowd = in_threads(produce)
    for i in range(5):
        if i < 4:
            until(lambda: m.waiting == 1 and not m.engine.statistics().budget.inside and not m.engine.budget.holding)
        assert handed.get(timeout=PATIENCE).result().size == 60
    crowd.join()
    assert m.charged == 0


def test_a_task_whose_callback_does_not_read_is_told_too(machine: Made) -> None:
    m = machine(100).knows(30)

    async def main() -> None:
        called = asyncio.Event()
        mine = m.model.submit(raw(30))
        loop = asyncio.get_running_loop()
        mine.add_done_callback(lambda future: loop.call_soon_threadsafe(called.set))
        await called.wait()
        with pytest.raises(hr.WouldDeadlock) as told:
            await m.model.asubmit(raw(30))
        assert told.value.futures == (mine,)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_who_iterates_over_its_own_results_and_waits_for_room_meanwhile_is_told_at_once(
    machine: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in "admission", "unread":
        monkeypatch.setattr(f"headrace.engine.{module}.GRACE", PATIENCE)
    m = machine(200).knows(30)
    gate = m.hold()
    mine = [m.model.submit(raw(30)) for _ in range(2)]
    done = hr.as_completed(mine, PATIENCE)
    gate.open()
    first = next(done)
    m.quiet()
    with pytest.raises(hr.WouldDeadlock) as told:
        m.model.submit(raw(30), timeout=PATIENCE / 2)
    assert set(told.value.futures) == set(mine)
    assert first in mine


def test_a_callback_that_reads_makes_room_for_who_waits(machine: Made) -> None:
    m = machine(100).knows(30)
    sizes: list[int] = []
    for _ in range(20):
        m.model.submit(raw(30)).add_done_callback(lambda future: sizes.append(future.result().size))
    m.quiet()
    m.engine.close()
    assert sizes == [60] * 20
    assert m.charged == 0


def test_who_began_to_wait_before_its_results_were_there_is_told_too(
    machine: Made, in_threads: InThreads, until: Until
) -> None:
    m = machine(100).knows(10, 30)
    gate = m.hold()

    def fill() -> None:
        mine = [m.model.submit(raw(10)) for _ in range(3)]
        with pytest.raises(hr.WouldDeadlock) as told:
            m.model.submit(raw(30))
        assert sorted(map(id, told.value.futures)) == sorted(map(id, mine))
        assert all(future.done() for future in mine)

    crowd = in_threads(fill)
    until(lambda: m.waiting == 1)
    gate.open()
    crowd.join()
    assert m.waiting == 0


def test_a_task_that_waits_for_itself_is_told_and_one_that_does_not_waits_on(machine: Made) -> None:
    m = machine(100).knows(10, 30)

    async def fills() -> list[Any]:
        mine = [m.model.submit(raw(10)) for _ in range(3)]
        for future in mine:
            while not future.done():  # noqa: ASYNC110 - looking is no waiting, which would be reading
                await asyncio.sleep(0)
        filled.set()
        await may_go_on.wait()
        with pytest.raises(hr.WouldDeadlock) as told:
            await m.model.asubmit(raw(30))
        assert sorted(map(id, told.value.futures)) == sorted(map(id, mine))
        return [await future for future in mine]

    async def waits() -> Any:
        await filled.wait()
        return await m.model.asubmit(raw(30))

    async def main() -> None:
        task, other = asyncio.create_task(fills()), asyncio.create_task(waits())
        while not m.waiting:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0)
        may_go_on.set()  # until then it could have read its own
        assert [len(each) for each in await task] == [20] * 3
        assert len(await other) == 60

    filled, may_go_on = asyncio.Event(), asyncio.Event()
    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert m.charged == 0


def test_two_that_wait_for_each_others_room_are_told_of_their_own(
    machine: Made, in_threads: InThreads, until: Until
) -> None:
    m = machine(100).knows(10, 15, 30)
    both = threading.Barrier(2)
    told: list[bool] = []

    def fill() -> None:
        mine = m.model.submit(raw(15))
        until(mine.done)
        m.quiet()
        both.wait(PATIENCE)
        try:
            m.model.submit(raw(30))
        except hr.WouldDeadlock as error:
            told.append(error.futures == (mine,))
            mine.result()

    in_threads(fill, fill).join()
    assert told == [True, True]


def test_nobody_is_told_while_another_thread_waits_for_what_is_charged(
    machine: Made, in_threads: InThreads, until: Until
) -> None:
    m = machine(100).knows(30)
    gate = m.hold()
    mine = m.model.submit(raw(30))
    gate.wait()
    reader = in_threads(lambda: mine.result(PATIENCE))
    until(lambda: mine._callbacks)
    opener = in_threads(lambda: (until(lambda: m.waiting == 1), gate.open()))
    assert len(m.model(raw(30))) == 60
    reader.join()
    opener.join()
    assert m.charged == 0


def test_nobody_is_told_while_others_results_are_charged(machine: Made, in_threads: InThreads, until: Until) -> None:
    m = machine(100).knows(30)
    theirs: list[hr.Future[Any]] = []
    in_threads(lambda: theirs.append(m.model.submit(raw(10)))).join()
    mine = m.model.submit(raw(10))
    m.quiet()
    crowd = in_threads(lambda: (until(lambda: m.waiting == 1), theirs.pop().result()))
    with pytest.raises(hr.WouldDeadlock) as told:
        m.model.submit(raw(30))  # once theirs has been read, only mine is left
    crowd.join()
    assert told.value.futures == (mine,)


def test_who_keeps_none_of_its_results_does_not_wait_for_itself(
    machine: Made, in_threads: InThreads, until: Until
) -> None:
    m = machine(100).knows(30)
    gate = m.hold()
    m.model.submit(raw(30))  # and lets go of it
    crowd = in_threads(lambda: (until(lambda: m.waiting == 1), gate.open()))
    try:
        assert m.model.submit(raw(30)).result(PATIENCE).size == 60
    finally:
        crowd.join()


def test_an_answer_that_came_when_its_task_was_cancelled_is_charged_no_more(machine: Made, until: Until) -> None:
    m = machine(100).knows(30)

    async def main() -> None:
        gate = m.hold()
        task = asyncio.create_task(m.model.asubmit(raw(30)))
        await asyncio.to_thread(gate.wait)
        gate.open()
        m.quiet()  # it has its answer, and the loop has not told it: this does not let the loop run
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await task
        kept.append(cancelled)
        assert m.charged == 0, "nobody can read it any more"

    kept: list[Any] = []
    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_nobody_is_told_while_another_thread_reads_one_result_after_the_other(
    machine: Made, in_threads: InThreads, until: Until
) -> None:
    m = machine(100).knows(10, 30)
    futures = [m.model.submit(raw(10)) for _ in range(4)]
    m.quiet()
    kept, refused = list(futures), []

    def consume() -> None:
        kept[0].result()  # it has begun to read what the other one makes
        until(lambda: m.waiting == 1 or refused)
        for future in kept[1:]:
            future.result()

    crowd = in_threads(consume)
    until(lambda: kept[0]._seen)
    try:
        m.model.submit(raw(30), timeout=PATIENCE)
    except hr.WouldDeadlock:
        refused.append(True)
        raise
    finally:
        crowd.join()


def test_waiting_for_the_end_of_all_ends_where_another_waits_for_what_this_thread_does_not_read(
    machine: Made, in_threads: InThreads, until: Until
) -> None:
    m = machine(100).knows(10, 30)
    mine = m.model.submit(raw(30))
    mine.wait_to_read(PATIENCE)

    def wait() -> None:
        with pytest.raises((hr.Overloaded, hr.WouldDeadlock)):
            m.model.submit(raw(30), timeout=0.5)

    crowd = in_threads(wait)
    until(lambda: m.waiting == 1)
    try:
        m.engine.waitall(timeout=0.2)  # nothing is inside
    finally:
        crowd.join()


@pytest.mark.parametrize("full", ["block", "reject"])
def test_room_that_nobody_gave_back_because_ctrl_c_was_lost_is_found(full: str) -> None:
    """What a weak reference calls cannot raise: KeyboardInterrupt there is printed, and what was to be done is not."""
    with hr.Engine(topology=made_up(1), max_bytes=100, on_full=full) as engine:
        future = engine.push(lambda: bytes(100))
        future.wait_to_read(PATIENCE)
        engine.budget._unread[id(future)].future = weakref.ref(future)  # as if its callback had been interrupted
        del future
        assert engine.push(lambda: 7).result(PATIENCE) == 7
        assert engine.statistics().budget.nbytes == 0


@pytest.mark.parametrize(("took", "pause"), [(0.0, COLLECT), (0.001, COLLECT), (3.0, 3.0 / COLLECT_AT_MOST)])
def test_collections_for_who_waits_take_little_of_the_time(took: float, pause: float) -> None:
    """With a large heap one takes seconds, and stops every thread."""
    assert pause_after(took) == pause


def test_unread_results_in_garbage_are_found_by_who_waits_for_their_room(machine: Made) -> None:
    """Nothing else runs then, so nothing else would call the collector."""
    m = machine(100, cores=1).knows(10)
    gc.collect()
    gc.disable()
    try:

        def leave() -> None:  # another thread's: the one that waits is not told of them
            for _ in range(4):
                future = m.model.submit(raw(10))
                future.wait_to_read(PATIENCE)
                cycle: list[Any] = [future]
                cycle.append(cycle)

        thread = threading.Thread(target=leave)
        thread.start()
        thread.join(PATIENCE)
        m.quiet()
        assert m.charged == 80
        assert m.model.submit(raw(10), timeout=PATIENCE).result(PATIENCE) is not None
    finally:
        gc.enable()
