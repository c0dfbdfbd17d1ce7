"""What looks wrong in a report of `headrace doctor`, and what to do about it.

Rule 1: the report is all that is looked at, so one that someone sent is as good as this machine.
Rule 2: every problem says what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.engine.topology import cpu_list
from headrace.wording import count_of, size_of

_OPENED = ("inference", "management", "metrics")  # this version has no gRPC door: its port is looked at, no more
THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_LOW_MEMORY = 1 << 30
_SMALL_SHM = 256 << 20  # Docker gives 64 MiB unless told


def problems(report: Mapping[str, Any]) -> list[str]:
    """What looks wrong in a report and what to do about it, gravest first; empty where nothing does."""
    return [
        *_backend_problems(report["backends"]["onnxruntime"]),
        *_port_problems(report["ports"]),
        *_core_problems(report["cores"]),
        *_memory_problems(report["memory"]),
        *_python_problems(report),
    ]


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
        cpus = f"{quota:g} CPU{'' if quota == 1 else 's'}"
        found.append(
            f"the cgroup quota is {cpus}, less than the {count_of(physical, 'core')} here, so {usable} will be "
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
            f"the cgroup allows {size_of(limit)} of memory, and a model that needs more gets the process killed: raise "
            "the container's memory limit (`docker run --memory`, Kubernetes `limits.memory`)"
        )
    elif available < _LOW_MEMORY:
        found.append(
            f"only {size_of(available)} of memory are available, and a model that needs more gets the process killed "
            "or the machine swapping: stop something else, or use a smaller model"
        )
    if shm is not None and shm < _SMALL_SHM:
        found.append(
            f"/dev/shm has {size_of(shm)}, and what passes tensors between processes there fails when it is full "
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
        for name in THREAD_SETTINGS
        if name in report["environment"]
    ]
    found += [
        f"{package} is not installed although the server is built on it: `pip install {package}`"
        for package, version in report["event_loop"].items()
        if version is None and not (package == "uvloop" and report["system"]["os"] == "Windows")  # there is none there
    ]
    return found
