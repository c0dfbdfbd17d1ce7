import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.placement import Placement, plan, straddles
from headrace.engine.scheduler import Scheduler
from headrace.engine.topology import Core, Topology, made_up
from headrace.errors import InvalidOption, NotEnoughCores

SOCKETS = made_up(16, nodes=2, smt=2).usable  # DeepSparse's example: 2 sockets of 8 cores


def lists(placements: tuple[Placement, ...]) -> list[str]:
    return [str(placement) for placement in placements]


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_streams", "expected", "straddling"),
    [
        (1, ["0-15"], []),  # has to straddle, so nothing is wrong with it
        (2, ["0-7", "8-15"], []),
        (3, ["0-5", "6-10", "11-15"], ["6-10"]),
        (4, ["0-3", "4-7", "8-11", "12-15"], []),
        (5, ["0-3", "4-6", "7-9", "10-12", "13-15"], ["7-9"]),
        (6, ["0-2", "3-5", "6-7", "8-10", "11-13", "14-15"], []),  # the wide ones are not all first, for the boundary
        (None, [str(cpu) for cpu in range(16)], []),
    ],
)
def test_two_sockets_of_eight_cores(num_streams: int | None, expected: list[str], straddling: list[str]) -> None:
    placements = plan(Scheduler.multi_stream, SOCKETS, num_streams=num_streams)
    assert lists(placements) == expected
    assert [str(it) for it in placements if straddles(it, SOCKETS)] == straddling


@pytest.mark.parametrize(
    ("num_streams", "expected"),
    [
        (2, ["0-5", "6-11"]),
        (3, ["0-3", "4-7", "8-11"]),
        (4, ["0-2", "3-5", "6-8", "9-11"]),
        (5, ["0-2", "3-5", "6-7", "8-9", "10-11"]),  # one cut of two at an L3 is all that these widths allow
        (6, ["0-1", "2-3", "4-5", "6-7", "8-9", "10-11"]),
    ],
)
def test_three_l3s_of_four_cores(num_streams: int, expected: list[str]) -> None:
    assert lists(plan(Scheduler.multi_stream, made_up(12, l3_per_node=3).usable, num_streams=num_streams)) == expected


def test_a_node_boundary_is_worth_more_than_all_l3_boundaries() -> None:
    l3s = [0, 0, 1, 2, 2, 2, 3, 3]  # cuts at 3 and 6 would meet two of them, but miss the node
    cores = [Core(cpu=cpu, node=int(cpu >= 2), l3=l3, package=0, smt=0) for cpu, l3 in enumerate(l3s)]
    assert lists(plan(Scheduler.multi_stream, cores, num_streams=3)) == ["0-1", "2-4", "5-7"]


def test_single_stream_has_all_cores() -> None:
    assert lists(plan(Scheduler.single_stream, SOCKETS)) == ["0-15"]
    assert lists(plan(Scheduler.single_stream, SOCKETS, num_cores=5, num_streams=1)) == ["0-4"]


def test_naive_has_no_placements() -> None:
    assert plan(Scheduler.naive, SOCKETS) == ()
    assert plan(Scheduler.naive, SOCKETS, num_cores=4, num_streams=2) == ()


def test_the_first_cores_are_taken_in_the_order_they_come() -> None:
    cores = [Core(cpu=cpu, node=0, l3=0, package=0, smt=0) for cpu in (4, 9, 2, 7)]
    first, second = plan(Scheduler.multi_stream, cores, num_cores=3, num_streams=2)
    assert (first.cores, second.cores) == ((4, 9), (2,))
    assert (first.width, first.mask) == (2, 0b1000010000)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", Scheduler)
@pytest.mark.parametrize("count", [0, -1, True, False, 2.0, "2", [2]])
def test_counts_are_whole_numbers_from_one_up(scheduler: Scheduler, count: object) -> None:
    with pytest.raises(InvalidOption, match="num_cores is a whole number from 1 up"):
        plan(scheduler, SOCKETS, num_cores=count)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="num_streams is a whole number from 1 up"):
        plan(scheduler, SOCKETS, num_streams=count)  # type: ignore[arg-type]


@pytest.mark.parametrize("scheduler", Scheduler)
def test_more_cores_than_there_are(scheduler: Scheduler) -> None:
    with pytest.raises(NotEnoughCores) as refused:
        plan(scheduler, SOCKETS, num_cores=17)
    assert (refused.value.wanted, refused.value.free) == (17, 16)


@pytest.mark.parametrize("scheduler", Scheduler)
def test_no_cores_at_all(scheduler: Scheduler) -> None:
    with pytest.raises(NotEnoughCores):
        plan(scheduler, [])


