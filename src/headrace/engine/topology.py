"""What the machine lets this process use: CPUs, caches, NUMA nodes, a CPU quota, GPUs.

Rule 1: only what the affinity allows and is online is here; a quota cuts what is left of it.
Rule 2: no file is needed and none makes it raise. What cannot be read counts as one node, one L3, no hyperthreads.
Rule 3: files are read under `root`, so a recorded tree of another machine is as good as this one. No library is loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import floor
from pathlib import Path, PurePosixPath

_HIGHEST_CPU = 65_535  # several times what Linux can be built for; a list that says more is not a CPU list
_NO_LIMIT = 1 << 60  # cgroup v1 has no word for "no limit": it says the largest number of whole pages


@dataclass(frozen=True, slots=True)
class Core:
    """A logical CPU. `node`, `l3` and `package` are numbers that are equal where these are shared.

    `l3` is never shared between nodes: where the hardware's is, each node's part counts as one.
    `smt` is the rank among those hyperthreads of its physical core which this process may use, 0 for the first.
    `slow`: an efficiency core of a machine that has faster ones too.
    """

    cpu: int
    node: int
    l3: int
    package: int
    smt: int
    slow: bool = False


@dataclass(frozen=True, slots=True)
class Topology:
    """`cores` are the logical CPUs in the affinity. `quota` is in CPU seconds per second, None without a limit."""

    cores: tuple[Core, ...]
    quota: float | None
    gpus: tuple[str, ...]

    @property
    def physical(self) -> tuple[Core, ...]:
        """One hyperthread of each physical core, neighbours side by side: by node, fast ones first, L3, number."""
        return tuple(sorted((core for core in self.cores if core.smt == 0), key=_place))

    @property
    def usable(self) -> tuple[Core, ...]:
        """What inference may use: `physical`, cut down to the quota."""
        cores = self.physical
        if self.quota is None:
            return cores
        # floor, not ceil: one thread more than the quota pays for, and the kernel stops all of them for the rest of
        # every period. That does not look like a slow machine, it looks like tail latency that nothing explains.
        return cores[: max(1, floor(self.quota))]

    @property
    def is_cut(self) -> bool:
        """Whether the quota leaves fewer cores than there are. Then how many are used is ours to say, and which the
        kernel's: another container under a quota would choose the same ones, and both would fight for them."""
        return len(self.usable) < len(self.physical)

    @property
    def nodes(self) -> tuple[tuple[Core, ...], ...]:
        """The usable cores, NUMA node by NUMA node."""
        return grouped(self.usable, lambda core: core.node)

    @property
    def l3_groups(self) -> tuple[tuple[Core, ...], ...]:
        """The usable cores, L3 by L3."""
        return grouped(self.usable, lambda core: core.l3)


