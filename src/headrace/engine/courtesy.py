"""A stream whose runs are long gives way to threads that run for a moment: event loops, callers.

Where streams keep all cores busy, an event loop that becomes ready has to wait for the kernel to take a core from one
of them. Linux lets a thread that computes go on until its time slice is over or the clock ticks, up to 4 ms later: the
loop's p99. So such a stream asks for less: a nice value above its neighbours', and a long time slice, which lets any
thread with a shorter one preempt it at once (Linux 6.12 and later; before that the kernel ignores the slice). It
concerns the stream's own thread alone, needs no privilege, and ends with the thread. Where nobody else wants the cores,
it changes nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import threading

LONG = 200e-6
"""Seconds. Streams whose runs take longer give way."""
KNOWN = 8
"""Runs after which that is known: the first ones warm up."""
NICE = 3
SLICE = 0.010
"""Seconds."""
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""The number of the system call: neither Python nor most C libraries have a function for it."""
_ATTRIBUTES = struct.Struct("@IIQiIQQQ")
"""Of `struct sched_attr`: size, policy, flags, nice, priority, slice (sched_runtime), deadline, period."""


def give_way() -> None:
    """Have this thread give way from now on. Where the system does not let it, it stays as it is."""
    with contextlib.suppress(OSError, AttributeError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:  # else somebody has chosen otherwise
            nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            if not _set(max(nice, NICE)):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), max(nice, NICE))


def _set(nice: int) -> bool:
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None:
        return False
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, int(SLICE * 1e9), 0, 0)
    return bool(ctypes.CDLL(None).syscall(number, 0, attributes, 0) == 0)
