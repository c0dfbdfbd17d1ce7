"""A memory limit that the kernel holds a worker to: a cgroup (version 2) of its own, where one may be made.

Rule 1: our own process is never moved. So a group is made beside ours where we may write there, or inside ours where
        that hands out memory; else there is none, and the address space is limited instead.
Rule 2: a process is put there before it is told what to load, and the group goes with it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_OOM_KILLS = "oom_kill "


class Group:
    """Of one process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def was_over(self) -> bool:
        """Whether the kernel has killed what was in it, for memory."""
        try:
            events = (self._folder / "memory.events").read_text()
        except OSError:
            return False
        return any(line.startswith(_OOM_KILLS) and line.strip() != "oom_kill 0" for line in events.splitlines())

    def close(self) -> None:
        """Its process has ended."""
        with contextlib.suppress(OSError):  # something that it has started is still ending
            os.rmdir(self._folder)


def limited(pid: int, limit: int, name: str, root: Path = Path("/")) -> Group | None:
    """A group in which this process is from now on, with at most `limit` bytes; None where it may not be made."""
    for parent in parents(root):
        folder = parent / f"headrace-{os.getpid()}-{name}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / "memory.max").write_text(str(limit))
            for file, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
                with contextlib.suppress(OSError):  # kernels without swap, or older ones
                    (folder / file).write_text(value)
            (folder / "cgroup.procs").write_text(str(pid))
        except OSError:
            Group(folder).close()
            continue
        return Group(folder)
    return None


def parents(root: Path = Path("/")) -> list[Path]:
    """The groups in which one with a memory limit could be made, ours first."""
    own = _own(root)
    if own is None:
        return []
    found = []
    for folder in (own, own.parent):
        if _hands_out_memory(folder, enable=folder == own) and os.access(folder, os.W_OK):
            found.append(folder)
    return found


def _own(root: Path) -> Path | None:
    """The group of this process, if the machine has version 2."""
    path = mount = None
    for line in _lines(root / "proc/self/cgroup"):
        if line.startswith("0::/"):
            path = line[4:]
    for line in _lines(root / "proc/self/mountinfo"):
        fields, _, kind = line.partition(" - ")
        if kind.split(" ", 1)[0] == "cgroup2":
            mount = fields.split(" ")[4]
    if path is None or mount is None:
        return None
    return root / mount.lstrip("/") / path if path else root / mount.lstrip("/")


def _hands_out_memory(folder: Path, enable: bool) -> bool:
    control = folder / "cgroup.subtree_control"
    if "memory" in " ".join(_lines(control)).split():
        return True
    if not enable or "memory" not in " ".join(_lines(folder / "cgroup.controllers")).split():
        return False
    try:  # refused where processes are in the group, which is nearly always
        control.write_text("+memory")
    except OSError:
        return False
    return True


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
