"""Cancelled operations: they cost their neighbours nothing, and pushing and cancelling stays bounded."""

from __future__ import annotations

import random

import pytest

from headrace.engine.dependencies import Dependencies, Var, accesses
from headrace.engine.engine import Engine
from headrace.engine.forgetting import Forgetting
from headrace.engine.operations import TOMBSTONES
from headrace.engine.topology import made_up
from headrace.testing import Gate


class Op:
    def __init__(self, number: int, reads: list[Var], writes: list[Var]) -> None:
        self.number = number
        self.reads, self.writes, self.needs = accesses(reads, writes)
        self.waiting_for = 0


class World:
    """Dependencies, driven by chance, with an eye on every rule."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.dependencies = rng, Dependencies[Op]()
        self.vars = [Var(str(i)) for i in range(3)]
        self.ready: list[Op] = []
        self.running: list[Op] = []
        self.waiting: list[Op] = []
        self.cancelled: list[Op] = []
        self.started: list[int] = []

    def push(self, number: int) -> None:
        chosen = [self.rng.choice(("", "r", "w", "rw")) for _ in self.vars]
        reads = [var for var, how in zip(self.vars, chosen) if "r" in how]
        writes = [var for var, how in zip(self.vars, chosen) if "w" in how]
        op = Op(number, reads, writes)
        (self.ready if self.dependencies.push(op) else self.waiting).append(op)

    def start(self) -> None:
        op = self.ready.pop(0)
        for other in self.running:
            shared = set(op.writes) & {*other.reads, *other.writes} | set(other.writes) & set(op.reads)
            assert not shared, f"{op.number} beside {other.number}"
        self.running.append(op)
        self.started.append(op.number)

    def end(self) -> None:
        self.now_ready(self.dependencies.complete(self.running.pop(self.rng.randrange(len(self.running)))))

    def cancel(self) -> None:
        self.cancelled.append(self.waiting.pop(self.rng.randrange(len(self.waiting))))

    def forget(self) -> None:
        forgetting = Forgetting(self.cancelled)
        for _ in range(self.rng.randint(1, 2)):  # as where the first time was interrupted
            forgetting.carry_out()
        self.cancelled = []
        self.now_ready(forgetting.ready)

    def now_ready(self, ops: list[Op]) -> None:
        for op in ops:
            if op in self.cancelled:  # granted before it was forgotten
                self.cancelled.remove(op)
                self.now_ready(self.dependencies.abandon(op))
            else:
                self.waiting.remove(op)
                self.ready.append(op)


@pytest.mark.parametrize("seed", range(60))
def test_forgetting_the_cancelled_breaks_no_rule_and_strands_nobody(seed: int) -> None:
    world = World(random.Random(seed))
    left = iter(range(60))
    kept: set[int] = set()
    number: int | None = 0
    while True:
        can = [world.start] * bool(world.ready) + [world.end] * bool(world.running)
        can += [world.cancel] * bool(world.waiting) + [world.forget] * bool(world.cancelled)
        if world.rng.random() < 0.4 or not can:
            number = next(left, None)
            if number is not None:
                world.push(number)
                kept.add(number)
                continue
            can = [step for step in can if step != world.cancel]
            if not can:
                break
        step = world.rng.choice(can)
        before = {op.number for op in world.waiting}
        step()
        if step == world.cancel:
            kept -= before - {op.number for op in world.waiting}
    assert not world.waiting
    assert set(world.started) == kept
    assert all(not var._queue and not var._readers and not var._writing for var in world.vars)


def test_pushing_and_cancelling_behind_a_stuck_writer_stays_bounded() -> None:
    var, gate, seen = Var(), Gate(), []
    with Engine(topology=made_up(2)) as engine:
        engine.push(gate, writes=[var])
        gate.wait()
        for _ in range(20):
            for future in [engine.push(lambda: seen.append("cancelled"), writes=[var]) for _ in range(100)]:
                assert future.cancel()
        last = engine.push(lambda: seen.append("last"), reads=[var])
        assert len(var._queue or ()) <= TOMBSTONES + 100
        gate.open()
        last.result(30)
    assert seen == ["last"]


def test_pushing_and_cancelling_behind_busy_streams_stays_bounded() -> None:
    gate, seen = Gate(), []
    with Engine(topology=made_up(1)) as engine:
        engine.push(gate)
        gate.wait()
        first = engine.push(lambda: seen.append("first"))
        for _ in range(20):
            for future in [engine.push(lambda: seen.append("cancelled")) for _ in range(100)]:
                assert future.cancel()
        last = engine.push(lambda: seen.append("last"))
        assert engine._operations is not None
        assert engine._operations.source.batches(0.0, True) <= TOMBSTONES + 100
        gate.open()
        first.result(30)
        last.result(30)
    assert seen == ["first", "last"]
