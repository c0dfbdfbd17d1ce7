"""What is told of one worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.workers.process import resident_bytes
from headrace.workers.sharing import Share
from headrace.workers.supervision import State

if TYPE_CHECKING:
    from headrace.workers.worker import Worker


@dataclass(frozen=True)
class WorkerStatus:
    """What can be said of a worker now."""

    index: int
    state: State
    pid: int | None
    starts: int
    reason: str | None
    threads: int
    """Its share of the model's cores."""
    cpus: tuple[int, ...]
    """It stays on these; (): on any."""
    memory_limit: int | None
    """Bytes."""
    limited_by: str | None
    """What holds it to that: "cgroup", or "address space"."""
    rss: int | None
    """Bytes that are resident, what it shares with others included; None: it has no process."""
    since: float
    """When its process was started, in seconds since 1970."""


def status_of(worker: Worker, memory_limit: int | None) -> WorkerStatus:
    """Now. `memory_limit`: what each may have, in bytes."""
    supervision, pid = worker.supervision, worker.pid
    share = worker.share or Share(0)
    return WorkerStatus(
        worker.index,
        supervision.state,
        pid,
        supervision.starts,
        supervision.reason,
        threads=share.threads,
        cpus=share.cpus,
        memory_limit=memory_limit,
        limited_by=worker.limit_kind,
        rss=None if pid is None else resident_bytes(pid),
        since=worker.since,
    )
