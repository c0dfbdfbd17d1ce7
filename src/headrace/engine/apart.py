"""A runtime's own threads, kept off the core of whoever calls it.

A thread that has slept for a while is often woken on the core of the one that wakes it, though another one is idle.
There it waits until the other one is done or the kernel looks again: a run on two cores takes as long as on one.

Rule 1: at the start of a run its threads may go wherever its caller may, only not to the core that the caller is on. So
        nobody is bound to one core where there are more than two, and they step aside for strangers.
Rule 2: what the threads are is known from who started them: nobody else's are touched.
Rule 3: a system that does not say, or does not let us, is no error.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Collection
from itertools import count
from pathlib import Path
from typing import TypeVar

from headrace.engine.binding import made_on

T = TypeVar("T")

_TASKS = Path("/proc/self/task")
_NAME = "headrace-pool"
"""What the threads are called, in `top -H` for example. Linux takes 15 characters."""
_numbers = count()


def made_with_threads(cpus: Collection[int], make: Callable[[], T]) -> tuple[T, tuple[int, ...]]:
    """What `make()` returns, and the threads it started that go on, by the kernel's ids; none where that is not known.

    Called by a thread of its own, which is bound to `cpus` if there are any. Raises what `make` raises.
    """
    mark = f"hr-{next(_numbers)}"[:15]  # threads begin with the name of the one that starts them
    found: tuple[int, ...] = ()

    def work() -> T:
        nonlocal found
        if not _call(threading.get_native_id(), mark):
            return make()
        value = make()
        found = _called(mark)
        for thread in found:
            _call(thread, _NAME)
        return value

    return made_on(cpus, work, anew=True), found


class Apart:
    """Called at the start of each run. `where`: on which CPU the caller is."""

    def __init__(self, threads: Collection[int], where: Callable[[], int] | None = None) -> None:
        self._where = where or _where
        self._threads = threads if self._where is not None else ()
        self._at = -1

    def __call__(self) -> None:
        if self._threads and self._where is not None and (at := self._where()) != self._at:
            self._at = at
            self._keep_off(at)

    def _keep_off(self, cpu: int) -> None:
        try:
            allowed = os.sched_getaffinity(0)
            others = allowed - {cpu} or allowed
            for thread in self._threads:
                os.sched_setaffinity(thread, others)
        except (AttributeError, OSError):  # another system; a sandbox; the threads have ended
            self._threads = ()


def _call(thread: int, name: str) -> bool:
    with contextlib.suppress(OSError):
        (_TASKS / str(thread) / "comm").write_text(name)
        return True
    return False


def _called(name: str) -> tuple[int, ...]:
    """This process's threads of that name, but for this one."""
    own, found = threading.get_native_id(), []
    for task in _TASKS.iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            if int(task.name) != own and (task / "comm").read_text().rstrip("\n") == name:
                found.append(int(task.name))
    return tuple(sorted(found))


def _getcpu() -> Callable[[], int] | None:
    try:
        # Without letting go of the interpreter lock: it takes 0.1 us.
        return ctypes.PyDLL(None).sched_getcpu
    except (AttributeError, OSError, TypeError):
        return None


_where = _getcpu()
