"""What tests of worker processes look at from outside."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 20.0


def wait_for(what: Callable[[], Any]) -> Any:
    """Until `what()` is true; it is another process that makes it so."""
    until = time.monotonic() + PATIENCE
    while not (value := what()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.005)
    return value


def reached(folder: Path, count: int = 1) -> list[int]:
    """The processes that wait at the gate of `folder`."""
    wait_for(lambda: len(list(folder.glob("reached-*"))) >= count)
    return [int(path.name.partition("-")[2]) for path in folder.glob("reached-*")]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descriptors() -> dict[str, int]:
    """How many this process has of each kind."""
    kinds: dict[str, int] = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            kind = re.sub(r"\d+", "", os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds
