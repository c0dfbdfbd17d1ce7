"""Which cores each stream runs on.

Rule 1: placements are disjoint, and lie in the first `num_cores` cores. A core is a physical one: of its hyperthreads
        one is used, the others never.
Rule 2: multi_stream cuts all those cores into `num_streams` (`splitting` says where). What was asked for is placed,
        also where a stream has to straddle; `warning` says so then.
Rule 3: elastic has one placement for each NUMA node, or for each L3 where there is one node; never two in one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.engine.scheduler import Scheduler
from headrace.engine.splitting import clean_counts, l3s_of, nodes_of, split
from headrace.engine.topology import Core, cpu_list
from headrace.errors import InvalidOption, NotEnoughCores
from headrace.wording import are, count_of, up_to

_NAMED = 4
"""How many straddling streams a warning names."""


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
        parts: Sequence[Sequence[Core]] = (cores,)
    elif scheduler == Scheduler.elastic:
        parts = _elastic(cores, num_streams)
    elif num_streams is not None and num_streams > len(cores):
        raise InvalidOption(
            f"num_streams is {num_streams}, but there {are(len(cores))} {count_of(len(cores), 'core')} and each stream "
            f"needs one of its own; choose {up_to(len(cores))}, or leave it out for one stream per core"
        )
    else:
        parts = split(cores, num_streams or len(cores))
    return tuple(Placement(tuple(core.cpu for core in part)) for part in parts)


def bound_cpus(scheduler: Scheduler, placements: Sequence[Placement], cut: bool) -> tuple[tuple[int, ...], ...]:
    """The CPUs each stream's threads are to stay on; (): any. `cut`: a quota cuts the cores."""
    # Where there is one place only, all is near; and which cores a quota leaves is not ours to say.
    if scheduler != Scheduler.elastic or len(placements) < 2 or cut:
        return ()
    return tuple(placement.cores for placement in placements)


def straddles(placement: Placement, cores: Sequence[Core]) -> str | None:
    """What a placement on `cores` straddles: `NUMA nodes 0 and 1`; None where it does not.

    Several L3s of one node are not straddled by who has all of each: that is a wide stream, which shares none of them.
    Several nodes always are: part of its memory is far away.
    """
    own = set(placement.cores)
    nodes = sorted({core.node for core in cores if core.cpu in own})
    if len(nodes) > 1:
        return f"NUMA nodes {_listed(nodes)}"
    l3s = sorted({core.l3 for core in cores if core.cpu in own})
    if len(l3s) > 1 and any(core.l3 in l3s and core.cpu not in own for core in cores):
        return f"L3 caches {_listed(l3s)}"
    return None


def warning(scheduler: Scheduler, placements: Sequence[Placement], cores: Sequence[Core]) -> str | None:
    """What is to be said about multi_stream `placements`, which are all that `plan` made of `cores`. None: nothing."""
    if scheduler != Scheduler.multi_stream:
        return None
    used = sum(placement.width for placement in placements)
    found = [
        f"stream {index} (core{'' if placement.width == 1 else 's'} {placement}) straddles {what}"
        for index, placement in enumerate(placements)
        if (what := straddles(placement, cores[:used]))
        is not None  # whoever has all of each of those leaves nobody out
    ]
    if not found:
        return None
    if len(found) > _NAMED:
        more = len(found) - _NAMED
        found[_NAMED:] = [f"and {count_of(more, 'more stream')} {'does' if more == 1 else 'do'} so"]
    return (
        f"num_streams={len(placements)} on {count_of(used, 'core')}: {'; '.join(found)}. A stream that straddles is "
        f"slower; none does with num_streams = {_ranges(clean_counts(cores[:used]))}"
    )


def _elastic(cores: Sequence[Core], num_streams: int | None) -> list[Sequence[Core]]:
    groups = nodes_of(cores)
    on_each, there_are = "NUMA node", count_of(len(groups), "NUMA node")
    if len(groups) == 1:
        groups = l3s_of(cores)
        on_each = "L3 cache (all cores are on one NUMA node)"
        there_are = count_of(len(groups), "L3 cache")
    if num_streams is not None and num_streams > len(groups):
        raise InvalidOption(
            f"elastic runs at most one request on each {on_each}, and there {are(len(groups))} "
            f"{there_are} here, but num_streams is {num_streams}; choose {up_to(len(groups))}, or "
            "scheduler='multi_stream' to have several requests on one"
        )
    # The widest, where not all are wanted: sorting is stable, so of equal ones the first.
    widest = sorted(range(len(groups)), key=lambda index: -len(groups[index]))[:num_streams]
    return [groups[index] for index in sorted(widest)]


def _num_cores(wanted: int | None, free: int) -> int:
    _check_count("num_cores", wanted)
    wanted = wanted or max(1, free)
    if wanted > free:
        raise NotEnoughCores(
            wanted,
            free,
            "ask for fewer, or leave num_cores out for all of them; hyperthreads do not count, and `headrace doctor` "
            "shows what this process may use",
        )
    return wanted


def _check_count(name: str, value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InvalidOption(f"{name} is a whole number from 1 up, or None; {value!r} came")


def _listed(numbers: Sequence[int]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def _ranges(numbers: Sequence[int]) -> str:
    return cpu_list(numbers).replace(",", ", ")
