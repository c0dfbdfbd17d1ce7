"""The machine as a tree, and beside it where each scheduler's streams are: the middle of `headrace doctor`.

Rule 1: `tree_of` and `streams_of` look at a Topology; what is printed comes from the report alone.
Rule 2: all cores are shown, used or not, with the reason; but no more than MOST_ROWS rows: then L3s that are alike are
        one row for each node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace.engine.placement import plan
from headrace.engine.scheduler import Scheduler
from headrace.engine.topology import Core, Topology, cpu_list, grouped
from headrace.wording import count_of

MOST_ROWS = 24
_NARROW = 76
"""Columns below which the tree is left out: its cells would be folded to pieces."""
_SQUARES = 4
"""Of more streams than this on one L3 so many are drawn."""
_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")


def tree_of(topology: Topology) -> list[dict[str, Any]]:
    """The NUMA nodes, each with its L3s, each with its CPUs: the cores, of these the slow ones and those that a quota
    leaves unused; and the other hyperthreads, which are never used."""
    used = {core.cpu for core in topology.usable}

    def l3_of(cores: Sequence[Core]) -> dict[str, Any]:
        first = sorted(core.cpu for core in cores if core.smt == 0)
        return {
            "l3": cores[0].l3,
            "cores": first,
            "slow": sorted(core.cpu for core in cores if core.smt == 0 and core.slow),
            "unused": [cpu for cpu in first if cpu not in used],
            "hyperthreads": sorted(core.cpu for core in cores if core.smt),
        }

    return [
        {
            "node": node[0].node,
            "sockets": sorted({core.package for core in node}),
            "l3s": [l3_of(l3) for l3 in grouped(node, lambda core: core.l3)],
        }
        for node in grouped(topology.cores, lambda core: core.node)
    ]


def streams_of(topology: Topology) -> dict[str, list[list[int]]]:
    """The cores of each stream that each scheduler would make of all there are, unless told otherwise."""
    return {str(name): [list(it.cores) for it in plan(name, topology.usable)] for name in Scheduler}


def print_placements(report: Mapping[str, Any], console: Console) -> None:
    """The tree and the streams."""
    schedulers = {name: streams for name, streams in report["schedulers"].items() if streams}
    tree = report["topology"]
    if console.width < _NARROW:
        for name, streams in schedulers.items():
            console.print(Text.assemble((name, "bold"), f": {_shape(streams)} ({_listed(streams)})"))
    else:
        console.print(_table(tree, schedulers))
        console.print(Text("each ■ is one stream, with its number", style="dim"))
    for line in _notes(tree, report["cores"]["quota"]):
        console.print(Text(line, style="dim"))


def _table(tree: Sequence[Mapping[str, Any]], schedulers: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("NUMA nodes, L3s", no_wrap=True)
    table.add_column("cores", overflow="fold", min_width=8)
    for name, streams in schedulers.items():
        table.add_column(Text.assemble(name, ("\n" + _shape(streams), "dim not bold")), no_wrap=True)
    stream_on = {
        name: {cpu: index for index, cores in enumerate(streams) for cpu in cores}
        for name, streams in schedulers.items()
    }
    for where, cores, slow in _leaves(tree):
        cpus = cpu_list(cores) + (f" (slow: {cpu_list(slow)})" if slow else "")
        cells = (_streams_here(cores, on) for on in stream_on.values())
        table.add_row(Text(where, style="cyan"), Text(cpus), *(cells if cores else ()))
    return table


def _leaves(tree: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[int], list[int]]]:
    """The rows: a label with the branches of the tree, the cores, and which of these are slow."""
    in_full = sum(1 + len(node["l3s"]) for node in tree) <= MOST_ROWS
    for index, node in enumerate(tree):
        last = index == len(tree) - 1
        label = f"{'└─' if last else '├─'} node {node['node']}"
        l3s = node["l3s"]
        if len(l3s) == 1 or not in_full:
            sizes = {len(l3["cores"]) for l3 in l3s}
            each = f" of {sizes.pop()}" if len(sizes) == 1 else ""
            what = f"L3 {l3s[0]['l3']}" if len(l3s) == 1 else f"{len(l3s)} L3s{each}"
            yield f"{label}, {what}", *_cpus(l3s)
            continue
        yield label, [], []
        for number, l3 in enumerate(l3s):
            branch = "└─" if number == len(l3s) - 1 else "├─"
            yield f"{'  ' if last else '│ '} {branch} L3 {l3['l3']}", *_cpus([l3])


def _cpus(l3s: Iterable[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
    l3s = list(l3s)
    return [cpu for l3 in l3s for cpu in l3["cores"]], [cpu for l3 in l3s for cpu in l3["slow"]]


def _streams_here(cores: Iterable[int], stream_on: Mapping[int, int]) -> Text:
    """A square for each stream that has some of `cores`, and their numbers; `-` where there is none."""
    here = sorted({stream_on[cpu] for cpu in cores if cpu in stream_on})
    if not here:
        return Text("-", style="dim")
    squares = [("■", _COLOURS[index % len(_COLOURS)]) for index in here[:_SQUARES]]
    more = "…" if len(here) > _SQUARES else ""
    return Text.assemble(*squares, more, f" {cpu_list(here)}")


def _shape(streams: Sequence[Sequence[int]]) -> str:
    """How many streams there are, and of how many cores: `16 x 1 core`, `2 x 4-8 cores`."""
    widths = sorted({len(cores) for cores in streams})
    width = count_of(widths[0], "core") if len(widths) == 1 else f"{widths[0]}-{widths[-1]} cores"
    return f"{len(streams)} x {width}"


def _listed(streams: Sequence[Sequence[int]]) -> str:
    if len(streams) > 1 and all(len(cores) == 1 for cores in streams):
        return cpu_list(cpu for cores in streams for cpu in cores)
    return " | ".join(map(cpu_list, streams))


def _notes(tree: Sequence[Mapping[str, Any]], quota: float | None) -> Iterator[str]:
    """What is not used, and why."""
    l3s = [l3 for node in tree for l3 in node["l3s"]]
    hyperthreads = [cpu for l3 in l3s for cpu in l3["hyperthreads"]]
    unused = [cpu for l3 in l3s for cpu in l3["unused"]]
    if hyperthreads:
        yield (
            f"not used: {count_of(len(hyperthreads), 'hyperthread')} ({cpu_list(hyperthreads)}); each would share its "
            "core's arithmetic with the one that is"
        )
    if unused:
        yield (
            f"not used: {count_of(len(unused), 'core')} ({cpu_list(unused)}), beyond the quota of {quota:g}; which "
            "ones are used is up to the kernel, as a quota says only how many"
        )
