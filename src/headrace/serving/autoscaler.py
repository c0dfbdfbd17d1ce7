"""Looks at the models whose number of workers may vary, and has it follow their load (`scaling`)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic

from headrace.errors import HeadraceError
from headrace.serving.lifecycle import Lifecycle, workers_of
from headrace.serving.registry import Entry, State
from headrace.serving.scaling import EVERY, Scaling
from headrace.serving.served import Served

_log = logging.getLogger("headrace.serving")


class Autoscaler:
    """A thread, from `start` to `close`. Where no model's number may vary it only looks at the registry."""

    def __init__(self, lifecycle: Lifecycle, clock: Callable[[], float] = monotonic) -> None:
        self._lifecycle, self._clock = lifecycle, clock
        self._models: dict[Entry[Served], Scaling] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="headrace-autoscaler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Once. What cannot be changed now is looked at again the next time."""
        now = self._clock()
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
            scaling.low, scaling.high = about.min_workers, about.max_workers
            scaling.capacity = served.model.max_batch_size
            have = workers_of(entry)
            wanted = scaling.wanted(now, served.group.inside, have)
            if wanted != have:
                self._change(entry, have, wanted)
        self._models = models

    def _change(self, entry: Entry[Served], have: int, wanted: int) -> None:
        try:
            if self._lifecycle.follow_load(entry, wanted):
                _log.info("model %s:%s has %d workers now, it had %d", entry.name, entry.version, wanted, have)
        except HeadraceError as error:
            _log.warning("model %s:%s stays at %d workers: %s", entry.name, entry.version, have, error)

    def _run(self) -> None:
        while not self._end.wait(EVERY):
            try:
                self.look()
            except Exception:  # it must outlive whatever a model does
                _log.exception("the autoscaler could not look at the models")
