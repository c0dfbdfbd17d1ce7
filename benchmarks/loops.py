"""Load on a callable: closed loops, and arrivals that do not wait for answers. Standard library only: peers run it.

Closed: every caller calls again as soon as it has its answer, so load falls when answers are slow. Open: arrivals are
fixed beforehand, and a request's time counts from when it was to come, not from when the sender got round to it. All
times are in seconds.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any, Protocol

Call = Callable[[], object]
WARM = 0.3
"""Seconds of a closed loop before anything is counted."""


def closed_loops(groups: Mapping[str, Sequence[Call]], secs: float) -> dict[str, list[float]]:
    """One thread for each call, back to back; all groups at once. What each call took that ended within the `secs`
    after `WARM`."""
    ends: dict[str, list[list[tuple[float, float]]]] = {name: [[] for _ in calls] for name, calls in groups.items()}
    start = threading.Barrier(sum(map(len, groups.values())) + 1)
    until = 0.0
    errors: list[BaseException] = []

    def caller(call: Call, mine: list[tuple[float, float]]) -> None:
        start.wait()
        ended = time.perf_counter()
        try:
            while ended < until:
                begun = ended
                call()
                ended = time.perf_counter()
                mine.append((ended, ended - begun))
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=caller, args=pair) for name, calls in groups.items() for pair in zip(calls, ends[name])
    ]
    for thread in threads:
        thread.start()
    since = time.perf_counter() + WARM
    until = since + secs
    start.wait()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error
    return {
        name: [took for mine in callers for ended, took in mine if since <= ended < until]
        for name, callers in ends.items()
    }


def closed_loop(calls: Sequence[Call], secs: float) -> dict[str, float]:
    times = closed_loops({"": calls}, secs)[""]
    return {"requests_per_s": len(times) / secs, **summary(times)}


def summary(times: Sequence[float]) -> dict[str, float]:
    """In milliseconds, and `cv`: the standard deviation over the mean."""
    ordered = sorted(times)
    if not ordered:
        raise RuntimeError("nothing ended in time to be counted: measure for longer")
    mean = fmean(ordered)
    return {
        "mean_ms": mean * 1e3,
        "p50_ms": ordered[len(ordered) // 2] * 1e3,
        "p99_ms": ordered[len(ordered) * 99 // 100] * 1e3,
        "cv": pstdev(ordered, mean) / mean,
    }


# ---- open


class Awaited(Protocol):
    """What `submit` returns: Headrace's Future, or the standard library's."""

    def result(self, timeout: float | None = None) -> Any: ...

    def add_done_callback(self, callback: Callable[[Any], object]) -> Any: ...


def arrivals(rate: float, secs: float, seed: int) -> list[float]:
    """Poisson arrivals within `secs`, of which the number is not left to chance: so many moments, each anywhere."""
    chosen = random.Random(seed)
    return sorted(chosen.uniform(0, secs) for _ in range(round(rate * secs)))


def open_loop(submit: Callable[[], Awaited], at: Sequence[float]) -> tuple[list[float], list[float]]:
    """(what each request took from when it was to come to its end, how late each was sent)."""
    ends = [0.0] * len(at)
    late, futures = [], []

    def ended(number: int) -> Callable[[Any], None]:
        def stamp(_: Any) -> None:
            ends[number] = time.perf_counter()

        return stamp

    begun = time.perf_counter() + 0.05
    for number, moment in enumerate(at):
        due = begun + moment
        while (wait := due - time.perf_counter()) > 0:
            time.sleep(wait)
        late.append(time.perf_counter() - due)
        future = submit()
        future.add_done_callback(ended(number))
        futures.append(future)
    for future in futures:
        future.result(60)
    while not all(ends):  # a waiter may be woken before the callback of the last one has run
        time.sleep(0.001)
    return [end - begun - moment for end, moment in zip(ends, at)], late


def replayed(at: Sequence[float], services: Sequence[float], more: float, streams: int, seed: int) -> list[float]:
    """What each request would take if exactly these came to so many streams, first come, first served, and nothing else
    happened: each run takes one of the times in `services`, and `more` on a stream that was idle. What differs from a
    formula is the luck of the draw."""
    chosen = random.Random(seed)
    free = [0.0] * streams
    taken = []
    for moment in at:
        rested = free[0] <= moment
        end = max(moment, free[0]) + chosen.choice(services) + (more if rested else 0.0)
        heapq.heapreplace(free, end)
        taken.append(end - moment)
    return taken
