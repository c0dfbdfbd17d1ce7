"""Looks at the models whose number of workers may vary, and has it follow their load (`scaling`).

Rule 1: a step may take as long as a worker takes to load, or to end what it has: each is made on a thread of its own,
        so that it holds up neither the other models nor the end of the server.
Rule 2: what could not be done is not tried again at once, but later and later.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic

from headrace.errors import HeadraceError
from headrace.serving.counting import most_workers_of, workers_of
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.registry import Entry, State
from headrace.serving.scaling import EVERY, Scaling, pause_after
from headrace.serving.served import Served

MOST = 16
"""Steps of different models that go on at once."""
_log = logging.getLogger("headrace.serving")


class Autoscaler:
    """A thread, from `start` to `close`. Where no model's number may vary it only looks at the registry."""

    def __init__(self, lifecycle: Lifecycle, clock: Callable[[], float] = monotonic) -> None:
        self._lifecycle, self._clock = lifecycle, clock
        self._models: dict[Entry[Served], Scaling] = {}
        self._steps: dict[Entry[Served], threading.Thread] = {}
        self._failures: dict[Entry[Served], tuple[int, float]] = {}
        """Steps that failed, one after the other, and when the next may be tried."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="headrace-autoscaler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Steps that go on end with the models."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def settle(self) -> None:
        """Wait until the steps that were begun have ended."""
        for step in list(self._steps.values()):
            step.join()

    def look(self) -> None:
        """Once. What cannot be changed now is looked at again the next time."""
        now = self._clock()
        self._steps = {entry: step for entry, step in self._steps.items() if step.is_alive()}
        models: dict[Entry[Served], Scaling] = {}
        for entry in self._lifecycle.service.registry:
            served, about = entry.served, entry.about
            if served is None or about is None or entry.state is not State.READY:
                continue
            if about.min_workers >= about.max_workers:
                continue
            scaling = self._models.get(entry)
            if scaling is None:
                scaling = Scaling(about.min_workers, about.max_workers, served.model.max_batch_size, now)
            models[entry] = scaling
            scaling.low = about.min_workers
            scaling.high = max(scaling.low, min(about.max_workers, most_workers_of(entry)))
            scaling.capacity = served.model.max_batch_size
            inside, have = served.group.inside, workers_of(entry)
            waits = entry in self._steps or now < self._failures.get(entry, (0, now))[1] or len(self._steps) >= MOST
            if waits:
                scaling.see(now, inside)
                continue
            wanted = scaling.wanted(now, inside, have)
            if wanted != have:
                step = threading.Thread(
                    target=self._change, args=(entry, have, wanted), name=f"headrace-{entry.name}-step", daemon=True
                )
                self._steps[entry] = step
                step.start()
        self._models = models
        for entry in list(self._failures):
            if entry not in models:
                self._failures.pop(entry, None)

    def _change(self, entry: Entry[Served], have: int, wanted: int) -> None:
        try:
            if self._lifecycle.follow_load(entry, wanted):
                _log.info("model %s:%s has %d workers now, it had %d", entry.name, entry.version, wanted, have)
            self._failures.pop(entry, None)
        except Exception as error:  # a HeadraceError, or what nobody has thought of
            times = self._failures.get(entry, (0, 0.0))[0] + 1
            pause = pause_after(times)
            self._failures[entry] = times, self._clock() + pause
            _log.warning(
                "model %s:%s stays at %d workers, and is looked at again after %g s: %s",
                entry.name, entry.version, have, pause, error or type(error).__name__,
                exc_info=not isinstance(error, HeadraceError),
            )  # fmt: skip

    def _run(self) -> None:
        while not self._end.wait(EVERY):
            try:
                self.look()
            except Exception:  # it must outlive whatever a model does
                _log.exception("the autoscaler could not look at the models")
