"""Everything at once: threads push on shared Vars, cancel, wait, await, set deadlines, and callbacks push more.

Each operation keeps a log on each Var it writes, which is its alone while it runs; so the logs say in what order the
Vars were written, and one thread that runs everything in that order must come to the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import headrace as hr
from headrace.engine.engine import Engine
from headrace.engine.future import Future
from headrace.engine.operations import TOMBSTONES
from headrace.engine.topology import made_up
from headrace.errors import Cancelled, DeadlineExceeded, Overloaded, PoisonedVar, WouldDeadlock
from headrace.testing import Gate

PATIENCE = 30.0
THREADS, EACH, VARS, CORES = 16, 100, 6, 4
InThreads = Callable[..., Any]
Until = Callable[[Callable[[], object]], None]


class Refusal(Exception):
    """What an operation fails with that was made to fail."""


class Cell:
    """What a Var stands for: a value, the log of who wrote it, and who is at it now."""

    def __init__(self, name: str) -> None:
        self.var = hr.Var(name)
        self.value = 0
        self.log: list[int] = []
        self.readers: set[int] = set()
        self.writer: int | None = None


class Op:
    def __init__(self, number: int, cells: list[Cell], rng: random.Random) -> None:
        self.number = number
        self.fails = rng.random() < 0.03
        some = rng.sample(cells, rng.choice([0, 1, 1, 2, 3]))
        cut = rng.randint(0, len(some))
        self.only_read, self.written = some[:cut], some[cut:]
        self.read = some if rng.random() < 0.5 else self.only_read  # read, modify, write; or overwrite
        self.versions: list[int] = []  # which write of each Cell in `read` it saw

    def compute(self, values: list[int]) -> int:
        return hash((self.number, *values))


class Storm:
    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine, self.seed = engine, seed
        self.cells = [Cell(f"v{i}") for i in range(VARS)]
        self.ops: dict[int, Op] = {}
        self.futures: dict[int, Future[int]] = {}
        self.heard: list[int] = []  # whose callback was called
        self.order: list[int] = []  # who began, in turn
        self.crimes: list[str] = []
        self.numbers = iter(range(1 << 30))  # `next` of it is atomic
        self.not_pushed = Counter[type]()

    # ---- what an operation does

    def run(self, op: Op) -> int:
        self.order.append(op.number)
        for cell in op.only_read:
            cell.readers.add(op.number)
            if cell.writer is not None:
                self.crimes.append(f"{op.number} reads what {cell.writer} writes")
        for cell in op.written:
            if cell.writer is not None or cell.readers:
                self.crimes.append(f"{op.number} writes beside {cell.writer} and {cell.readers}")
            cell.writer = op.number
        try:
            op.versions = [len(cell.log) for cell in op.read]
            outcome = op.compute([cell.value for cell in op.read])
            time.sleep(0)  # the others' turn, just where it hurts
            if op.fails:
                raise Refusal(op.number)
            for cell in op.written:
                cell.value = hash((outcome, cell.var.name))
                cell.log.append(op.number)
            if [len(cell.log) - (cell in op.written) for cell in op.read] != op.versions:
                self.crimes.append(f"{op.number} saw its input change")
            return outcome
        finally:
            for cell in op.only_read:
                cell.readers.discard(op.number)
            for cell in op.written:
                if cell.writer != op.number or cell.readers:
                    self.crimes.append(f"{cell.writer} or {cell.readers} came beside {op.number}")
                cell.writer = None

    # ---- what the threads do

    def push(self, rng: random.Random, more: bool = True) -> Future[int] | None:
        op = Op(next(self.numbers), self.cells, rng)
        self.ops[op.number] = op
        now = time.monotonic()
        deadline = rng.choice([None] * 16 + [now + PATIENCE, now + 0.002, now, now - 1])
        try:
            future = self.engine.push(
                lambda: self.run(op),
                reads=[cell.var for cell in op.read],
                writes=[cell.var for cell in op.written],
                priority=rng.choice([0, 0, 0, 1, -1, 0.5]),
                deadline=deadline,
            )
        except (WouldDeadlock, Overloaded, DeadlineExceeded) as error:  # full where it must not wait, or too late
            self.not_pushed[type(error)] += 1
            return None
        self.futures[op.number] = future
        future.add_done_callback(lambda _: self.heard.append(op.number))
        if more and rng.random() < 0.2:
            seed = rng.random()
            future.add_done_callback(lambda _: self.push(random.Random(seed), more=False))
        return future

    def look(self, future: Future[int], rng: random.Random) -> None:
        with contextlib.suppress(Refusal, PoisonedVar, DeadlineExceeded, Cancelled, TimeoutError):
            rng.choice([future.result, future.wait_to_read, future.exception])(timeout=rng.choice([0, PATIENCE]))

    def await_some(self, rng: random.Random) -> None:
        async def main() -> None:
            mine = [future for future in (self.push(rng) for _ in range(3)) if future is not None]
            await asyncio.gather(*mine, return_exceptions=True)

        asyncio.run(main())

    def thread(self, number: int) -> None:
        rng = random.Random(self.seed * 1000 + number)
        mine: list[Future[int]] = []
        for _ in range(EACH):
            future = self.push(rng)
            if future is None:
                continue
            mine.append(future)
            what = rng.random()
            if what < 0.15:
                rng.choice(mine).cancel()
            elif what < 0.3:
                self.look(rng.choice(mine), rng)
            elif what < 0.35:
                with contextlib.suppress(TimeoutError):
                    for done in hr.as_completed(mine, timeout=rng.choice([0, PATIENCE])):
                        assert done.can_read()
            elif what < 0.4:
                with contextlib.suppress(TimeoutError, ExceptionGroup):
                    self.engine.waitall(timeout=0)
            elif what < 0.42:
                self.await_some(rng)
            elif what < 0.47:  # many at a time, most of them in the queue
                futures = [self.push(rng, more=False) for _ in range(12)]
                for future in futures:
                    if future is not None:
                        future.cancel()

    # ---- how it must be when it is over

    def check(self, until: Until) -> None:
        while True:  # a callback of the last one may have pushed one more
            with contextlib.suppress(ExceptionGroup):
                self.engine.waitall(PATIENCE)
            until(lambda: len(self.heard) >= len(self.futures))
            if not self.engine.statistics().budget.inside and len(self.heard) >= len(self.futures):
                break
        assert self.crimes == []
        assert {*Counter(self.heard).values()} == {1}, "told twice"
        assert {*self.heard} == {*self.futures}
        assert not any(future.cancel() for future in self.futures.values()), "there is an outcome already"
        self.idle(until)
        self.agrees_with_one_thread()

    def idle(self, until: Until) -> None:
        budget = self.engine.statistics().budget
        assert (budget.inside, budget.nbytes, budget.waiting) == (0, 0, 0)
        # A stream may still be on its way to bed; and then nothing is held: these four need all there is, together.
        until(lambda: (self.engine.statistics().cores_leased, self.engine.statistics().streams_running) == (0, 0))
        meet = threading.Barrier(CORES)
        everything = [cell.var for cell in self.cells]
        versions = [var.version for var in everything]
        readers = [self.engine.push(lambda: meet.wait(PATIENCE) >= 0, writes=[hr.Var()]) for _ in range(CORES)]
        assert all(reader.result(PATIENCE) for reader in readers)
        assert self.engine.push(int, writes=everything).result(PATIENCE) == 0, "an overwrite heals"
        assert [var.version for var in everything] == [version + 1 for version in versions]
        readers = [self.engine.push(lambda: meet.wait(PATIENCE) >= 0, reads=everything) for _ in range(CORES)]
        assert all(reader.result(PATIENCE) for reader in readers), "readers run together"

    def agrees_with_one_thread(self) -> None:
        assert len({*self.order}) == len(self.order), "run twice"
        logs = {cell: [*cell.log] for cell in self.cells}
        values = dict.fromkeys(self.cells, 0)
        writes = dict.fromkeys(self.cells, 0)
        outcomes: dict[int, int] = {}
        for number in self.order:  # those in conflict cannot have been in it at once
            op = self.ops[number]
            assert op.versions == [writes[cell] for cell in op.read]
            if op.fails:
                continue
            outcomes[number] = op.compute([values[cell] for cell in op.read])
            for cell in op.written:
                assert logs[cell][writes[cell]] == number
                values[cell] = hash((outcomes[number], cell.var.name))
                writes[cell] += 1
        assert values == {cell: cell.value for cell in self.cells}
        assert writes == {cell: len(cell.log) for cell in self.cells}
        assert writes == {cell: cell.var.version - 1 for cell in self.cells}  # and one when it was idle
        began = {*self.order}
        for number, future in self.futures.items():
            match future.exception(0):
                case None:
                    assert future.result(0) == outcomes[number]
                case Refusal() as error:
                    assert self.ops[number].fails
                    assert error.args == (number,)
                    assert number in began
                case PoisonedVar() as error:
                    assert isinstance(error.origin, Refusal | DeadlineExceeded)
                    if isinstance(error.origin, Refusal):
                        assert self.ops[error.origin.args[0]].fails
                        assert error.origin.args[0] in began
                    assert number not in began
                case DeadlineExceeded():
                    assert number not in began
                case error:
                    assert isinstance(error, Cancelled)


def storm(seed: int, in_threads: InThreads, until: Until) -> None:
    engine = Engine(topology=made_up(cores=CORES), max_operations=40)
    try:
        one = Storm(engine, seed)
        in_threads(*(lambda i=i: one.thread(i) for i in range(THREADS))).join()
        one.check(until)
        kinds = {type(future.exception()) for future in one.futures.values()} | {*one.not_pushed}
        assert kinds >= {type(None), Refusal, PoisonedVar, DeadlineExceeded, Cancelled}, "a storm has all of these"
    except BaseException:
        engine.close(drain=False, timeout=1)  # where something was lost, its end would be waited for for ever
        raise
    engine.close()
    assert engine.statistics().streams == 0


@pytest.mark.parametrize("seed", range(3))
def test_in_a_storm_every_future_ends_once_and_results_are_those_of_one_thread(
    seed: int, in_threads: InThreads, until: Until
) -> None:
    storm(seed, in_threads, until)


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("seed", range(3, 5))
def test_so_they_do_when_threads_change_places_all_the_time(seed: int, in_threads: InThreads, until: Until) -> None:
    storm(seed, in_threads, until)


def test_taking_the_cancelled_out_strands_nobody_behind_one_that_was_granted_meanwhile() -> None:
    # The storm found it: of two cancelled writers the first may start, and when it is taken out, so may the second.
    gate, var = Gate(), hr.Var()
    engine = Engine(topology=made_up(cores=1))
    try:
        engine.push(gate)
        gate.wait()
        for future in [engine.push(int, writes=[var]) for _ in range(3)]:
            future.cancel()
        for _ in range(2 * TOMBSTONES):
            engine.push(int).cancel()
        last = engine.push(lambda: 7, reads=[var])
        gate.open()
        assert last.result(PATIENCE) == 7
    except BaseException:
        engine.close(drain=False, timeout=1)
        raise
    engine.close()
