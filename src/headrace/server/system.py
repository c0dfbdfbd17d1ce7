"""What the machine is doing, as MMS and TorchServe report it: looked at when somebody asks."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

MIB, GIB = 1 << 20, 1 << 30
FRESH = 1.0
"""Seconds for which what was found is good enough."""


@dataclass(frozen=True, slots=True)
class Usage:
    cpu_percent: float
    """Of all CPUs, since the look before."""
    memory_available: float
    """MiB."""
    memory_used: float
    """MiB."""
    memory_percent: float
    disk_available: float
    """GiB."""
    disk_used: float
    """GiB."""
    disk_percent: float


class System:
    """Blocks on nothing but the system calls: a share of CPU is what has passed since it was last asked for."""

    def __init__(self) -> None:
        psutil.cpu_percent(None)  # the first answer means nothing
        self._at = 0.0
        self._usage: Usage | None = None

    def usage(self) -> Usage:
        now = time.monotonic()
        if self._usage is None or now - self._at > FRESH:
            self._at = now
            memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
            self._usage = Usage(
                cpu_percent=psutil.cpu_percent(None),
                memory_available=memory.available / MIB,
                memory_used=memory.used / MIB,
                memory_percent=memory.percent,
                disk_available=disk.free / GIB,
                disk_used=disk.used / GIB,
                disk_percent=disk.percent,
            )
        return self._usage
