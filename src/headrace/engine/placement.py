"""Which cores each stream runs on.

Rule 1: placements are disjoint, and together they are the first `num_cores` cores.
Rule 2: a placement is a run of neighbours, and widths differ by at most one: no stream is the slow one.
Rule 3: within rule 2, as many cuts as possible fall between NUMA nodes, then between L3s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.engine.scheduler import Scheduler
from headrace.engine.topology import Core, cpu_list, grouped
from headrace.errors import InvalidOption, NotEnoughCores


@dataclass(frozen=True, slots=True)
class Placement:
    """The logical CPUs one stream runs on."""

    cores: tuple[int, ...]

    @property
    def width(self) -> int:
        return len(self.cores)

    @property
    def mask(self) -> int:
        """Bit n is set for CPU n."""
        return sum(1 << cpu for cpu in self.cores)

    def __str__(self) -> str:
        return cpu_list(self.cores)


def plan(
    scheduler: Scheduler, cores: Sequence[Core], num_cores: int | None = None, num_streams: int | None = None
) -> tuple[Placement, ...]:
    """One placement for each stream, in the order of `cores` (neighbours are expected side by side: `Topology.usable`).

    `naive` has no streams and so no placements. It checks the numbers and leaves it at that, so that a call can be
    debugged by changing its scheduler and nothing else.
    """
    cores = cores[: _num_cores(num_cores, len(cores))]
    _check_count("num_streams", num_streams)
    if scheduler == Scheduler.naive:
        return ()
    if scheduler == Scheduler.single_stream:
        if num_streams not in (None, 1):
            raise InvalidOption(f"single_stream has one stream, num_streams is {num_streams}; use multi_stream")
        return (Placement(tuple(core.cpu for core in cores)),)
    if num_streams is not None and num_streams > len(cores):
        raise InvalidOption(
            f"num_streams is {num_streams}, but there are {len(cores)} cores and each stream needs one of its own; "
            f"choose 1 to {len(cores)}, or leave it out for one stream per core"
        )
    return _split(cores, num_streams or len(cores))


def straddles(placement: Placement, cores: Sequence[Core]) -> str | None:
    """What is wrong with where a placement lies: it crosses a boundary between `cores` that it need not cross.

    None where nothing is, also for one that is wider than any node or L3.
    """
    return _crosses(placement, cores, "NUMA node", lambda core: core.node) or _crosses(
        placement, cores, "L3 cache", lambda core: core.l3
    )


def _crosses(placement: Placement, cores: Sequence[Core], what: str, group_of: Callable[[Core], int]) -> str | None:
    touched = sorted({group_of(core) for core in cores if core.cpu in placement.cores})
    sizes = [len(group) for group in grouped(cores, group_of)]
    if len(touched) < 2 or placement.width > max(sizes):
        return None
    # True only of groups of one size: then each gets as many streams, and they fit.
    advice = f"; a num_streams that is a multiple of {len(sizes)} avoids it" if len(set(sizes)) == 1 else ""
    return (
        f"the stream on cores {placement} crosses from {what} {' to '.join(map(str, touched))}, "
        f"although its {placement.width} cores would fit in one, which makes it slower{advice}"
    )


def _num_cores(wanted: int | None, free: int) -> int:
    _check_count("num_cores", wanted)
    wanted = wanted or max(1, free)
    if wanted > free:
        raise NotEnoughCores(wanted, free, "ask for fewer; `headrace doctor` shows what this process may use")
    return wanted


def _check_count(name: str, value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InvalidOption(f"{name} is a whole number from 1 up, or None; {value!r} came")


def _split(cores: Sequence[Core], streams: int) -> tuple[Placement, ...]:
    placements, start = [], 0
    for width in _widths(cores, streams):
        placements.append(Placement(tuple(core.cpu for core in cores[start : start + width])))
        start += width
    return tuple(placements)


def _widths(cores: Sequence[Core], streams: int) -> list[int]:
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