def read_topology(root: Path = Path("/"), affinity: Iterable[int] | None = None) -> Topology:
    """What is there now; `affinity` in place of this process's own. GPUs are those of which their driver left files."""
    cpus = sorted(set(_own_affinity() if affinity is None else affinity)) or [0]
    online = _parse_cpu_list(_read(root / "sys/devices/system/cpu/online"))
    cpus = [cpu for cpu in cpus if cpu in online] or cpus
    return Topology(cores=_cores(root, cpus), quota=_cpu_quota(root), gpus=_gpus(root))


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes this process and those in its cgroup may use, None without a limit. The smallest on the way up counts."""
    limits = []
    for folder in _cgroup_folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _number(_read(folder / name))
            if limit is not None and 0 < limit < _NO_LIMIT:
                limits.append(limit)
    return min(limits, default=None)


def made_up(cores: int, *, nodes: int = 1, l3_per_node: int = 1, smt: int = 1, quota: float | None = None) -> Topology:
    """A machine for tests: `cores` physical cores shared out evenly, each node a socket, numbered as Linux numbers
    them (first every core's first hyperthread, then the second ones)."""
    places = [(index * nodes // cores, index * nodes * l3_per_node // cores) for index in range(cores)]
    return Topology(
        cores=tuple(
            Core(cpu=rank * cores + index, node=node, l3=l3, package=node, smt=rank)
            for rank in range(smt)
            for index, (node, l3) in enumerate(places)
        ),
        quota=quota,
        gpus=(),
    )


def cpu_list(cpus: Iterable[int]) -> str:
    """CPU numbers as Linux writes them: `0-3,8`."""
    parts = []
    # What grows by one along with its index is one range: their difference stays the same.
    for _, run in groupby(enumerate(sorted(set(cpus))), key=lambda pair: pair[1] - pair[0]):
        numbers = [cpu for _, cpu in run]
        parts.append(str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}")
    return ",".join(parts)


def grouped(cores: Iterable[Core], by: Callable[[Core], int]) -> tuple[tuple[Core, ...], ...]:
    groups: dict[int, list[Core]] = {}
    for core in cores:
        groups.setdefault(by(core), []).append(core)
    return tuple(tuple(groups[key]) for key in sorted(groups))


def _place(core: Core) -> tuple[int, bool, int, int]:
    return core.node, core.slow, core.l3, core.cpu


def _own_affinity() -> Iterable[int]:
    if hasattr(os, "sched_getaffinity"):
        # The process's, which is its main thread's: the one that asks may have been bound to less.
        return os.sched_getaffinity(os.getpid())
    return range(os.cpu_count() or 1)


# --- CPUs -------------------------------------------------------------------------------------------------------------


def _cores(root: Path, cpus: Sequence[int]) -> tuple[Core, ...]:
    system = root / "sys/devices/system"
    nodes = _nodes(system, cpus)
    packages = {cpu: max(0, _number(_read(_topology_file(system, cpu, "physical_package_id"))) or 0) for cpu in cpus}
    # The node is part of the key, so that L3s lie inside nodes: also where one spans two of them, or cannot be read.
    l3s = {cpu: (nodes[cpu], first) for cpu, first in _l3s(system, cpus).items()}
    number_of = {key: number for number, key in enumerate(sorted(set(l3s.values())))}
    ranks = _smt_ranks(system, cpus, packages)
    slow = _slow(root, cpus)
    cores = (Core(cpu, nodes[cpu], number_of[l3s[cpu]], packages[cpu], ranks[cpu], cpu in slow) for cpu in cpus)
    return tuple(sorted(cores, key=_place))


def _nodes(system: Path, cpus: Sequence[int]) -> dict[int, int]:
    found: dict[int, int] = {}
    for folder in _numbered(system / "node", "node"):
        for cpu in _parse_cpu_list(_read(folder / "cpulist")):
            found.setdefault(cpu, int(folder.name.removeprefix("node")))
    known = [found[cpu] for cpu in cpus if cpu in found]
    return {cpu: found.get(cpu, min(known, default=0)) for cpu in cpus}


def _l3s(system: Path, cpus: Sequence[int]) -> dict[int, int]:
    """For each CPU the first CPU that shares its L3, -1 where nothing says."""
    first: dict[int, int] = {}
    for cpu in cpus:
        if cpu in first:  # a neighbour's list named it: hundreds of small files need not be opened
            continue
        for cache in _numbered(system / f"cpu/cpu{cpu}/cache", "index"):
            if _number(_read(cache / "level")) != 3:
                continue
            shared = _parse_cpu_list(_read(cache / "shared_cpu_list"))
            if cpu in shared:
                for other in shared:
                    first.setdefault(other, min(shared))
    return {cpu: first.get(cpu, -1) for cpu in cpus}


def _smt_ranks(system: Path, cpus: Sequence[int], packages: dict[int, int]) -> dict[int, int]:
    ranks: dict[int, int] = {}
    seen: dict[tuple[int, ...], int] = {}
    for cpu in cpus:
        siblings = _parse_cpu_list(_read(_topology_file(system, cpu, "thread_siblings_list")))
        core_id = _number(_read(_topology_file(system, cpu, "core_id")))
        physical: tuple[int, ...]
        if cpu in siblings:
            physical = (min(siblings),)
        elif core_id is not None and core_id >= 0:  # -1 is how a kernel says that it does not know
            physical = (packages[cpu], core_id)
        else:
            physical = (0, 0, cpu)
        ranks[cpu] = seen.get(physical, 0)
        seen[physical] = ranks[cpu] + 1
    return ranks


def _slow(root: Path, cpus: Sequence[int]) -> set[int]:
    """The efficiency cores: x86 lists them, ARM gives each core's capacity. None where all are alike."""
    slow = _parse_cpu_list(_read(root / "sys/devices/cpu_atom/cpus"))
    capacity = {cpu: _number(_read(root / f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity")) or 0 for cpu in cpus}
    # Three quarters: cores of one kind differ a little where each has a top clock of its own.
    slow |= {cpu for cpu in cpus if 0 < 4 * capacity[cpu] < 3 * max(capacity.values())}
    return slow if any(cpu not in slow for cpu in cpus) else set()


def _topology_file(system: Path, cpu: int, name: str) -> Path:
    return system / f"cpu/cpu{cpu}/topology" / name


# --- cgroups ----------------------------------------------------------------------------------------------------------


def _cpu_quota(root: Path) -> float | None:
    quotas = []
    for folder in _cgroup_folders(root, "cpu"):
        v2 = (_read(folder / "cpu.max") or "").split()
        v1 = [_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")]
        for pair in (v2, v1):
            quota, period = map(_number, pair) if len(pair) == 2 else (None, None)
            if quota is not None and period is not None and quota > 0 and period > 0:  # no limit: "max" in v2, -1 in v1
                quotas.append(quota / period)
    return min(quotas, default=None)


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """The process's own cgroup and all above it, in v2 and v1; a folder need not exist.

    Inside a container the path is often the host's, while the mount begins at the container's own cgroup: walking up
    ends at the mount's root, which is then the right one.
    """
    mount = root / "sys/fs/cgroup"
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, _, line = line.partition(":")
        controllers, _, path = line.partition(":")
        if not controllers:
            mounts = [mount, mount / "unified"]
        elif controller in controllers.split(","):
            mounts = [mount / controllers, mount / controller]
        else:
            continue
        own = PurePosixPath(path.lstrip("/"))
        if ".." not in own.parts:  # a cgroup outside the namespace's root cannot be reached through the mount
            yield from (mounted / folder for mounted in mounts for folder in (own, *own.parents))
    yield from (mount, mount / controller)


# --- GPUs and files ---------------------------------------------------------------------------------------------------


def _gpus(root: Path) -> tuple[str, ...]:
    names = []
    for folder in _entries(root / "proc/driver/nvidia/gpus"):
        model = re.search(r"^Model:[ \t]*(\S.*?)\s*$", _read(folder / "information") or "", re.MULTILINE)
        if model:
            names.append(model[1])
    # A container may have the devices without the driver's files. No program is run to ask: that takes seconds.
    return tuple(names) or ("NVIDIA GPU",) * len(_numbered(root / "dev", "nvidia"))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _numbered(folder: Path, prefix: str) -> list[Path]:
    """The entries called `prefix` and a number, in the order of the numbers."""
    names = [entry for entry in _entries(folder) if re.fullmatch(prefix + r"[0-9]{1,9}", entry.name)]
    return sorted(names, key=lambda entry: int(entry.name.removeprefix(prefix)))


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\s*-?[0-9]{1,20}\s*", text) else None


def _parse_cpu_list(text: str | None) -> set[int]:
    """`0-3,8` as numbers; empty for what is not a CPU list."""
    cpus: set[int] = set()
    for part in (text or "").strip().split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if not match:
            return set()
        low, high = int(match[1]), int(match[2] or match[1])
        if not low <= high <= _HIGHEST_CPU:
            return set()
        cpus.update(range(low, high + 1))
    return cpus
