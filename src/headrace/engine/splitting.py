"""Cutting a row of cores into streams.

Rule 1: every core is used, streams are runs of neighbours, and none is narrower than floor(cores / streams): what an
        equal split would give its narrowest.
Rule 2: within rule 1 no stream crosses the boundary of a NUMA node, nor of an L3 unless it has all cores of each L3 it
        touches. Widths are then as equal as that allows (the least sum of their squares).
Rule 3: where that cannot be: at least no node is crossed, or is so whole; where that cannot be either, widths differ by
        at most one, and as many cuts as possible fall between nodes, then between L3s.

All is worked out over blocks: one group of cores (an L3, a node) that is cut into several streams, or several groups
that are one stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby

from headrace.engine.topology import Core

Row = tuple[Core, ...]
MayJoin = Callable[[Core, Core], bool]
"""Whether a stream may have all groups from the one with this core to the one with that core."""


def split(cores: Sequence[Core], streams: int) -> tuple[Row, ...]:
    """`cores` in so many streams; neighbours are expected side by side (`Topology.usable`)."""
    row = tuple(cores)
    floor = len(row) // streams
    return _within_l3s(row, streams, floor) or _within_nodes(row, streams, floor) or _evenly(row, streams)


def l3s_of(cores: Sequence[Core]) -> tuple[Row, ...]:
    return _runs(cores, lambda core: (core.node, core.l3))


def nodes_of(cores: Sequence[Core]) -> tuple[Row, ...]:
    return _runs(cores, lambda core: (core.node,))


def clean_counts(cores: Sequence[Core]) -> tuple[int, ...]:
    """The numbers of streams for which rule 2 can be kept."""
    groups, total = l3s_of(cores), len(cores)
    counts: list[int] = []
    reached: dict[int, int] = {}
    for streams in range(1, total + 1):
        floor = total // streams
        if floor not in reached:
            # Bit n of ways[i]: the groups from i on can be n streams.
            ways = [0] * len(groups) + [1]
            for start in reversed(range(len(groups))):
                for end, most, _ in _blocks(groups, start, floor, _same_node):
                    for streams_here in range(1, most + 1):
                        ways[start] |= ways[end] << streams_here
            reached[floor] = ways[0]
        if reached[floor] >> streams & 1:
            counts.append(streams)
    return tuple(counts)


def _within_l3s(cores: Row, streams: int, floor: int) -> tuple[Row, ...] | None:
    blocks = _choose(l3s_of(cores), streams, floor, _same_node)
    return None if blocks is None else tuple(chain.from_iterable(_evenly(block, count) for block, count in blocks))


def _within_nodes(cores: Row, streams: int, floor: int) -> tuple[Row, ...] | None:
    blocks = _choose(nodes_of(cores), streams, floor, lambda first, last: True)
    if blocks is None:
        return None
    return tuple(
        chain.from_iterable(
            (block,) if count == 1 else _within_l3s(block, count, floor) or _evenly(block, count)
            for block, count in blocks
        )
    )


def _same_node(first: Core, last: Core) -> bool:
    return first.node == last.node


def _runs(cores: Sequence[Core], key: Callable[[Core], tuple[int, ...]]) -> tuple[Row, ...]:
    return tuple(tuple(run) for _, run in groupby(cores, key))


def _blocks(groups: Sequence[Row], start: int, floor: int, may_join: MayJoin) -> Iterator[tuple[int, int, int]]:
    """The blocks that begin with group `start`: where each ends, into how many streams it may be cut, its cores."""
    size = 0
    for end in range(start + 1, len(groups) + 1):
        if not may_join(groups[start][0], groups[end - 1][0]):
            return
        size += len(groups[end - 1])
        most = size // floor
        if most:
            yield end, (most if end == start + 1 else 1), size


def _choose(groups: Sequence[Row], streams: int, floor: int, may_join: MayJoin) -> list[tuple[Row, int]] | None:
    """Blocks, and into how many streams each is cut: the most equal widths that add up to `streams`. None: no way."""
    # best[i][n]: the least sum of squares for the groups from i on as n streams; then where the first block ends, and
    # into how many it is cut. Of what is equally good the first is kept: the longest block cut the least, so wide ones
    # come first.
    best: list[dict[int, tuple[int, int, int]]] = [{} for _ in groups] + [{0: (0, 0, 0)}]
    for start in reversed(range(len(groups))):
        here = best[start]
        for end, most, size in reversed(list(_blocks(groups, start, floor, may_join))):
            for count in range(1, most + 1):
                narrow, wide = divmod(size, count)
                squares = (count - wide) * narrow**2 + wide * (narrow + 1) ** 2
                for after, (cost, _, _) in best[end].items():
                    total = after + count
                    if total <= streams and (total not in here or squares + cost < here[total][0]):
                        here[total] = squares + cost, end, count
    if streams not in best[0]:
        return None
    chosen, start, left = [], 0, streams
    while left:
        _, end, count = best[start][left]
        chosen.append((tuple(chain.from_iterable(groups[start:end])), count))
        start, left = end, left - count
    return chosen


def _evenly(cores: Row, streams: int) -> tuple[Row, ...]:
    parts, start = [], 0
    for width in _widths(cores, streams):
        parts.append(cores[start : start + width])
        start += width
    return tuple(parts)


def _widths(cores: Row, streams: int) -> list[int]:
    """The order of narrow and wide streams that gains most from its cuts. Wide ones first where it is all the same."""
    total = len(cores)
    narrow, num_wide = divmod(total, streams)
    # gain[p]: what it is worth to cut before core p. One node boundary outweighs all L3 boundaries together.
    gain = [0] * (total + 1)
    for index in range(1, total):
        before, after = cores[index - 1], cores[index]
        gain[index] = total if before.node != after.node else int(before.l3 != after.l3)
    # best[wide]: the most that can be gained with `left` streams still to place, `wide` of them wide.
    # From the last stream to the first; wide_first[left][wide] remembers the choice.
    best = [0] + [-1] * num_wide
    wide_first: list[list[bool]] = [[False] * (num_wide + 1)]
    for left in range(1, streams + 1):
        choices, values = [False] * (num_wide + 1), [-1] * (num_wide + 1)
        for wide in range(min(left, num_wide) + 1):
            if_wide = best[wide - 1] if wide else -1
            choices[wide] = if_wide >= best[wide]
            values[wide] = max(if_wide, best[wide]) + gain[total - left * narrow - wide]
        best = values
        wide_first.append(choices)
    widths = []
    for left in range(streams, 0, -1):
        is_wide = wide_first[left][num_wide]
        num_wide -= is_wide
        widths.append(narrow + is_wide)
    return widths
