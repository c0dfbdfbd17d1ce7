"""Requests for a model, as callers would make them: so many who each wait for their answer, or arrivals at a rate.

Rule 1: the first error ends the load, and is raised. So does Ctrl-C.
Rule 2: a closed loop ends when its limits are reached: what was begun before is waited for.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from headrace.model.model import Model

LOOK_EVERY = 0.1
"""Seconds between two reports of how far it is."""

Report = Callable[[int, float], object]
"""Told how many requests were made, and how many seconds have passed."""


@dataclass(frozen=True)
class Limit:
    """When it is enough: what is reached first. None: no such limit."""

    requests: int | None = None
    seconds: float | None = None

    def reached(self, requests: int, seconds: float) -> bool:
        return (self.requests is not None and requests >= self.requests) or (
            self.seconds is not None and seconds >= self.seconds
        )


def closed_loop(model: Model, value: Any, callers: int, limit: Limit, report: Report) -> None:
    """`callers` threads, each with one request at a time."""
    begun, lock, errors = 0, threading.Lock(), []
    over = threading.Event()
    start = time.monotonic()

    def may_call() -> bool:
        nonlocal begun
        with lock:
            if over.is_set() or limit.reached(begun, time.monotonic() - start):
                return False
            begun += 1
            return True

    def call() -> None:
        try:
            while may_call():
                model(value)
        except BaseException as error:
            errors.append(error)
            over.set()

    threads = [threading.Thread(target=call, name=f"caller-{number}", daemon=True) for number in range(1, callers + 1)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(LOOK_EVERY)
                report(begun, time.monotonic() - start)
    finally:
        over.set()
    if errors:
        raise errors[0]


def poisson(model: Model, value: Any, rate: float, seed: int, limit: Limit, report: Report) -> None:
    """Requests that come when they come, `rate` a second on average, whether or not the ones before are answered."""
    futures = []
    start = last = time.monotonic()
    for number, at in enumerate(arrivals(rate, seed)):
        if limit.reached(number, at):
            break
        while (early := start + at - time.monotonic()) > 0:
            time.sleep(min(early, LOOK_EVERY))
            report(number, time.monotonic() - start)
        futures.append(model.submit(value))
        if time.monotonic() - last > LOOK_EVERY:
            last = time.monotonic()
            report(number + 1, last - start)
    for future in futures:
        future.result()
    report(len(futures), time.monotonic() - start)


def arrivals(rate: float, seed: int) -> Iterator[float]:
    """Seconds from the begin: a Poisson process. The same for the same seed."""
    rng, at = random.Random(seed), 0.0
    while True:
        at += rng.expovariate(rate)
        yield at
