"""What a model can say of itself. Frozen: a snapshot, never a view."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.model.gil import Gil


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    streams: int
    """Runs that can go on at once."""
    submitted: int
    """Requests taken in since the start."""
    completed: int
    """Requests that ran and came back with a value; also where nobody waited for it any more."""
    failed: int
    """Requests that ran and got an error."""
    cancelled: int
    """Requests that were cancelled before they ran, and have left the queue."""
    late: int
    """Requests whose deadline passed before a stream was free."""
    refused: int
    """Requests that had not begun when the model or its engine was closed."""
    waiting: int
    """Requests in the queue now."""
    running: int
    """Requests in a run now, or taken by a stream that does several short runs in a row."""
    runs: int
    """Runs of the model: one for each batch."""
    rows: int
    """Rows in all runs (requests, for a callable or where nothing is joined); `rows / runs` is the mean batch size."""
    queue_seconds: float
    """Sum over all requests of the time from submit to the start of their run."""
    run_seconds: float
    """Sum over all runs of the time they took."""
    gil: Gil | None = None
    """Whether its runs hold the interpreter lock; None: not known, or too short to matter."""
