"""What a management API tells, with names and types of ours. Pure.

Rule 1: times are in seconds and sizes in bytes, whatever the server counts them in.
Rule 2: what an older server does not tell is worked out of what it does, or left at what says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from headrace.client.refused import NOTHING, Subject, error_of
from headrace.errors import HeadraceError

RUNNING, DONE, FAILED = "running", "done", "failed"


@dataclass(frozen=True)
class WorkerSeen:
    """A worker process, or a stream of a model in the server's own. `memory` in bytes."""

    id: str
    pid: int
    ready: bool
    started: datetime | None
    memory: int


@dataclass(frozen=True)
class ModelSeen:
    """One version of a model, as it was when it was asked for. Times in seconds."""

    name: str
    version: str
    url: str
    state: str
    """REGISTERED, LOADING, READY, DRAINING, FAILED."""
    reason: str | None
    default: bool
    """Whether requests that name no version go to it."""
    min_workers: int
    max_workers: int
    workers: tuple[WorkerSeen, ...]
    batch_size: int
    max_batch_delay: float
    response_timeout: float | None
    startup_timeout: float | None
    at_startup: bool
    """Whether the server was started with it."""
    waiting: int
    """Requests inside that wait for a worker."""
    queue: int | None = None
    """Requests it may have inside; None: it has no bound of its own, or the server does not tell."""
    priority_levels: int = 0
    """Levels its requests may name; 0: none."""
    default_priority_level: int | None = None

    @property
    def ready(self) -> bool:
        return self.state == "READY"

    @property
    def ready_workers(self) -> int:
        return sum(worker.ready for worker in self.workers)


@dataclass(frozen=True)
class Operation:
    """A change, as it was when it was asked for. `error`: why it failed."""

    id: str
    kind: str
    """register, scale, set-default, unregister, load, unload, ..."""
    model: str | None
    version: str | None
    state: str
    """running, done, failed."""
    started: datetime | None = None
    ended: datetime | None = None
    error: HeadraceError | None = None

    @property
    def running(self) -> bool:
        return self.state == RUNNING


def models_of(told: Any) -> list[ModelSeen]:
    """Of a description: a list of versions, or the object Multi Model Server tells. One alone is the default."""
    each = told if isinstance(told, list) else [told]
    return [_model(one, default=len(each) == 1) for one in each]


def with_default(models: list[ModelSeen], version: str) -> list[ModelSeen]:
    return [replace(model, default=model.version == version) for model in models]


def operation_of(told: Mapping[str, Any], subject: Subject = NOTHING) -> Operation:
    """`subject`: what was asked for, where that is known; for its error."""
    model, version, error = told.get("model"), told.get("version"), told.get("error")
    if subject == NOTHING:
        subject = Subject(str(model or ""), str(version or ""))
    why = None
    if error:
        why = error_of(int(error["code"]), str(error["type"]), str(error["message"]), subject)
    return Operation(
        id=str(told["id"]),
        kind=str(told["kind"]),
        model=model,
        version=version,
        state=str(told["state"]),
        started=_moment(told.get("started")),
        ended=_moment(told.get("ended")),
        error=why,
    )


def _model(told: Mapping[str, Any], *, default: bool) -> ModelSeen:
    workers = tuple(_worker(each) for each in told.get("workers", ()))
    queue, settings = told.get("jobQueueStatus") or {}, told.get("settings") or {}
    return ModelSeen(
        name=str(told["modelName"]),
        version=str(told["modelVersion"]),
        url=str(told.get("modelUrl", "")),
        state=str(told.get("state") or _state(workers)),
        reason=told.get("reason"),
        default=default,
        min_workers=int(told.get("minWorkers", 0)),
        max_workers=int(told.get("maxWorkers", 0)),
        workers=workers,
        batch_size=int(told.get("batchSize", 1)),
        max_batch_delay=int(told.get("maxBatchDelay", 0)) / 1000,
        response_timeout=_seconds(told.get("responseTimeout")),
        startup_timeout=_seconds(told.get("startupTimeout")),
        at_startup=bool(told.get("loadedAtStartup", False)),
        waiting=int(queue.get("pendingRequests", 0)),
        queue=settings.get("queue"),
        priority_levels=int(settings.get("priority_levels", 0)),
        default_priority_level=settings.get("default_priority_level"),
    )


def _worker(told: Mapping[str, Any]) -> WorkerSeen:
    return WorkerSeen(
        id=str(told.get("id", "")),
        pid=int(told.get("pid", 0)),
        ready=told.get("status") == "READY",
        started=_moment(told.get("startTime")),
        memory=int(told.get("memoryUsage", 0)),
    )


def _state(workers: tuple[WorkerSeen, ...]) -> str:
    """Of a server that does not tell it."""
    if not workers:
        return "REGISTERED"
    return "READY" if any(worker.ready for worker in workers) else "LOADING"


def _seconds(told: Any) -> float | None:
    return None if told is None else float(told)


def _moment(told: Any) -> datetime | None:
    """ISO 8601; None where it is not."""
    try:
        found = datetime.fromisoformat(str(told))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
