"""Cutting cores into streams, beside simple twins that try every way there is."""

import itertools
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.placement import Placement, straddles
from headrace.engine.splitting import _evenly, clean_counts, split
from headrace.engine.topology import Core, cpu_list, made_up

Row = tuple[Core, ...]
Parts = tuple[Row, ...]


def machine(*nodes: list[int]) -> Row:
    """Cores on nodes with L3s of these sizes."""
    l3s = itertools.count()
    places = [(node, next(l3s), size) for node, sizes in enumerate(nodes) for size in sizes]
    rows = [(node, l3) for node, l3, size in places for _ in range(size)]
    return tuple(Core(cpu, node, l3, node, 0) for cpu, (node, l3) in enumerate(rows))


def written(parts: Parts) -> str:
    return " | ".join(cpu_list(core.cpu for core in part) for part in parts)


@pytest.mark.parametrize(
    ("cores", "streams", "expected"),
    [
        (machine([4, 4, 4]), 2, "0-5 | 6-11"),
        (machine([4, 4, 4]), 3, "0-3 | 4-7 | 8-11"),
        (machine([4, 4, 4]), 4, "0-2 | 3-5 | 6-8 | 9-11"),
        (machine([4, 4, 4]), 5, "0-3 | 4-5 | 6-7 | 8-9 | 10-11"),  # rather than 3, 3, 2, 2, 2 with two that straddle
        (machine([4, 4, 4]), 6, "0-1 | 2-3 | 4-5 | 6-7 | 8-9 | 10-11"),
        (machine([4, 4], [4, 4]), 2, "0-7 | 8-15"),
        (machine([4, 4], [4, 4]), 6, "0-3 | 4-7 | 8-9 | 10-11 | 12-13 | 14-15"),
        (machine([3, 5], [8]), 3, "0-5 | 6-10 | 11-15"),  # 5 each is not to be had without: nobody gets less than that
        (machine([2, 6], [8]), 4, "0-3 | 4-7 | 8-11 | 12-15"),  # an L3 too small for a stream: but no node is crossed
        (machine([2, 2, 2, 2]), 3, "0-3 | 4-5 | 6-7"),  # two whole L3s are one wide stream
        (machine([1, 1, 1], [5]), 2, "0-3 | 4-7"),
        (machine([4], [4], [4], [4]), 2, "0-7 | 8-15"),  # has to cross nodes, and takes them whole
        (machine([4], [4], [4], [4]), 3, "0-5 | 6-10 | 11-15"),
    ],
)
def test_rows_by_hand(cores: Row, streams: int, expected: str) -> None:
    assert written(split(cores, streams)) == expected


def test_a_node_boundary_is_worth_more_than_all_l3_boundaries() -> None:
    cores = machine([2], [1, 3, 2])  # cuts at 3 and 6 would meet two L3s, but miss the node
    assert written(_evenly(cores, 3)) == "0-1 | 2-4 | 5-7"


def test_the_clean_counts_of_deepsparses_machine() -> None:
    assert cpu_list(clean_counts(made_up(16, nodes=2).usable)) == "2,4,6-16"
    assert cpu_list(clean_counts(made_up(12, l3_per_node=3).usable)) == "1,3,5-12"
    assert clean_counts(made_up(1).usable) == (1,)


def test_the_largest_machines_are_cut_in_no_time() -> None:
    cores = made_up(256, nodes=8, l3_per_node=4).usable
    for streams in clean_counts(cores):
        assert not any(map(straddler(cores), split(cores, streams)))


# --- twins ------------------------------------------------------------------------------------------------------------

rows = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=3).map(
    lambda nodes: machine(*nodes)[:10]
)


def straddler(cores: Row) -> Callable[[Row], bool]:
    return lambda part: straddles(Placement(tuple(core.cpu for core in part)), cores) is not None


def every_way(cores: Row, streams: int) -> Iterator[Parts]:
    """All cuts into runs of neighbours of which none is narrower than the equal split's narrowest."""
    for cuts in itertools.combinations(range(1, len(cores)), streams - 1):
        parts = tuple(cores[a:b] for a, b in itertools.pairwise((0, *cuts, len(cores))))
        if min(map(len, parts)) >= len(cores) // streams:
            yield parts


def squares(parts: Parts) -> int:
    return sum(len(part) ** 2 for part in parts)


@given(cores=rows, data=st.data())
def test_where_there_is_a_way_without_straddling_the_most_equal_one_is_taken(cores: Row, data: st.DataObject) -> None:
    streams = data.draw(st.integers(1, len(cores)))
    clean = [parts for parts in every_way(cores, streams) if not any(map(straddler(cores), parts))]
    parts = split(cores, streams)
    assert (streams in clean_counts(cores)) == bool(clean)
    if clean:
        assert not any(map(straddler(cores), parts))
        assert squares(parts) == min(map(squares, clean))


def breaks_a_node(cores: Row) -> Callable[[Row], bool]:
    """Whether a stream crosses nodes, and leaves a part of one to others."""

    def breaks(part: Row) -> bool:
        nodes = {core.node for core in part}
        return len(nodes) > 1 and len(part) < sum(core.node in nodes for core in cores)

    return breaks


@given(cores=rows, data=st.data())
def test_where_l3s_have_to_be_straddled_nodes_need_not_be(cores: Row, data: st.DataObject) -> None:
    streams = data.draw(st.integers(1, len(cores)))
    if any(not any(map(breaks_a_node(cores), parts)) for parts in every_way(cores, streams)):
        assert not any(map(breaks_a_node(cores), split(cores, streams)))


def crossings(parts: Parts) -> tuple[int, int]:
    """How many node and L3 boundaries lie inside streams."""
    inside = [pair for part in parts for pair in itertools.pairwise(part)]
    return sum(a.node != b.node for a, b in inside), sum(a.node == b.node and a.l3 != b.l3 for a, b in inside)


@given(cores=rows, data=st.data())
def test_of_equal_splits_the_one_that_crosses_least_is_taken(cores: Row, data: st.DataObject) -> None:
    streams = data.draw(st.integers(1, len(cores)))
    parts = _evenly(cores, streams)
    narrow = len(cores) // streams
    assert {len(part) for part in parts} <= {narrow, narrow + 1}
    equal = [way for way in every_way(cores, streams) if max(map(len, way)) <= narrow + 1]
    assert crossings(parts) == min(map(crossings, equal))
