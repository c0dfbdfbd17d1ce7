"""Looking at models: the facts that `describe` tells of. Reads processes, so not on an event loop."""

from __future__ import annotations

import os

import psutil

from headrace.model.model import Model
from headrace.model.sequence_batcher import SequenceBatcher
from headrace.serving import changing
from headrace.serving.counting import workers_of
from headrace.serving.describe import Facts, WorkerFacts
from headrace.serving.registration import Registration
from headrace.serving.registry import Entry, State
from headrace.serving.served import Served
from headrace.serving.service import Service
from headrace.workers.pool import Pool
from headrace.workers.supervision import State as WorkerState


def look(entry: Entry[Served], service: Service) -> Facts:
    about: Registration = entry.about
    options, served, state = about.effective, entry.served, entry.state
    inside = service.statistics()
    model = None if served is None else served.model
    has = changing.seen(options, about.bounds, served)
    batcher = None if model is None else model.batcher
    return Facts(
        name=entry.name,
        version=entry.version,
        url=url_of(entry),
        state=str(state),
        reason=entry.reason,
        runtime="python",
        min_workers=about.min_workers,
        max_workers=about.max_workers,
        max_batch_size=has["max_batch_size"] or 1,
        max_batch_delay=has["max_batch_delay"],
        at_startup=about.at_startup,
        response_timeout=has["response_timeout"],
        startup_timeout=options.start_timeout if options.startup_timeout is None else options.startup_timeout,
        workers=() if served is None or model is None else _workers(entry, model, served.since, state),
        pending=0 if model is None or model.closed else model.statistics().waiting,
        room=_room(inside.max_count - inside.inside, served),
        queue=has["queue"],
        priority_levels=has["priority_levels"],
        default_priority_level=has["default_priority_level"],
        sequences=batcher.sequences.options if isinstance(batcher, SequenceBatcher) else None,
    )


def _room(left: int, served: Served | None) -> int:
    limit = None if served is None else served.group.limit
    return max(0, left if served is None or limit is None else min(left, limit - served.group.inside))


def url_of(entry: Entry[Served]) -> str:
    about: Registration = entry.about
    return about.url or about.wanted.source


def _workers(entry: Entry[Served], model: Model, since: float, state: State) -> tuple[WorkerFacts, ...]:
    crew = model.crew
    ready = state is State.READY
    if not isinstance(crew, Pool):  # they are streams, all in this process
        memory = psutil.Process().memory_info().rss
        return tuple(WorkerFacts(str(i), since, ready, os.getpid(), memory) for i in range(workers_of(entry)))
    found = []
    for each in crew.statuses():
        pid = None if each.rss is None else each.pid  # None: it has ended meanwhile
        # Not as the kernel has it: that counts from a boot whose time it has to the second.
        began = since if pid is None else each.since
        works = ready and pid is not None and each.state in (WorkerState.READY, WorkerState.BUSY)
        found.append(WorkerFacts(str(each.index), began, works, pid or 0, each.rss or 0))
    return tuple(found)
