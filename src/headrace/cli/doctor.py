"""What `headrace doctor` says: what this process has to work with, and what looks wrong.

Rule 1: `collect` looks and changes nothing. The one thing it loads is onnxruntime, to ask it for its providers.
Rule 2: `problems` and `render` read the report only, so a report that someone sent is as good as this machine.
Rule 3: every problem says what to do about it.
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
from headrace.engine.placement import plan
from headrace.engine.scheduler import Scheduler
from headrace.engine.topology import Core, Topology, cpu_list, memory_limit, read_topology
from headrace.version import __version__

_DOORS = {"inference": 8080, "management": 8081, "metrics": 8082, "grpc": 8001}
_OPENED = ("inference", "management", "metrics")  # this version has no gRPC door: its port is looked at, no more
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# They all install the same module, and the one installed last has written over the others.
_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")
_LOW_MEMORY = 1 << 30
_SMALL_SHM = 256 << 20  # Docker gives 64 MiB unless told

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
        "schedulers": {str(name): [list(it.cores) for it in plan(name, topology.usable)] for name in Scheduler},
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
            name: os.environ[name] for name in (*_THREAD_SETTINGS, "CUDA_VISIBLE_DEVICES") if name in os.environ
        },
    }
    report["problems"] = problems(report)
    return report


def problems(report: Mapping[str, Any]) -> list[str]:
    """What looks wrong in a report and what to do about it, gravest first; empty where nothing does."""
    return [
        *_backend_problems(report["backends"]["onnxruntime"]),
        *_port_problems(report["ports"]),
        *_core_problems(report["cores"]),
        *_memory_problems(report["memory"]),
        *_python_problems(report),
    ]


def render(report: Mapping[str, Any], console: Console) -> None:
    """The report for people."""
    console.print(Text.assemble(("Headrace ", "bold"), (report["headrace"], "bold cyan")))
    _print_rows(console, _machine_rows(report))
    console.print()
    _print_rows(console, _scheduler_rows(report["schedulers"]), "scheduler", "streams", "cores")
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


# --- judging ----------------------------------------------------------------------------------------------------------


def _backend_problems(onnxruntime: Mapping[str, Any]) -> list[str]:
    packages = onnxruntime["packages"]
    found = []
    if len(packages) > 1:
        found.append(
            f"{' and '.join(packages)} are installed together, and one has written over the other: uninstall all of "
            "them, then install the one you want"
        )
    if onnxruntime["error"]:
        found.append(
            f"onnxruntime is installed but cannot be imported ({onnxruntime['error']}): install it again with "
            f"`pip install --force-reinstall {(packages or ['onnxruntime'])[0]}`"
        )
    elif not onnxruntime["providers"]:
        found.append("onnxruntime is not installed, so no ONNX model can run: `pip install onnxruntime`")
    return found


def _port_problems(ports: Mapping[str, Any]) -> list[str]:
    return [
        f"port {ports[door]['port']} ({door}) is taken, and `headrace serve` will not start there: stop what listens "
        f"(`ss -ltnp 'sport = :{ports[door]['port']}'` shows it), or give another with `--{door}-address 127.0.0.1:0`"
        for door in _OPENED
        if ports[door]["state"] == "taken"
    ]


def _core_problems(cores: Mapping[str, Any]) -> list[str]:
    allowed, physical, quota, usable = len(cores["affinity"]), cores["physical"], cores["quota"], len(cores["usable"])
    found = []
    if quota is not None and quota < physical:
        stopped = ", and even that is stopped for a part of every period" if quota < 1 else ""
        found.append(
            f"the cgroup quota is {quota:g} CPUs, less than the {_count(physical, 'core')} here, so {usable} will be "
            f"used{stopped}: if there should be more, raise the container's CPU limit (`docker run --cpus`, Kubernetes "
            "`limits.cpu`), best to a whole number"
        )
    if allowed < cores["total"]:
        found.append(
            f"this process may run on {allowed} of {cores['total']} CPUs (affinity {cpu_list(cores['affinity'])}): "
            "if the others are meant for it too, widen what narrows it (taskset, numactl, the container's cpuset)"
        )
    if usable == 1:
        found.append(
            "there is only one core to use, so requests run one after the other under every scheduler: give it more "
            "cores if callers have to wait"
        )
    return found


def _memory_problems(memory: Mapping[str, Any]) -> list[str]:
    found = []
    available, limit, shm = memory["available"], memory["limit"], memory["shm"]
    if limit is not None and limit < _LOW_MEMORY:
        found.append(
            f"the cgroup allows {_size(limit)} of memory, and a model that needs more gets the process killed: raise "
            "the container's memory limit (`docker run --memory`, Kubernetes `limits.memory`)"
        )
    elif available < _LOW_MEMORY:
        found.append(
            f"only {_size(available)} of memory are available, and a model that needs more gets the process killed or "
            "the machine swapping: stop something else, or use a smaller model"
        )
    if shm is not None and shm < _SMALL_SHM:
        found.append(
            f"/dev/shm has {_size(shm)}, and what passes tensors between processes there fails when it is full "
            "(PyTorch's data loaders do): `docker run --shm-size=1g`, in Kubernetes an emptyDir with `medium: Memory`"
        )
    return found


def _python_problems(report: Mapping[str, Any]) -> list[str]:
    found = []
    if not report["python"]["gil"]:
        found.append(
            "this Python runs without the GIL, which Headrace is not tested with: use the ordinary build, or set "
            "`PYTHON_GIL=1`"
        )
    found += [
        f"{name}={report['environment'][name]} is set and overrules the number of threads that a scheduler plans, in "
        f"libraries that obey it: `unset {name}` unless it is on purpose"
        for name in _THREAD_SETTINGS
        if name in report["environment"]
    ]
    found += [
        f"{package} is not installed although the server is built on it: `pip install {package}`"
        for package, version in report["event_loop"].items()
        if version is None and not (package == "uvloop" and report["system"]["os"] == "Windows")  # there is none there
    ]
    return found


# --- showing ----------------------------------------------------------------------------------------------------------


def _machine_rows(report: Mapping[str, Any]) -> list[Row]:
    python, system, memory, cores = report["python"], report["system"], report["memory"], report["cores"]
    gil = "" if python["gil"] else ", no GIL"
    limit = "no cgroup limit" if memory["limit"] is None else f"cgroup limit {_size(memory['limit'])}"
    shm = "" if memory["shm"] is None else f"; /dev/shm {_size(memory['shm'])}"
    usable = f"{len(cores['usable'])} usable ({cpu_list(cores['usable'])})"
    found = f"{_count(cores['total'], 'CPU')}, {len(cores['affinity'])} in the affinity, {cores['physical']} physical"
    quota = "no quota" if cores["quota"] is None else f"quota {cores['quota']:g}"
    return [
        ("Python", f"{python['implementation']} {python['version']}{gil}, {python['executable']}"),
        ("system", f"{system['os']} {system['kernel']}, {system['machine']}"),
        ("CPU", report["cpu"] or "unknown"),
        ("cores", f"{usable}, {_groups(cores['l3_groups'], 'L3')}, {_groups(cores['nodes'], 'NUMA node')}"),
        ("", f"of {found}, {quota}"),
        ("memory", f"{_size(memory['available'])} available of {_size(memory['total'])}, {limit}{shm}"),
        ("GPUs", ", ".join(_multiples(report["gpus"])) or "none"),
    ]


def _scheduler_rows(schedulers: Mapping[str, Any]) -> list[Row]:
    return [(name, str(len(places)) if places else "-", _streams(places)) for name, places in schedulers.items()]


def _streams(placements: list[list[int]]) -> str:
    if not placements:
        return "runs in the caller's thread"
    if len(placements) > 1 and all(len(cores) == 1 for cores in placements):
        return f"one core each ({cpu_list(cpu for cores in placements for cpu in cores)})"
    return " | ".join(cpu_list(cores) for cores in placements)


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
    counted = _count(len(groups), what)
    return f"{counted} ({' | '.join(map(cpu_list, groups))})" if 1 < len(groups) <= 8 else counted


def _multiples(names: list[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _size(nbytes: int) -> str:
    return f"{nbytes / (1 << 30):.1f} GiB" if nbytes >= 1 << 30 else f"{nbytes / (1 << 20):.0f} MiB"
