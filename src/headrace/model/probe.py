"""The thread beside a run that notices whether the run holds the interpreter lock. What it saw is judged in `gil`.

The thread lives as long as the run it looks at, and not longer than LONGEST.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Collection
from math import inf
from time import perf_counter

from headrace.model.gil import SLEEP, TOO_MUCH, Look, Wake, is_noisy, look, without

LONGEST = 0.25
"""Seconds of a run that are looked at: enough to tell, and few wakes."""
BEFORE = 4
"""Wakes that say what is usual."""
_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


def can_look() -> bool:
    """Whether this interpreter has a lock to hold."""
    return bool(_GIL)


def usual_wakes(quiet: Callable[[], bool]) -> list[Wake]:
    """How late this thread wakes now. Takes a few milliseconds. Empty if it does not stay `quiet`: what is found out
    is only true of a model that does not run."""
    silent = threading.Lock()
    silent.acquire()
    wakes: list[Wake] = []
    with _Queue() as queue:
        while len(wakes) < BEFORE and quiet():
            at_first = queue.seconds()
            wake = _wake(silent)[1]
            wakes.append(Wake(wake.due, wake.woke - (queue.seconds() - at_first)))
    return wakes if quiet() else []


class Beside:
    """Looks at what goes on from `start` to `end`. `own`: the kernel's ids of the threads that run the model."""

    def __init__(self, own: Collection[int] = ()) -> None:
        self._own = {threading.get_native_id(), *own}
        self._others = 0.0
        self._bell = threading.Lock()  # locked: silent
        self._bell.acquire()
        self._ready = threading.Lock()  # locked: not yet
        self._ready.acquire()
        self._wakes: list[Wake] = []
        self._queued = 0.0
        self._until = 0.0
        self._thread = threading.Thread(target=self._watch, name="headrace-gil-probe", daemon=True)

    def start(self) -> bool:
        try:
            self._thread.start()
        except RuntimeError:  # no more threads: then nobody looks
            return False
        self._ready.acquire()  # it sleeps, or is about to: from then on only a held lock can keep it from waking
        return True

    def end(self) -> None:
        self._bell.release()
        self._thread.join()

    def seen(self, began: float, ended: float, before: list[Wake]) -> Look | None:
        """After `end`. `before`: the usual wakes. None where other threads may have held the lock."""
        return without(look(began, min(ended, self._until), self._wakes, before, self._queued), self._others)

    def _watch(self) -> None:
        others = {thread.native_id for thread in threading.enumerate()} - self._own - {threading.get_native_id()}
        with _Queue() as queue:
            used = {each: seconds for each in others if each is not None and (seconds := _busy(each)) is not None}
            at_first = queue.seconds()
            self._until = perf_counter() + LONGEST
            rung = False
            self._ready.release()
            while not rung and perf_counter() < self._until:
                rung, wake = _wake(self._bell)
                self._wakes.append(wake)
            # Only now: reading lets go of the lock, and waiting for it again would be seen by nobody.
            self._queued = queue.seconds() - at_first
            for thread, before in used.items():
                after = _busy(thread)
                self._others += inf if after is None else after - before  # one that has ended may have computed


def beside(
    run: Callable[[], object], quiet: Callable[[], bool] = lambda: True, own: Collection[int] = ()
) -> Look | None:
    """Do `run`; what was seen of it. None where nothing could be, or somebody else may be to blame for it.

    Where the model is `quiet`, it is found out before how late a thread wakes anyway; and after it as well, if what was
    seen would be held against the model. Threads that ran the model, too, are its `own`. Raises what `run` raises.
    """
    before = usual_wakes(quiet)
    probe = Beside(own)
    if is_noisy(before) or not probe.start():
        run()
        return None
    began = perf_counter()
    try:
        run()
    finally:
        ended = perf_counter()
        probe.end()
    seen = probe.seen(began, ended, before)
    return None if seen is None or (seen.share > TOO_MUCH and is_noisy(usual_wakes(quiet))) else seen


def _wake(bell: threading.Lock) -> tuple[bool, Wake]:
    due = perf_counter() + SLEEP
    rung = bell.acquire(timeout=SLEEP)
    return rung, Wake(due, perf_counter())


def _busy(thread: int) -> float | None:
    """Seconds for which a thread of this process has computed or stood in the queue for a CPU. None where the kernel
    does not say, or it has ended."""
    try:
        with open(f"/proc/self/task/{thread}/schedstat", "rb") as file:
            computed, queued, _ = file.read(100).split()
        return (int(computed) + int(queued)) * 1e-9
    except (OSError, ValueError):  # another system; it has ended
        return None


class _Queue:
    """How long this thread has stood in the queue for a CPU, as Linux counts it; 0 elsewhere."""

    def __enter__(self) -> _Queue:
        try:
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = -1
        return self

    def __exit__(self, *_: object) -> None:
        if self._file >= 0:
            os.close(self._file)

    def seconds(self) -> float:
        if self._file < 0:
            return 0.0
        try:
            return int(os.pread(self._file, 100, 0).split()[1]) * 1e-9
        except (OSError, ValueError, IndexError):
            return 0.0
