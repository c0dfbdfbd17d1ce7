"""Who is pinned to which CPUs."""

from __future__ import annotations

import pytest

from headrace.engine.pinning import cpus_to_keep
from headrace.engine.placement import plan
from headrace.engine.scheduler import Scheduler
from headrace.engine.topology import Topology, made_up


def kept(machine: Topology, scheduler: Scheduler = Scheduler.multi_stream, **asked: int) -> list[tuple[int, ...]]:
    return list(cpus_to_keep(plan(scheduler, machine.usable, **asked), machine))


def test_wide_streams_that_share_out_the_machine_stay_where_they_are() -> None:
    assert kept(made_up(8), num_streams=2) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert kept(made_up(5), num_streams=3) == [(0, 1), (2, 3), ()]


@pytest.mark.parametrize("cores", [1, 2, 8])
def test_streams_of_width_one_and_a_single_stream_go_where_they_like(cores: int) -> None:
    assert kept(made_up(cores)) == [()] * cores
    assert kept(made_up(cores), Scheduler.single_stream) == [()]


def test_who_asked_for_a_part_of_the_machine_is_not_pinned_to_it() -> None:
    assert kept(made_up(8), num_cores=4, num_streams=2) == [(), ()]


@pytest.mark.parametrize(
    ("quota", "pinned"), [(8.0, True), (16.0, True), (None, True), (7.5, False), (4.0, False), (0.5, False)]
)
def test_a_quota_below_the_cores_pins_nobody(quota: float | None, pinned: bool) -> None:
    machine = made_up(8, quota=quota)
    streams = min(2, len(machine.usable))
    assert any(kept(machine, num_streams=streams)) is pinned


def test_without_streams_nobody_is_pinned() -> None:
    assert kept(made_up(8), Scheduler.naive) == []


def test_only_one_hyperthread_of_each_core_is_kept() -> None:
    assert kept(made_up(4, smt=2), num_streams=2) == [(0, 1), (2, 3)]
