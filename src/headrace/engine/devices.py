"""The devices a model may be asked to run on: `cpu`, and `cuda:0`, `cuda:1`, … for the GPUs of the topology.

Told apart are: what is no device's name, what is not in this machine, and what is there but cannot be used yet.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.engine.topology import Topology
from headrace.errors import DeviceNotFound, InvalidOption
from headrace.wording import count_of

_FIRST_GPU = ("cuda", "gpu")
"""What people call the first GPU."""


def devices_of(topology: Topology) -> dict[str, str]:
    """Their names, and what each is."""
    cores = len(topology.usable)
    gpus = {f"cuda:{index}": name for index, name in enumerate(topology.gpus)}
    return {"cpu": count_of(cores, "core")} | gpus


def check_devices(asked: str | Sequence[str], topology: Topology) -> None:
    """What `devices=` may be: "cpu" or ["cpu"], in this version. DeviceNotFound or InvalidOption for anything else."""
    names = [asked] if isinstance(asked, str) else asked
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise InvalidOption(f"devices is the name of a device or a list of names, not {asked!r}")
    there = devices_of(topology)
    for name in names:
        known = name.lower()
        if known in _FIRST_GPU and "cuda:0" in there:
            known = "cuda:0"
        if known not in there:
            raise DeviceNotFound(name, list(there), ", ".join(f"{device} ({what})" for device, what in there.items()))
        if known != "cpu":
            raise InvalidOption(
                f"device {name!r} is there ({there[known]}), but this version runs models on the CPU: devices='cpu'"
            )
    if len(names) > 1:
        raise InvalidOption(f"devices names the CPU {len(names)} times; its cores are one device: devices='cpu'")
