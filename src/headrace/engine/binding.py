"""Threads that stay on some CPUs, so that what they touch first is near them: the kernel takes memory from the node of
whoever writes to it first, and leaves it there.

Rule 1: only threads of ours are bound, never one that calls us.
Rule 2: what a bound thread starts is bound as it is (a runtime's own threads too): affinity is inherited. So streams
        are bound for the length of a run: callbacks of the user's come after it; what they start goes where it likes.
Rule 3: a system that does not let us bind is no error. All works, only perhaps from afar.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Collection
from typing import Any, TypeVar

T = TypeVar("T")


def bind(cpus: Collection[int]) -> bool:
    """This thread stays on those of `cpus` that there are. False where it cannot be had, and nothing has changed."""
    try:
        os.sched_setaffinity(0, cpus)
    except (AttributeError, OSError, ValueError):  # another system; a sandbox, or none of them is there
        return False
    return True


def run_on(cpus: Collection[int], run: Callable[[], T]) -> T:
    """What `run()` returns or raises; meanwhile this thread stays on those of `cpus` that there are."""
    try:
        before = os.sched_getaffinity(0)
    except (AttributeError, OSError):  # another system; a sandbox
        return run()
    if not bind(cpus):
        return run()
    try:
        return run()
    finally:
        with contextlib.suppress(OSError):  # all of those were taken from this process meanwhile
            os.sched_setaffinity(0, before)


def made_on(cpus: Collection[int], make: Callable[[], T], *, anew: bool = False) -> T:
    """What `make()` returns or raises, called by a thread that is bound to `cpus`; without any: called here, or by a
    thread of its own (`anew`)."""
    if not cpus and not anew:
        return make()
    made: list[T] = []
    raised: list[BaseException] = []

    def work() -> None:
        if cpus:
            bind(cpus)
        try:
            made.append(make())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, name="headrace-load", daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise _taken(raised)
    return made[0]


def _taken(errors: list[Any]) -> BaseException:
    """The error, left nowhere else: the frames it holds would hold it in turn."""
    error: BaseException = errors.pop()
    return error
