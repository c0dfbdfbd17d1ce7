"""What each worker of a model may use: its share of the cores, and memory. Pure.

Frameworks read these variables when they are imported, so they are set before a worker begins. Four processes with a
full pool of threads each are slower than one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "NUMBA_NUM_THREADS",
)


@dataclass(frozen=True)
class Share:
    """What one worker may use."""

    threads: int
    cpus: tuple[int, ...] = ()
    """It stays on these; (): on any, where there is one NUMA node."""


def shares(cores: int, workers: int) -> list[int]:
    """Threads for each worker: they add up to the cores, but each has one."""
    each, rest = divmod(cores, max(1, workers))
    return [max(1, each + (i < rest)) for i in range(workers)]


def plan(nodes: Sequence[Sequence[int]], workers: int) -> list[Share]:
    """A share for each worker, by its place. `nodes`: the CPUs the model may use, by NUMA node.

    Each goes to the node that then has the most cores for each of its workers, and straddles none: a single worker on
    two nodes has the cores of one.
    """
    nodes = [node for node in nodes if node]
    if len(nodes) <= 1:
        return [Share(threads) for threads in shares(len(nodes[0]) if nodes else 1, workers)]
    counts = [0] * len(nodes)
    homes = []
    for _ in range(workers):
        home = max(range(len(nodes)), key=lambda i: (len(nodes[i]) / (counts[i] + 1), -i))
        counts[home] += 1
        homes.append(home)
    left = [iter(shares(len(node), count)) for node, count in zip(nodes, counts)]
    return [Share(next(left[home]), tuple(nodes[home])) for home in homes]


def environment(base: Mapping[str, str], threads: int) -> dict[str, str]:
    """What a worker is started with. What somebody has set himself stays."""
    made = dict(base)
    for name in THREADS:
        made.setdefault(name, str(threads))
    made.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin take the cores of other workers
    return made
