"""What an engine and its models can say of themselves. Frozen: a snapshot, never a view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.engine.admission import Budget, BudgetStatistics

if TYPE_CHECKING:
    from headrace.engine.leases import Leases
    from headrace.engine.operations import OperationCounts
    from headrace.engine.port import Port


@dataclass(frozen=True, slots=True)
class OperationStatistics:
    pushed: int = 0
    """Operations taken in since the start."""
    completed: int = 0
    """Operations that ran and returned; also where they had been cancelled meanwhile."""
    failed: int = 0
    """Operations that ran and raised."""
    cancelled: int = 0
    """Operations that were cancelled or shed before they ran, and have left the queues."""
    late: int = 0
    """Operations that were not run because their deadline passed first."""
    poisoned: int = 0
    """Operations that were not run because the last writer of a Var they read had failed."""
    refused: int = 0
    """Operations that had not begun when the engine was closed."""
    ready: int = 0
    """Operations that could start now, and wait for a stream; cancelled ones included until they are reached."""
    run_seconds: float = 0.0
    """Sum over all runs of the time they took."""


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    cores: int
    """Cores the engine may use."""
    cores_leased: int
    """Cores leased to runs now."""
    streams: int
    """Streams of all models and of pushed operations."""
    streams_running: int
    """Streams that hold a lease now."""
    ports: int
    """Models on this engine; and one more once an operation was pushed."""
    budget: BudgetStatistics
    """What is inside, and the bound on it."""
    operations: OperationStatistics
    """What became of what was pushed. Models have statistics of their own: `model.statistics()`."""

    @classmethod
    def of(cls, leases: Leases, ports: Sequence[Port], operations: Port | None, budget: Budget) -> EngineStatistics:
        """With the engine's lock held."""
        return cls(
            cores=leases.cores.bit_count(),
            cores_leased=leases.leased,
            streams=sum(len(port.streams) + sum(not each.ended for each in port.former) for port in ports),
            streams_running=sum(port.group.running for port in ports),
            ports=len(ports),
            budget=budget.statistics(),
            operations=_operations(operations),
        )


def _operations(port: Port | None) -> OperationStatistics:
    if port is None:
        return OperationStatistics()
    counts: OperationCounts = port.source.counts  # type: ignore[attr-defined]
    return OperationStatistics(
        pushed=counts.pushed,
        completed=port.runs - counts.failed - counts.skipped,
        failed=counts.failed,
        cancelled=counts.cancelled,
        late=counts.late,
        poisoned=counts.poisoned,
        refused=counts.refused,
        ready=port.source.batches(0.0, False),
        run_seconds=port.run_seconds,
    )
