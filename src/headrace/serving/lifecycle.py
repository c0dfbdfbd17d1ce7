"""How a model comes to be served: the one place that changes its state."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path

from headrace.errors import InvalidOption
from headrace.model.model import Crew
from headrace.serving.measures import Measures
from headrace.serving.registry import Entry, Registry, State
from headrace.serving.served import Served
from headrace.serving.sources import NAME, CompileOptions, Sources, Wanted

_log = logging.getLogger("headrace.serving")


class Lifecycle:
    def __init__(self, registry: Registry[Served], options: CompileOptions, store: Path | None = None) -> None:
        self._registry, self._options, self.sources = registry, options, Sources(options, store)

    def load(self, wanted: Wanted) -> Entry[Served]:
        """Load it and make it READY. Raises what is wrong, with the model FAILED and the reason kept.

        Nothing is registered where there is no source to load, or no name and version for it.
        """
        name, version, build = self.sources.locate(wanted)
        if not NAME.match(name):
            raise InvalidOption(f"{name!r} cannot be the name of a model; give one: NAME={wanted.source}")
        entry = self._registry.add(name, version)
        entry.state = State.LOADING
        started = time.monotonic()
        try:
            model, handler = build(name)
        except BaseException as error:
            entry.state, entry.reason = State.FAILED, str(error)
            raise
        if self._options.measured:
            model.measure()
        entry.served = Served(name, version, model, handler, Measures() if self._options.measured else None)
        entry.state = State.READY
        crew = model.crew
        if crew is not None:
            _follow(entry, crew)
        batch = f"max_batch_size {model.max_batch_size} ({model.batching})"
        _log.info("model %s:%s is READY after %.2f s: %r, %s", name, version, time.monotonic() - started, model, batch)
        return entry

    def load_all(self, models: Iterable[Wanted]) -> None:
        for wanted in models:
            self.load(wanted)


def _follow(entry: Entry[Served], pool: Crew) -> None:
    """The entry is READY as long as requests would be answered: not while no worker can be kept alive."""

    def look() -> None:
        if entry.state in (State.READY, State.FAILED):
            broken = pool.is_broken
            entry.state, entry.reason = (State.FAILED, pool.reason) if broken else (State.READY, None)

    pool.on_change = look
    look()
