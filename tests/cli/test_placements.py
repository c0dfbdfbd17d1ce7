"""The drawing of the machine and its streams. Screens are compared whole: they are what people see."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from headrace.cli.placements import MOST_ROWS, print_placements, streams_of, tree_of
from headrace.engine.topology import Core, Topology, made_up


def report_of(topology: Topology) -> dict[str, Any]:
    cores = {"quota": topology.quota}
    report = {"topology": tree_of(topology), "schedulers": streams_of(topology), "cores": cores}
    again: dict[str, Any] = json.loads(json.dumps(report))
    assert again == report
    return again


def screen(topology: Topology, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    print_placements(report_of(topology), console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


def test_two_sockets_with_two_l3s_each_and_hyperthreads() -> None:
    assert screen(made_up(16, nodes=2, l3_per_node=2, smt=2), 100) == [
        "                           single_stream  multi_stream  elastic",
        "NUMA nodes, L3s  cores     1 x 16 cores   16 x 1 core   2 x 8 cores",
        "├─ node 0",
        "│  ├─ L3 0       0-3       ■ 0            ■■■■ 0-3      ■ 0",
        "│  └─ L3 1       4-7       ■ 0            ■■■■ 4-7      ■ 0",
        "└─ node 1",
        "   ├─ L3 2       8-11      ■ 0            ■■■■ 8-11     ■ 1",
        "   └─ L3 3       12-15     ■ 0            ■■■■ 12-15    ■ 1",
        "each ■ is one stream, with its number",
        "not used: 16 hyperthreads (16-31); each would share its core's arithmetic with the one that is",
    ]


def test_cores_beyond_the_quota_are_shown_as_unused() -> None:
    assert screen(made_up(16, nodes=2, quota=5.5), 100)[1:] == [
        "NUMA nodes, L3s  cores     1 x 5 cores    5 x 1 core    1 x 5 cores",
        "├─ node 0, L3 0  0-7       ■ 0            ■■■■… 0-4     ■ 0",
        "└─ node 1, L3 1  8-15      -              -             -",
        "each ■ is one stream, with its number",
        "not used: 11 cores (5-15), beyond the quota of 5.5; which ones are used is up to the kernel, as a",
        "quota says only how many",
    ]


def test_streams_of_unequal_widths_and_slow_cores_are_said() -> None:
    nodes = [(0, False), (0, False), (0, True), (1, False)]
    topology = Topology(tuple(Core(cpu, node, node, 0, 0, slow) for cpu, (node, slow) in enumerate(nodes)), None, ())
    lines = screen(topology)
    assert lines[1].endswith("4 x 1 core    2 x 1-3 cores")
    assert " ".join(lines[2].split()) == "├─ node 0, L3 0 0-2 (slow: 2) ■ 0 ■■■ 0-2 ■ 0"


def test_a_machine_of_one_of_everything() -> None:
    assert screen(made_up(1))[2] == "└─ node 0, L3 0  0         ■ 0            ■ 0           ■ 0"


def test_many_l3s_are_one_row_for_each_node() -> None:
    lines = screen(made_up(256, nodes=8, l3_per_node=4))
    assert len([line for line in lines if "─ node" in line]) == 8
    assert len(lines) < MOST_ROWS
    assert lines[2] == "├─ node 0, 4 L3s of 8  0-31      ■ 0            ■■■■… 0-31     ■ 0"


def test_a_narrow_screen_gets_a_list() -> None:
    assert screen(made_up(8, nodes=2), 50) == [
        "single_stream: 1 x 8 cores (0-7)",
        "multi_stream: 8 x 1 core (0-7)",
        "elastic: 2 x 4 cores (0-3 | 4-7)",
    ]


@pytest.mark.parametrize("width", [30, 76, 80, 120])
@pytest.mark.parametrize(
    "topology",
    [
        made_up(1),
        made_up(256, nodes=8, l3_per_node=4, smt=2),
        made_up(64, l3_per_node=16, quota=7.5),
        Topology(tuple(Core(cpu, cpu % 2, cpu % 2, cpu % 2, 0) for cpu in range(64)), None, ()),  # numbers alternate
    ],
)
def test_it_fits_the_width_and_shows_every_core(topology: Topology, width: int) -> None:
    assert max(map(len, screen(topology, width))) <= width


def test_the_report_names_every_core_once_and_all_hyperthreads() -> None:
    topology = made_up(16, nodes=2, l3_per_node=2, smt=2, quota=12.5)
    l3s = [l3 for node in tree_of(topology) for l3 in node["l3s"]]
    assert [cpu for l3 in l3s for cpu in l3["cores"]] == list(range(16))
    assert sorted(cpu for l3 in l3s for cpu in l3["hyperthreads"]) == list(range(16, 32))
    assert [cpu for l3 in l3s for cpu in l3["unused"]] == [12, 13, 14, 15]
    assert [(node["node"], node["sockets"]) for node in tree_of(topology)] == [(0, [0]), (1, [1])]


def test_the_streams_are_those_of_the_scheduler_itself() -> None:
    streams = streams_of(made_up(8, nodes=2))
    assert streams["elastic"] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert streams["multi_stream"] == [[cpu] for cpu in range(8)]
    assert streams["single_stream"] == [list(range(8))]
    assert streams["naive"] == []
