import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.placement import Placement, plan, straddles, warning
from headrace.engine.scheduler import Scheduler
from headrace.engine.topology import Core, Topology, made_up
from headrace.errors import InvalidOption, NotEnoughCores

SOCKETS = made_up(16, nodes=2, smt=2).usable  # DeepSparse's example: 2 sockets of 8 cores


def lists(placements: tuple[Placement, ...]) -> list[str]:
    return [str(placement) for placement in placements]


# --- multi_stream -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_streams", "expected", "straddling"),
    [
        (1, ["0-15"], ["0-15"]),
        (2, ["0-7", "8-15"], []),
        (3, ["0-5", "6-10", "11-15"], ["6-10"]),  # as DeepSparse places them
        (4, ["0-3", "4-7", "8-11", "12-15"], []),
        (5, ["0-3", "4-6", "7-9", "10-12", "13-15"], ["7-9"]),
        (6, ["0-2", "3-5", "6-7", "8-10", "11-13", "14-15"], []),  # the wide ones are not all first, for the boundary
        (7, ["0-2", "3-5", "6-7", "8-9", "10-11", "12-13", "14-15"], []),
        (None, [str(cpu) for cpu in range(16)], []),
    ],
)
def test_two_sockets_of_eight_cores(num_streams: int | None, expected: list[str], straddling: list[str]) -> None:
    placements = plan(Scheduler.multi_stream, SOCKETS, num_streams=num_streams)
    assert lists(placements) == expected
    assert [str(it) for it in placements if straddles(it, SOCKETS)] == straddling


def test_hyperthreads_are_not_used() -> None:
    assert max(cpu for it in plan(Scheduler.multi_stream, SOCKETS) for cpu in it.cores) == 15
    with pytest.raises(NotEnoughCores, match="hyperthreads do not count"):
        plan(Scheduler.multi_stream, SOCKETS, num_cores=32)


def test_the_first_cores_are_taken_in_the_order_they_come() -> None:
    cores = [Core(cpu=cpu, node=0, l3=0, package=0, smt=0) for cpu in (4, 9, 2, 7)]
    first, second = plan(Scheduler.multi_stream, cores, num_cores=3, num_streams=2)
    assert (first.cores, second.cores) == ((4, 9), (2,))
    assert (first.width, first.mask) == (2, 0b1000010000)


# --- the others -------------------------------------------------------------------------------------------------------


def test_single_stream_has_all_cores() -> None:
    assert lists(plan(Scheduler.single_stream, SOCKETS)) == ["0-15"]
    assert lists(plan(Scheduler.single_stream, SOCKETS, num_cores=5, num_streams=1)) == ["0-4"]


def test_naive_has_no_placements() -> None:
    assert plan(Scheduler.naive, SOCKETS) == ()
    assert plan(Scheduler.naive, SOCKETS, num_cores=4, num_streams=2) == ()


@pytest.mark.parametrize(
    ("machine", "num_cores", "num_streams", "expected"),
    [
        (made_up(16, nodes=2, l3_per_node=2, smt=2), None, None, ["0-7", "8-15"]),  # nodes, whatever L3s are in them
        (made_up(16, l3_per_node=2), None, None, ["0-7", "8-15"]),  # one node: its L3s
        (made_up(4), None, None, ["0-3"]),
        (made_up(1), None, None, ["0"]),
        (made_up(16, nodes=2), None, 2, ["0-7", "8-15"]),
        (made_up(16, nodes=2), None, 1, ["0-7"]),
        (made_up(16, nodes=2), 12, None, ["0-7", "8-11"]),  # of unequal widths, if that is what is there
        (made_up(16, nodes=2, l3_per_node=2), 8, None, ["0-3", "4-7"]),  # these lie on one node
        (made_up(16, nodes=2, quota=9.7), None, None, ["0-7", "8"]),
        (made_up(256, nodes=8, l3_per_node=4), None, None, [f"{n}-{n + 31}" for n in range(0, 256, 32)]),
    ],
)
def test_elastic_has_one_stream_on_each_node_or_else_on_each_l3(
    machine: Topology, num_cores: int | None, num_streams: int | None, expected: list[str]
) -> None:
    assert lists(plan(Scheduler.elastic, machine.usable, num_cores, num_streams)) == expected


