"""What answers a version's requests is made: under a limit of time, while few others are.

Rule 1: loads of all models come one after the other, but one that takes long holds up the others for a while only
        (`OneByOne`).
Rule 2: nobody knows of what is made before it is whole; of what is given up, or fails, nothing is left.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial
from typing import Any

from headrace.errors import Closed, HeadraceError
from headrace.serving import changing, counting
from headrace.serving.compile_options import CompileOptions
from headrace.serving.loading import GRACE, in_our_words, within
from headrace.serving.located import Built, Located
from headrace.serving.measures import Measures
from headrace.serving.one_by_one import OneByOne
from headrace.serving.registration import Registration
from headrace.serving.registry import Entry
from headrace.serving.served import Served
from headrace.serving.sources import Sources
from headrace.serving.wanted import Wanted

_log = logging.getLogger("headrace.serving")


class Building:
    def __init__(self) -> None:
        self.line = OneByOne()
        self.stopping = False
        """The server is: loads that have not begun are given up (Closed)."""

    def build(self, entry: Entry[Served], workers: int) -> Served:
        """What answers its requests from now on. Nobody knows of it yet."""
        about: Registration = entry.about
        options = replace(about.effective, workers=workers)
        priorities = changing.priorities(options)
        with self.line.turn():
            if self.stopping:
                raise Closed("the server is stopping")
            started = time.monotonic()
            located, limit = about.located, options.startup_timeout
            grace = GRACE if counting.is_apart(located, options) else 0.0
            try:
                built = within(limit, partial(located.build, entry.name, options), _close, grace=grace)
            except HeadraceError as error:
                if (said := in_our_words(str(error))) != str(error):
                    error.args = (said,)
                raise
            model = built.model
            try:
                if model.crew is None and about.by_options and not about.is_complete:
                    if workers > 1 and about.at_startup:
                        _log.warning(
                            "--workers says nothing of model %s, which runs in the server's process; for worker "
                            "processes: --isolation process",
                            entry.name,
                        )
                elif model.crew is None:
                    most = counting.most(model, options)
                    if about.at_startup and not about.is_complete and workers > most:
                        _log.warning(
                            "model %s:%s had %d workers, and has %d: there are no more cores",
                            entry.name, entry.version, workers, most,
                        )  # fmt: skip
                        workers = most
                    if workers != counting.count(model):
                        counting.use_streams(model, workers, options.num_cores)
            except BaseException:
                model.close()
                raise
        if options.measured:
            model.measure()
        measures = Measures() if options.measured else None
        served = Served(
            entry.name, entry.version, model, built.handler, measures,
            custom=built.custom, sequence_headers=built.sequence_headers, reasons=options.reasons,
        )  # fmt: skip
        served.group.limit = about.effective.queue  # of one that was looked for again it is known only now
        served.use(priorities)
        batch = f"max_batch_size {model.max_batch_size} ({model.batching})"
        _log.info(
            "model %s:%s is READY after %.2f s: %r, %s",
            entry.name, entry.version, time.monotonic() - started, model, batch,
        )  # fmt: skip
        return served


def looked_for_again(sources: Sources, wanted: Wanted) -> Located:
    """It is located when it is to be built."""
    found: list[Located] = []
    own: dict[str, Any] = {}

    def build(name: str, options: CompileOptions) -> Built:
        located = sources.locate(wanted)
        own.clear()
        own.update(located.own)
        try:
            built = located.build(name, located.with_own(options))
        except BaseException:
            located.close()
            raise
        found.append(located)
        return built

    def close() -> None:
        while found:
            found.pop().close()

    return Located(wanted.name or "", wanted.version or "", build, close, own=own)


def _close(built: Built) -> None:
    built.model.close()
