"""What `headrace doctor` says: what this process has to work with, and what looks wrong.

Rule 1: `collect` looks and changes nothing. The one thing it loads is onnxruntime, to ask it for its providers.
Rule 2: `render` reads the report only, so a report that someone sent is as good as this machine. So do `findings`,
        which says what looks wrong, and `placements`, which draws the machine and its streams.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace.backends._onnxruntime import import_runtime
from headrace.cli.findings import THREAD_SETTINGS, problems
from headrace.cli.placements import print_placements, streams_of, tree_of
from headrace.engine.topology import Core, Topology, cpu_list, memory_limit, read_topology
from headrace.version import __version__
from headrace.wording import count_of, size_of

_DOORS = {"inference": 8080, "management": 8081, "metrics": 8082, "grpc": 8001}
# They all install the same module, and the one installed last has written over the others.
_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")

Row = tuple[str, ...]


def collect() -> dict[str, object]:
    """The report, ready for JSON. What could not be found out is None."""
    topology = read_topology()
    report: dict[str, object] = {
        "headrace": __version__,
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "executable": sys.executable,
            "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),  # 3.13 and later can be without
        },
        "system": {"os": platform.system(), "kernel": platform.release(), "machine": platform.machine()},
        "cpu": _cpu_model(),
        "memory": _memory(),
        "cores": _cores(topology),
        "topology": tree_of(topology),
        "schedulers": streams_of(topology),
        "gpus": list(topology.gpus),
        "backends": {
            "onnxruntime": _onnxruntime(),
            "python": {"version": platform.python_version()},
            "null": {"version": __version__},
            "torch": {"version": _version("torch")},
            "openvino": {"version": _version("openvino")},
        },
        "event_loop": {"uvloop": _version("uvloop"), "httptools": _version("httptools")},
        "ports": {door: {"port": port, "state": _port_state(port)} for door, port in _DOORS.items()},
        "environment": {
            name: os.environ[name] for name in (*THREAD_SETTINGS, "CUDA_VISIBLE_DEVICES") if name in os.environ
        },
    }
    report["problems"] = problems(report)
    return report


def render(report: Mapping[str, Any], console: Console) -> None:
    """The report for people."""
    console.print(Text.assemble(("Headrace ", "bold"), (report["headrace"], "bold cyan")))
    _print_rows(console, _machine_rows(report))
    console.print()
    print_placements(report, console)
    console.print()
    _print_rows(console, _backend_rows(report["backends"]), "backend", "version", "providers")
    console.print()
    _print_rows(console, _server_rows(report))
    console.print()
    found = problems(report)
    if not found:
        console.print(Text("nothing looks wrong", style="green"))
        return
    console.print(Text("what looks wrong", style="bold yellow"))
    _print_rows(console, [(f"{number}.", problem) for number, problem in enumerate(found, start=1)])


# --- looking ----------------------------------------------------------------------------------------------------------


def _cpu_model() -> str | None:
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    model = re.search(r"^model name\s*:[ \t]*(\S.*?)\s*$", cpuinfo, re.MULTILINE)
    return model[1] if model else platform.processor() or None  # ARM kernels do not name the model


def _memory() -> dict[str, object]:
    memory = psutil.virtual_memory()
    limit = memory_limit()
    try:
        shm = shutil.disk_usage("/dev/shm").total
    except OSError:
        shm = None
    return {
        "total": memory.total,
        "available": memory.available,
        "limit": limit if limit is not None and limit < memory.total else None,  # one above the total limits nothing
        "shm": shm,
    }


def _cores(topology: Topology) -> dict[str, object]:
    def lists(groups: Iterable[Iterable[Core]]) -> list[list[int]]:
        return [[core.cpu for core in group] for group in groups]

    return {
        "total": psutil.cpu_count() or len(topology.cores),
        "affinity": sorted(core.cpu for core in topology.cores),
        "physical": len(topology.physical),
        "quota": topology.quota,
        "usable": [core.cpu for core in topology.usable],
        "l3_groups": lists(topology.l3_groups),
        "nodes": lists(topology.nodes),
    }


def _onnxruntime() -> dict[str, object]:
    packages = {name: version for name in _ONNXRUNTIMES if (version := _version(name))}
    found: dict[str, object] = {
        "version": next(iter(packages.values()), None),
        "packages": list(packages),
        "providers": [],
        "error": None,
    }
    try:
        module = import_runtime()
        found["providers"] = list(module.get_available_providers())
        found["version"] = module.__version__
    except Exception as error:  # a shared library that does not load can raise anything, and that is worth reporting
        if packages or not isinstance(error, ModuleNotFoundError):
            found["error"] = f"{type(error).__name__}: {error}"
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _port_state(port: int) -> str:
    """free, taken, or why that cannot be said."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As a server does it: connections that are still closing are in nobody's way, one who listens is.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except OSError as error:
        return "taken" if error.errno == errno.EADDRINUSE else f"unknown ({error.strerror})"
    return "free"