def test_elastic_takes_the_widest_nodes_where_not_all_are_wanted() -> None:
    cores = [Core(cpu, node, node, node, 0) for cpu, node in enumerate([0, 1, 1, 1, 2, 2, 3, 3, 3])]
    assert lists(plan(Scheduler.elastic, cores, num_streams=2)) == ["1-3", "6-8"]
    assert lists(plan(Scheduler.elastic, cores, num_streams=3)) == ["1-3", "4-5", "6-8"]


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
    with pytest.raises(NotEnoughCores, match="17 cores were asked for, 16 are free: ask for fewer") as refused:
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


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (
            made_up(16, nodes=2),
            "at most one request on each NUMA node, and there are 2 NUMA nodes here, but num_streams",
        ),
        (made_up(16, nodes=2), "num_streams is 3; choose 1 to 2, or scheduler='multi_stream' to have several"),
        (made_up(8, l3_per_node=2), r"on each L3 cache \(all cores are on one NUMA node\), and there are 2 L3 caches"),
        (made_up(8), "there is 1 L3 cache here, but num_streams is 3; choose 1, or"),
    ],
)
def test_more_elastic_streams_than_places(machine: Topology, says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        plan(Scheduler.elastic, machine.usable, num_streams=3)


# --- straddling -------------------------------------------------------------------------------------------------------


def said(cores: tuple[Core, ...], num_streams: int, scheduler: Scheduler = Scheduler.multi_stream) -> str | None:
    return warning(scheduler, plan(scheduler, cores, num_streams=num_streams), cores)


def test_what_straddles_is_named_with_the_counts_that_do_not() -> None:
    assert said(SOCKETS, 3) == (
        "num_streams=3 on 16 cores: stream 1 (cores 6-10) straddles NUMA nodes 0 and 1. A stream that straddles is "
        "slower; none does with num_streams = 2, 4, 6-16"
    )


def test_an_l3_boundary_is_one_too() -> None:
    assert "stream 1 (cores 3-5) straddles L3 caches 0 and 1; stream 2 (cores 6-8) straddles L3 caches 1 and 2." in (
        said(made_up(12, l3_per_node=3).usable, 4) or ""
    )


def test_who_has_all_of_several_l3s_shares_none_and_straddles_none() -> None:
    cores = made_up(16, nodes=2, l3_per_node=2).usable
    assert said(cores, 2) is None
    assert straddles(Placement(tuple(range(8))), cores) is None
    assert straddles(Placement(tuple(range(6))), cores) == "L3 caches 0 and 1"


def test_of_many_streams_that_straddle_some_are_named() -> None:
    text = said(made_up(256, nodes=8, l3_per_node=4).usable, 12)
    assert text is not None
    assert "NUMA nodes 0 and 1" in text
    assert "; and 8 more streams do so." in text
    assert len(text) < 450


def test_nothing_is_said_where_nothing_straddles_or_it_was_not_streams_that_were_asked_for() -> None:
    assert said(SOCKETS, 4) is None
    assert said(SOCKETS, 2, Scheduler.elastic) is None
    assert said(SOCKETS, 1, Scheduler.single_stream) is None
    assert warning(Scheduler.naive, (), SOCKETS) is None


def test_the_counts_are_those_of_the_cores_in_use() -> None:
    placements = plan(Scheduler.multi_stream, SOCKETS, num_cores=12, num_streams=2)
    assert (warning(Scheduler.multi_stream, placements, SOCKETS) or "").endswith("num_streams = 3, 5-12")


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
def test_placements_are_disjoint_cover_the_cores_and_give_each_its_share(
    machine: Topology, data: st.DataObject
) -> None:
    cores = machine.usable
    num_cores = data.draw(st.integers(1, len(cores)))
    num_streams = data.draw(st.integers(1, num_cores))
    placements = plan(Scheduler.multi_stream, cores, num_cores=num_cores, num_streams=num_streams)
    assert len(placements) == num_streams
    # In order, each once and none left out: disjoint, covering and contiguous in one.
    assert [cpu for it in placements for cpu in it.cores] == [core.cpu for core in cores[:num_cores]]
    assert sum(it.mask for it in placements) == plan(Scheduler.single_stream, cores, num_cores=num_cores)[0].mask
    assert min(it.width for it in placements) == num_cores // num_streams


@given(machine=machines)
def test_elastic_streams_lie_in_one_place_each_and_no_two_in_the_same(machine: Topology) -> None:
    cores = machine.usable
    placements = plan(Scheduler.elastic, cores)
    places = [{(core.node, core.l3) for core in cores if core.cpu in it.cores} for it in placements]
    if len(machine.nodes) > 1:
        assert [{node for node, _ in place} for place in places] == [{node[0].node} for node in machine.nodes]
    else:
        assert [{l3 for _, l3 in place} for place in places] == [{group[0].l3} for group in machine.l3_groups]
    assert [cpu for it in placements for cpu in it.cores] == [core.cpu for core in cores]


@given(machine=machines, data=st.data())
def test_the_widths_never_add_up_to_more_than_the_quota(machine: Topology, data: st.DataObject) -> None:
    scheduler = data.draw(st.sampled_from([it for it in Scheduler if it is not Scheduler.naive]))
    width = sum(it.width for it in plan(scheduler, machine.usable))
    assert width <= max(1, machine.quota or 64)  # who has less than one core's worth still needs one
