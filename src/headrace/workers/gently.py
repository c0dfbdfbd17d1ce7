"""A process that starts beside others that serve: it gives way to them until it is ready.

An interpreter that starts and imports uses a core for a while, which whoever is being served would miss. So the kernel
is told that it runs when nobody else does (SCHED_IDLE): it leaves its core at once to whoever wakes up there, where one
that is merely nicer ends its slice first. On cores that are always full it would never be ready: so for AT_ONCE seconds
alone, then it is merely nicer. Once it is ready it is as they are.

Rule 1: what cannot be taken back is not done: that takes RLIMIT_NICE or CAP_SYS_NICE (systemd: LimitNICE=20, Docker:
        --ulimit nice=20), and is tried: in a user namespace (containers without root) we have that capability, and it
        counts for nothing. Where it cannot, there is the niceness of an autogroup, which always can.
Rule 2: where the kernel groups sessions (autogroups), niceness counts between the threads of one, and a session of its
        own would be as much as the whole server, however nice its threads. So who can take it back stays in ours.
Rule 3: a system that has none of it, or does not let us, is no error: then it starts as everybody does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NICE = 10
"""A tenth of the weight of what serves: on cores that are full a start takes longer, and ends."""
AT_ONCE = 1.0
"""Seconds."""
_PATIENCE = 1.0
"""Seconds: the kernel lets an autogroup be changed ten times a second, by all of those without privileges."""


class Gently:
    """From when it is made until `end`. Its methods raise nothing."""

    def __init__(self, pid: int) -> None:
        """`pid`: a process that was just started, as `apart` says."""
        self._pid, self._group = pid, Path(f"/proc/{pid}/autogroup")
        self._before: int | None = None
        self._is_idle = self._grouped = False
        with contextlib.suppress(OSError, AttributeError):
            if os.getsid(pid) != os.getsid(0):
                self._grouped = _write(self._group, NICE) is None
        with contextlib.suppress(OSError, AttributeError):
            before = os.getpriority(os.PRIO_PROCESS, 0)
            if before < NICE and may_be(before):
                os.setpriority(os.PRIO_PROCESS, pid, NICE)
                self._before = before
                if os.sched_getscheduler(pid) == os.SCHED_OTHER:
                    os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
                    self._is_idle = True

    def only_be_nicer(self) -> None:
        """It no longer runs only when nobody else does."""
        if self._is_idle:
            self._is_idle = False
            for _ in range(2):  # one that was started meanwhile is as the one that started it
                for thread in _threads(self._pid):
                    with contextlib.suppress(OSError):  # it has gone
                        if os.sched_getscheduler(thread) == os.SCHED_IDLE:
                            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))

    def end(self) -> None:
        """All of its threads, and those of what it has started, are as they would have been without."""
        self.only_be_nicer()
        if self._before is not None:
            for _ in range(2):
                for thread in _threads(self._pid):
                    self._come_back(thread, self._before)
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


def apart() -> dict[str, Any]:
    """How to start a process that Ctrl-C at our terminal is not for: as arguments of `subprocess.Popen`."""
    if may_be(os.getpriority(os.PRIO_PROCESS, 0)):
        return {"process_group": 0}
    return {"start_new_session": True}


def _threads(pid: int) -> Iterator[int]:
    """Of a process and of all it has started. Whatever goes meanwhile is left out."""
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            yield int(thread)
            with contextlib.suppress(OSError):
                for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
                    yield from _threads(int(child))


def may_be(nice: int) -> bool:
    """Whether a thread of ours that is nicer may be so nice again: one that ends with this call has tried."""
    took_it_back = []

    def tries() -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, 0, nice + 1)  # of this thread; it is 19 at most, whatever is asked for
            os.setpriority(os.PRIO_PROCESS, 0, nice)
            took_it_back.append(True)

    thread = threading.Thread(target=tries, name="headrace-nice", daemon=True)
    with contextlib.suppress(RuntimeError):  # there can be no more threads
        thread.start()
        thread.join()
    return bool(took_it_back)


def _write(group: Path, nice: int) -> int | None:
    """What went wrong, as an errno."""
    try:
        group.write_text(str(nice))
    except OSError as error:
        return error.errno
    return None
