"""What an engine and its models can say of themselves. Frozen: a snapshot, never a view."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.engine.admission import BudgetStatistics


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
