"""Which streams keep their threads on their own CPUs.

Rule 1: a stream of width 1 is not pinned. It gains nothing where the machine is ours, and cannot step aside where it
        is not.
Rule 2: wide streams are pinned where there are several and together they have all that this process may use: then the
        scheduler's only choices are theirs or a neighbour's. Who asked for a part of the machine shares it with
        somebody, and two processes that each pin themselves to the first cores get half of what they need.
Rule 3: nobody is pinned under a CPU quota smaller than the machine. It is counted in time, not in CPUs: others run on
        these, and whoever may not move waits behind them.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.engine.placement import Placement, bound_cpus
from headrace.engine.scheduler import Scheduler
from headrace.engine.topology import Topology


def cpus_to_keep(placements: Sequence[Placement], machine: Topology) -> tuple[tuple[int, ...], ...]:
    """For each placement the CPUs its threads are to stay on; (): wherever they like."""
    free: tuple[tuple[int, ...], ...] = ((),) * len(placements)
    if len(placements) < 2 or (machine.quota is not None and machine.quota < len(machine.physical)):
        return free
    if {cpu for placement in placements for cpu in placement.cores} != {core.cpu for core in machine.usable}:
        return free
    return tuple(placement.cores if placement.width > 1 else () for placement in placements)


def cpus_of(
    scheduler: Scheduler, placements: Sequence[Placement], cut: bool, machine: Topology
) -> tuple[tuple[int, ...], ...]:
    """For each placement the CPUs its session's threads are to stay on; (), for one or for all: any.

    `cut`: a quota cuts the engine's cores. Under `elastic` that is where its stream is, whatever else there is.
    """
    return bound_cpus(scheduler, placements, cut) or cpus_to_keep(placements, machine)
