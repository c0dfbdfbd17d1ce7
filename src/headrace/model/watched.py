"""A callable's first runs, looked at: nobody may call it for a probe, so its real ones have to tell.

Rule 1: a run is looked at where one shortly before took long enough to tell, and only if no other model runs beside it.
Rule 2: after ENOUGH looks, or RUNS runs, it is over: `decided` is called once, and puts the bare instances back.
Rule 3: a run is never held up by a look at another one. What is looked at is delayed by the few milliseconds in which
        is found out how late a thread wakes anyway.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter

from headrace.backends.base import Stop
from headrace.model.gil import SHORTEST, Gil, Look, is_enough, judged
from headrace.model.instance import Instance
from headrace.model.pending import Pending
from headrace.model.probe import beside

AFTER = 4
"""Runs after a long one that may be looked at: not each takes as long."""
RUNS = 64
"""Runs that could have told something."""


class Watch:
    """What is known of one model's runs; shared by its instances. `alone`: whether no other model runs."""

    def __init__(self, decided: Callable[[Gil | None], object], alone: Callable[[], bool]) -> None:
        self._decided, self._alone = decided, alone
        self._lock = threading.Lock()
        self._inside = 0
        self._threads: set[int] = set()  # that have run the model, by the kernel's ids
        self._runs = 0
        self._long = 0  # so many more runs may be looked at, since one took long enough to tell
        self._looking = False
        self._over = False
        self._looks: list[Look] = []
        self._spoilt = 0

    def run(self, run: Callable[[], object]) -> None:
        with self._lock:
            self._inside += 1
            self._threads.add(threading.get_native_id())
            looks = self._long > 0 and not self._looking and not self._over and self._alone()
            self._looking = self._looking or looks
            self._long -= looks
        try:
            if looks:
                self._look(run)
            else:
                began = perf_counter()
                run()
                if perf_counter() - began >= SHORTEST:
                    self._long = AFTER
        finally:
            counts = looks or not self._long or self._alone()  # a long one beside other models tells nothing
            with self._lock:
                self._inside -= 1
                self._runs += counts
                if looks:
                    self._looking = False
                enough = is_enough(self._looks) or (self._runs >= RUNS and not self._looking)
                first, self._over = enough and not self._over, self._over or enough
        if first:
            self._decided(judged(self._looks, self._spoilt))

    def _look(self, run: Callable[[], object]) -> None:
        # Beside another run of this model the usual cannot be seen: that one may be what makes everybody late.
        seen = beside(run, lambda: self._inside == 1, tuple(self._threads))
        if seen is None:
            self._spoilt += 1
        else:
            if seen.seconds >= SHORTEST:
                self._long = AFTER
                if self._alone():
                    self._looks.append(seen)


class WatchedInstance:
    def __init__(self, instance: Instance, watch: Watch) -> None:
        self._instance, self._watch = instance, watch
        self.stoppable = instance.stoppable
        if self.stoppable:
            self.kill = instance.kill

    def run(self, batch: list[Pending], stop: Stop | None = None) -> None:
        if stop is None:
            self._watch.run(lambda: self._instance.run(batch))
        else:
            self._watch.run(lambda: self._instance.run(batch, stop))

    def run_one(self, request: Pending, stop: Stop | None) -> None:
        self._watch.run(lambda: self._instance.run_one(request, stop))

    def close(self) -> None:
        self._instance.close()
