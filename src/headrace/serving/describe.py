"""What is told of models, in the forms of TorchServe, of Multi Model Server and of the v2 repository. Pure.

Rule 1: facts in, JSON values out: what was measured, and when, is whoever looks' business (`looking`).
Rule 2: what there is not is left out, as the old servers do; what they name and we do not have is what they would say
        of a model that does not use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from headrace.model.sequences import SequenceOptions

Json = dict[str, Any]
MOST_LISTED = 100
RETRY_SECONDS = 300
"""TorchServe's `maxRetryTimeoutInSec`."""


@dataclass(frozen=True)
class WorkerFacts:
    """A worker process, or a stream of a model in this process. `started`: seconds since 1970; `memory`: bytes."""

    id: str
    started: float
    ready: bool
    pid: int
    memory: int


@dataclass(frozen=True)
class Facts:
    """One version of one model. Times in seconds."""

    name: str
    version: str
    url: str
    state: str
    reason: str | None
    runtime: str
    min_workers: int
    max_workers: int
    max_batch_size: int
    max_batch_delay: float
    at_startup: bool
    response_timeout: float
    startup_timeout: float
    workers: tuple[WorkerFacts, ...]
    pending: int
    """Requests inside that wait for a worker."""
    room: int
    """Requests that could come in."""
    queue: int | None = None
    """Requests it may have inside; None: only the server's own bound."""
    priority_levels: int = 0
    default_priority_level: int | None = None
    sequences: SequenceOptions | None = None
    """How its requests come in sequences, if they do."""


def _shared(facts: Facts) -> Json:
    return {
        "modelName": facts.name,
        "modelVersion": facts.version,
        "modelUrl": facts.url,
        "runtime": facts.runtime,
        "minWorkers": facts.min_workers,
        "maxWorkers": facts.max_workers,
        "batchSize": facts.max_batch_size,
        "maxBatchDelay": round(facts.max_batch_delay * 1000),
    }


def _sequences(options: SequenceOptions | None) -> Json:
    return {
        "stateful": options is not None,
        "sequenceMaxIdleMSec": 0 if options is None else round(options.max_idle * 1000),
        "sequenceTimeoutMSec": 0 if options is None else round((options.timeout or 0) * 1000),
        "maxNumSequence": 0 if options is None else options.max_sequences,
        "maxSequenceJobQueueSize": 0 if options is None else options.max_queue,
    }


def torchserve(facts: Facts, customized: Any = None, *, ours: bool = True) -> Json:
    """An element of TorchServe's list. `customized`: what its handler says of itself. `ours`: with state and reason."""
    told = _shared(facts)
    told |= {
        "responseTimeout": round(facts.response_timeout),
        "startupTimeout": round(facts.startup_timeout),
        "maxRetryTimeoutInSec": RETRY_SECONDS,
        "clientTimeoutInMills": 0,
        "parallelType": "",
        "parallelLevel": 0,
        "deviceType": "",
        "continuousBatching": False,
        "useJobTicket": False,
        "useVenv": False,
        **_sequences(facts.sequences),
        "loadedAtStartup": facts.at_startup,
        "workers": [
            {**_worker(worker), "pid": worker.pid, "gpuUsage": "N/A"} for worker in facts.workers
        ],
        "jobQueueStatus": {"remainingCapacity": facts.room, "pendingRequests": facts.pending},
    }  # fmt: skip
    if customized is not None:
        told["customizedMetadata"] = customized
    if ours:
        told["settings"] = {"priority_levels": facts.priority_levels}
        if facts.queue is not None:
            told["settings"]["queue"] = facts.queue
        if facts.default_priority_level is not None:
            told["settings"]["default_priority_level"] = facts.default_priority_level
        told["state"] = facts.state
        if facts.reason is not None:
            told["reason"] = facts.reason
    return told


def mms(facts: Facts) -> Json:
    """The object Multi Model Server tells of a model."""
    told = _shared(facts)
    told["loadedAtStartup"] = facts.at_startup
    told["workers"] = [_worker(worker) for worker in facts.workers]
    return told


def _worker(worker: WorkerFacts) -> Json:
    return {
        "id": worker.id,
        "startTime": moment(worker.started),
        "status": "READY" if worker.ready else "UNLOADING",
        "memoryUsage": worker.memory,
        "gpu": False,
    }


def moment(seconds: float) -> str:
    """ISO 8601, milliseconds, UTC: `2026-11-28T08:00:00.000Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def page(models: Sequence[tuple[str, str]], limit: int, token: int) -> Json:
    """Some of `models` (name and url, in order): `limit` from `token` on; a limit out of bounds is the largest."""
    if not 0 <= limit <= MOST_LISTED:
        limit = MOST_LISTED
    token = max(0, token)
    told: Json = {}
    if limit and token + limit < len(models):
        told["nextPageToken"] = str(token + limit)
    told["models"] = [{"modelName": name, "modelUrl": url} for name, url in models[token : token + limit]]
    return told


_STATES = {"READY": "READY", "LOADING": "LOADING", "DRAINING": "UNLOADING"}


def index(
    known: Iterable[tuple[str, str, str, str | None]],
    failed: Iterable[tuple[str, str, str]] = (),
    stored: Iterable[str] = (),
    *,
    only_ready: bool = False,
) -> list[Json]:
    """The v2 repository's index: of the versions that are `known` (name, version, state, reason), of those that could
    not be loaded (name, version or nothing, reason), and of the names in the model store that are neither."""
    told: list[Json] = []
    names = set()
    there = set()
    for name, version, state, reason in known:
        names.add(name)
        there.add((name, version))
        said = _STATES.get(state, "UNAVAILABLE")
        why = reason if reason is not None else "unloaded" if state == "REGISTERED" else ""
        if said == "READY" or not only_ready:
            told.append({"name": name, "version": version, "state": said, "reason": why})
    if only_ready:
        return told
    for name, version, reason in failed:
        if (name, version) not in there:
            names.add(name)
            there.add((name, version))
            of_version = {"version": version} if version else {}
            told.append({"name": name, **of_version, "state": "UNAVAILABLE", "reason": reason})
    told += [{"name": name} for name in sorted(set(stored) - names)]
    return told