def test_single_stream_has_no_second_stream() -> None:
    with pytest.raises(InvalidOption, match=r"single_stream has one stream.*use multi_stream"):
        plan(Scheduler.single_stream, SOCKETS, num_streams=2)


def test_more_streams_than_cores() -> None:
    with pytest.raises(InvalidOption, match="choose 1 to 4"):
        plan(Scheduler.multi_stream, SOCKETS, num_cores=4, num_streams=5)


# --- straddling -------------------------------------------------------------------------------------------------------


def test_a_straddling_stream_is_told_what_it_crosses_and_what_avoids_it() -> None:
    sentence = straddles(plan(Scheduler.multi_stream, SOCKETS, num_streams=3)[1], SOCKETS)
    assert sentence is not None
    assert "cores 6-10 crosses from NUMA node 0 to 1" in sentence
    assert "a num_streams that is a multiple of 2 avoids it" in sentence


def test_an_l3_boundary_is_one_too() -> None:
    cores = made_up(8, l3_per_node=2).usable
    assert "L3 cache 0 to 1" in (straddles(Placement((3, 4)), cores) or "")
    assert straddles(Placement((0, 1, 2, 3)), cores) is None
    assert straddles(Placement((0, 1, 2, 3, 4)), cores) is None  # wider than any


def test_advice_is_given_only_where_it_holds() -> None:
    cores = made_up(16, nodes=2).usable[:12]  # 8 and 4: a multiple of two cuts in the middle of the 8
    sentence = straddles(Placement((7, 8)), cores)
    assert sentence is not None
    assert "multiple" not in sentence


@given(groups=st.integers(1, 6), size=st.integers(1, 12), times=st.integers(1, 12))
def test_the_advice_is_true(groups: int, size: int, times: int) -> None:
    cores = made_up(groups * size, nodes=groups).usable
    num_streams = groups * min(times, size)
    assert not any(straddles(it, cores) for it in plan(Scheduler.multi_stream, cores, num_streams=num_streams))


# --- for any machine --------------------------------------------------------------------------------------------------

machines = st.builds(
    made_up,
    st.integers(1, 64),
    nodes=st.integers(1, 4),
    l3_per_node=st.integers(1, 4),
    smt=st.integers(1, 2),
    quota=st.none() | st.floats(0.1, 80),
)


@given(machine=machines, data=st.data())
def test_placements_are_disjoint_cover_the_cores_and_are_of_one_size(machine: Topology, data: st.DataObject) -> None:
    cores = machine.usable
    num_cores = data.draw(st.integers(1, len(cores)))
    num_streams = data.draw(st.integers(1, num_cores))
    placements = plan(Scheduler.multi_stream, cores, num_cores=num_cores, num_streams=num_streams)
    assert len(placements) == num_streams
    # In order, each once and none left out: disjoint, covering and contiguous in one.
    assert [cpu for it in placements for cpu in it.cores] == [core.cpu for core in cores[:num_cores]]
    assert sum(it.mask for it in placements) == plan(Scheduler.single_stream, cores, num_cores=num_cores)[0].mask
    widths = {it.width for it in placements}
    assert max(widths) - min(widths) <= 1
    assert min(widths) >= 1


def crossings(cores: tuple[Core, ...], widths: tuple[int, ...]) -> tuple[int, int]:
    """How many node and L3 boundaries lie inside streams of these widths."""
    cuts = set(itertools.accumulate(widths))
    inside = [(cores[i - 1], cores[i]) for i in range(1, len(cores)) if i not in cuts]
    return sum(a.node != b.node for a, b in inside), sum(a.node == b.node and a.l3 != b.l3 for a, b in inside)


@given(
    machine=st.builds(made_up, st.integers(1, 12), nodes=st.integers(1, 3), l3_per_node=st.integers(1, 3)),
    data=st.data(),
)
def test_no_other_order_of_widths_crosses_less(machine: Topology, data: st.DataObject) -> None:
    """The simple twin: try every order."""
    cores = machine.usable
    num_streams = data.draw(st.integers(1, len(cores)))
    widths = tuple(it.width for it in plan(Scheduler.multi_stream, cores, num_streams=num_streams))
    narrow, num_wide = divmod(len(cores), num_streams)
    orders = [
        tuple(narrow + (index in wide) for index in range(num_streams))
        for wide in itertools.combinations(range(num_streams), num_wide)
    ]
    assert crossings(cores, widths) == min(crossings(cores, order) for order in orders)
