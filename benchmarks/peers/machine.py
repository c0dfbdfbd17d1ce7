"""What a number was measured on and with. A number without it says little."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


@functools.cache
def surroundings() -> dict[str, Any]:
    """Machine, date and commit, the same in every row of a run."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {
            "cpu": cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        },
        "wrk": first_match(r"wrk (\S+)", ["wrk", "-v"]),
    }


def cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def commit() -> str | None:
    """The commit measured, `-dirty` when the tree has changes to what is tracked. None outside a repository."""
    # No optional locks: looking must not write to a repository that somebody is working in.
    return first_match(
        r"^(\w+(-dirty)?)$",
        ["git", "-C", str(REPOSITORY), "--no-optional-locks", "describe", "--always", "--dirty", "--exclude=*"],
    )


def versions(venv: Path | None, packages: tuple[str, ...]) -> dict[str, str]:
    """Python's and the packages' versions in a virtual environment, or here. Read, not run."""
    if venv is None:
        python, where = platform.python_version(), None
    else:
        found = re.search(r"^version = (\S+)", (venv / "pyvenv.cfg").read_text(), re.MULTILINE)
        python, where = found[1] if found else "?", [str(path) for path in venv.glob("lib/python3*/site-packages")]
    installed = importlib.metadata.distributions(path=where) if where else importlib.metadata.distributions()
    known = {dist.metadata["Name"].lower(): dist.version for dist in installed}
    return {"python": python, **{package: known.get(package, "?") for package in packages}}


@functools.cache
def java() -> str | None:
    return first_match(r'version "([^"]+)"', ["java", "-version"])


def first_match(pattern: str, argv: list[str]) -> str | None:
    try:
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(pattern, ran.stdout + ran.stderr, re.MULTILINE)
    return found[1] if found else None
