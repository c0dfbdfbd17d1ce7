"""A process that starts beside others that serve: it gives way to them until it is ready.

An interpreter that starts and imports uses a core for a while, which whoever is being served would miss. So it is nicer
than they are, and as they are once it is ready.

Rule 1: what cannot be taken back is not done. A niceness can be lowered again where RLIMIT_NICE or CAP_SYS_NICE say so
        (systemd: LimitNICE=20, Docker: --ulimit nice=20); that of an autogroup always can.
Rule 2: a system that has none of it, or does not let us, is no error: then it starts as everybody does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

NICE = 10
"""A tenth of the weight of what serves: on cores that are full a start takes longer, and ends."""
_CAP_SYS_NICE = 23
_PATIENCE = 1.0
"""Seconds: the kernel lets an autogroup be changed ten times a second, by all of those without privileges."""


class Gently:
    """From when it is made until `end`. Its methods raise nothing."""

    def __init__(self, pid: int) -> None:
        """`pid`: a process that was just started, in a session of its own."""
        self._pid, self._group = pid, Path(f"/proc/{pid}/autogroup")
        self._before: int | None = None
        self._grouped = _write(self._group, NICE) is None
        with contextlib.suppress(OSError, AttributeError):
            before = os.getpriority(os.PRIO_PROCESS, 0)
            if before < NICE and may_be(before):
                os.setpriority(os.PRIO_PROCESS, pid, NICE)
                self._before = before

    def end(self) -> None:
        """All of its threads are as they would have been without."""
        if self._before is not None:
            for _ in range(2):  # one that was started meanwhile is as nice as the one that started it
                with contextlib.suppress(OSError):
                    for thread in os.listdir(f"/proc/{self._pid}/task"):
                        self._come_back(int(thread), self._before)
            self._before = None
        if self._grouped:
            self._grouped = False
            until = time.monotonic() + _PATIENCE
            while _write(self._group, 0) == errno.EAGAIN and time.monotonic() < until:
                time.sleep(0.01)

    def _come_back(self, thread: int, before: int) -> None:
        with contextlib.suppress(OSError):  # it has gone
            now = os.getpriority(os.PRIO_PROCESS, thread)
            if now >= NICE:  # above: what it loaded has made itself nicer still, which stays
                os.setpriority(os.PRIO_PROCESS, thread, now - (NICE - before))


def may_be(nice: int) -> bool:
    """Whether a process of ours that is nicer may be so nice again."""
    import resource

    if 20 - nice <= resource.getrlimit(resource.RLIMIT_NICE)[0]:
        return True
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        capable = next(line for line in lines if line.startswith("CapEff:"))
        return bool(int(capable.split()[1], 16) >> _CAP_SYS_NICE & 1)
    return False


def _write(group: Path, nice: int) -> int | None:
    """What went wrong, as an errno."""
    try:
        group.write_text(str(nice))
    except OSError as error:
        return error.errno
    return None