# --- showing ----------------------------------------------------------------------------------------------------------


def _machine_rows(report: Mapping[str, Any]) -> list[Row]:
    python, system, memory, cores = report["python"], report["system"], report["memory"], report["cores"]
    gil = "" if python["gil"] else ", no GIL"
    limit = "no cgroup limit" if memory["limit"] is None else f"cgroup limit {size_of(memory['limit'])}"
    shm = "" if memory["shm"] is None else f"; /dev/shm {size_of(memory['shm'])}"
    usable = f"{len(cores['usable'])} usable ({cpu_list(cores['usable'])})"
    found = f"{count_of(cores['total'], 'CPU')}, {len(cores['affinity'])} in the affinity, {cores['physical']} physical"
    quota = "no quota" if cores["quota"] is None else f"quota {cores['quota']:g}"
    return [
        ("Python", f"{python['implementation']} {python['version']}{gil}, {python['executable']}"),
        ("system", f"{system['os']} {system['kernel']}, {system['machine']}"),
        ("CPU", report["cpu"] or "unknown"),
        ("cores", f"{usable}, {_groups(cores['l3_groups'], 'L3')}, {_groups(cores['nodes'], 'NUMA node')}"),
        ("", f"of {found}, {quota}"),
        ("memory", f"{size_of(memory['available'])} available of {size_of(memory['total'])}, {limit}{shm}"),
        ("GPUs", ", ".join(_multiples(report["gpus"])) or "none"),
    ]


def _backend_rows(backends: Mapping[str, Any]) -> list[Row]:
    return [
        (
            name,
            backend["version"] or "not installed",
            ", ".join(it.removesuffix("ExecutionProvider") for it in backend.get("providers", ())),
        )
        for name, backend in backends.items()
    ]


def _server_rows(report: Mapping[str, Any]) -> list[Row]:
    states: dict[str, list[str]] = {}
    for name, door in report["ports"].items():
        states.setdefault(door["state"], []).append(f"{door['port']} {name}")
    rows: list[Row] = [
        ("ports", "; ".join(f"{state}: {', '.join(doors)}" for state, doors in states.items())),
        ("loop", ", ".join(f"{name} {version or 'not installed'}" for name, version in report["event_loop"].items())),
    ]
    if report["environment"]:
        rows.append(("set", ", ".join(f"{name}={value}" for name, value in report["environment"].items())))
    return rows


def _print_rows(console: Console, rows: list[Row], *headings: str) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=bool(headings), header_style="bold", pad_edge=False)
    for index in range(max(map(len, rows))):
        heading = headings[index] if headings else ""
        last = index == len(rows[0]) - 1
        table.add_column(
            heading, style="cyan" if index == 0 else None, overflow="fold", no_wrap=not last, ratio=1 if last else None
        )
    for row in rows:
        table.add_row(
            *map(Text, row)
        )  # Text: a value may have brackets in it, which a plain string would lose as markup
    console.print(table)


def _groups(groups: list[list[int]], what: str) -> str:
    """`2 NUMA nodes (0-7 | 8-15)`; of many only how many."""
    counted = count_of(len(groups), what)
    return f"{counted} ({' | '.join(map(cpu_list, groups))})" if 1 < len(groups) <= 8 else counted


def _multiples(names: list[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
