"""What each worker of a model may use: its share of the cores, and memory. Pure.

Frameworks read these variables when they are imported, so they are set before a worker begins. Four processes with a
full pool of threads each are slower than one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def shares(cores: int, workers: int) -> list[int]:
    """Threads for each worker: they add up to the cores, but each has one."""
    each, rest = divmod(cores, max(1, workers))
    return [max(1, each + (i < rest)) for i in range(workers)]


def environment(base: Mapping[str, str], threads: int) -> dict[str, str]:
    """What a worker is started with. What somebody has set himself stays."""
    made = dict(base)
    for name in THREADS:
        made.setdefault(name, str(threads))
    made.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin take the cores of other workers
    return made


def cpus_of_worker(index: int, nodes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The CPUs a worker stays on, so that it straddles no NUMA node; (): any, where there is one node."""
    return tuple(nodes[index % len(nodes)]) if len(nodes) > 1 else ()
