"""Several models on several engines, placed as the schedulers place them, played through step by step: what runs never
needs more cores than there are, and who needs many is not passed over."""

import random
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from test_turns import PACES, Job, Line, Stage

from headrace.engine import ownership
from headrace.engine.engine import Engine
from headrace.engine.leases import Group, Lane, Leases
from headrace.engine.placement import Placement, plan
from headrace.engine.port import Port
from headrace.engine.scheduler import Scheduler
from headrace.engine.stream import Stream
from headrace.engine.topology import Topology, made_up
from headrace.errors import Closed, InvalidOption

MACHINES = {
    "one socket": made_up(cores=4),
    "unequal nodes": made_up(cores=7, nodes=2),
    "three L3s": made_up(cores=8, l3_per_node=3),
    "a quota": made_up(cores=16, nodes=2, quota=5.5),
}


class House(Stage):
    """Engines that share out a machine: some with a number of cores, and the process's own with what they leave."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, machine: Topology, rng: random.Random) -> None:
        super().__init__(monkeypatch, cores=1)
        monkeypatch.setattr(ownership, "_topology", machine)
        monkeypatch.setattr(ownership, "_default", None)
        monkeypatch.setattr(ownership, "_held", WeakKeyDictionary())
        self.machine, self.engines = machine, []
        left = len(machine.usable)
        while left > 1 and len(self.engines) < 2 and rng.random() < 0.7:
            wanted = rng.randint(1, left - 1)
            left -= wanted
            self.engines.append(Engine(num_cores=wanted, clock=self.clock, max_operations=10_000))
        self.engines.append(Engine(clock=self.clock, max_operations=10_000))
        self.in_front: dict[Group, int] = {}  # of who stands in line: how many stood there when it came
        self.passed: dict[Group, set[tuple[int, Group]]] = {}  # and whose turn came since, on cores it waits for
        self.turns = 0
        monkeypatch.setattr(Leases, "line_up", self.watched_line_up(Leases.line_up))
        monkeypatch.setattr(Leases, "_grant", self.watched_grant(Leases._grant))
        monkeypatch.setattr(Leases, "grant", self.counted(Leases.grant))

    def watched_line_up(self, line_up: Callable[[Leases, Group], None]) -> Callable[[Leases, Group], None]:
        def watched(leases: Leases, group: Group) -> None:
            if not group.in_line:
                self.in_front[group], self.passed[group] = len(leases.line), set()
            line_up(leases, group)

        return watched

    def watched_grant(self, grant: Callable[[Leases, Lane], None]) -> Callable[[Leases, Lane], None]:
        """Who stands in line is passed by no more than stood in front of it, once by each: in its turn, a model takes
        as many streams as it has work for."""

        def watched(leases: Leases, lane: Lane) -> None:
            for group in leases.line:
                if group.in_line and group is not lane.group and any(lane.mask & each.mask for each in group.idle):
                    self.passed[group].add((self.turns, lane.group))
                    self.happened["passed"] += 1
                    assert len(self.passed[group]) <= self.in_front[group], "it was passed over"
            grant(leases, lane)

        return watched

    def counted(self, grant: Callable[..., list[Lane]]) -> Callable[..., list[Lane]]:
        def counted(leases: Leases, *work: Any) -> list[Lane]:
            self.turns += 1
            return grant(leases, *work)

        return counted

    def placed(self, rng: random.Random, engine: Engine) -> tuple[Scheduler, list[int]]:
        while True:
            policy = rng.choice([Scheduler.single_stream, Scheduler.multi_stream, Scheduler.elastic])
            cores = rng.choice([None, rng.randint(1, len(engine.cores))])
            try:
                places = plan(policy, engine.cores, cores, rng.choice([None, 1, 2, 3]))
            except InvalidOption:
                continue
            return policy, [place.mask for place in places]

    def all_streams(self) -> Iterator[Stream]:
        for engine in self.engines:
            for port in (*engine._ports, *engine._leaving):
                yield from (*port.streams, *port.former)

    def check(self) -> None:
        super().check()
        leased = 0
        for stream in self.all_streams():
            if stream.lane.running:
                assert not leased & stream.lane.mask, "two engines run on one core"
                leased |= stream.lane.mask
        assert leased.bit_count() <= len(self.machine.usable)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("seed", range(25))
def test_models_on_several_engines_never_need_more_cores_than_there_are_and_none_is_passed_over(
    seed: int, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(f"{seed} {machine}")
    house = House(monkeypatch, MACHINES[machine], rng)
    pace = PACES[rng.choice([*PACES])]
    house.pace = lambda: pace(rng)
    ports: list[Port] = []
    for i in range(rng.randint(2, 5)):
        engine = rng.choice(house.engines)
        _, masks = house.placed(rng, engine)
        ports.append(engine.attach(Line(rng.choice([1, 1, 3]), rng.choice([0.0, 0.01])), masks, f"model{i}"))
    jobs: list[Job] = []
    gone: set[Port] = set()
    for _ in range(400):
        event = rng.random()
        port = rng.choice(ports)
        if event < 0.3:
            jobs.append(Job(port.streams[0]._engine))
            house.offer(port, jobs[-1])
        elif event < 0.32:
            house.clock.advance(rng.choice([0.0001, 0.01]))
        elif event < 0.34 and port not in gone:
            house.replace(port, house.placed(rng, port.streams[0]._engine)[1])
        elif event < 0.342 and len(gone) < len(ports) - 1 and port not in gone:
            gone.add(port)
            port.streams[0]._engine.detach(port)
        else:
            house.something(rng)
    house.settle_down(rng)
    assert not house.running
    assert len(ports) < 4 or len(house.engines) > 1 or house.happened["passed"], "they were never in each other's way"
    for job in jobs:
        assert job.exception(0) is None or (gone and isinstance(job.exception(0), Closed)), "it was forgotten"
    for engine in house.engines:
        assert engine._leases.free == engine._leases.cores
        engine.close(drain=False)


def played(monkeypatch: pytest.MonkeyPatch, *placements: list[tuple[int, ...]]) -> tuple[Stage, list[Port]]:
    """Models of these placements on four cores, whose runs are long."""
    stage = Stage(monkeypatch, cores=4)
    stage.pace = lambda: 1.0
    ports = [
        stage.engine.attach(Line(1, 0), [Placement(cores).mask for cores in places], f"model{i}")
        for i, places in enumerate(placements)
    ]
    stage.settle_down(random.Random(0))
    return stage, ports


@pytest.mark.parametrize("narrow", [[(0,), (1,), (2,), (3,)], [(0, 1), (2,), (3,)], [(0, 1, 2), (3,)]])
@pytest.mark.parametrize("seed", range(10))
def test_a_wide_request_is_served_once_each_narrow_run_that_was_there_has_ended(
    narrow: list[tuple[int, ...]], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    stage, (busy, wide) = played(monkeypatch, narrow, [(0, 1, 2, 3)])
    for _ in range(200):
        stage.offer(busy, Job(stage.engine))
    while len(stage.running) < len(narrow):
        stage.something(rng)
    for _ in range(rng.randint(0, 20)):
        stage.something(rng)
    job, runs = Job(stage.engine), busy.runs
    there = busy.group.running
    stage.offer(wide, job)
    while not job.can_read():
        stage.something(rng)
    assert busy.runs - runs <= there, "narrow ones began while it waited"


def test_one_elastic_run_at_most_is_on_each_node_also_beside_other_models(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    stage = Stage(monkeypatch, cores=7)
    stage.engine.close()
    machine = made_up(cores=7, nodes=2)
    engine = Engine(topology=machine, clock=stage.clock, max_operations=10_000)
    stage.engines, stage.pace = [engine], lambda: 1.0
    ports = [
        engine.attach(Line(1, 0), [place.mask for place in plan(policy, engine.cores)], policy)
        for policy in (Scheduler.elastic, Scheduler.multi_stream, Scheduler.elastic)
    ]
    jobs: list[Any] = []
    for _ in range(60):
        for port in ports:
            jobs.append(Job(engine))
            stage.offer(port, jobs[-1])
        for _ in range(rng.randint(0, 8)):
            stage.something(rng)
            for node in 0, 1:
                cores = sum(1 << core.cpu for core in machine.usable if core.node == node)
                on_it = [s for s in stage.running if s.lane.mask & cores]
                elastic = [s for s in on_it if s.port is not ports[1]]
                assert len(elastic) <= 1
                assert not elastic or len(on_it) == 1, "an elastic run has its node to itself"
    stage.settle_down(rng)
    assert all(job.can_read() for job in jobs)
