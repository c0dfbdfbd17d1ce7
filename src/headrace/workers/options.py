"""What can be said of a model's workers, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.engine.timeouts import is_number
from headrace.errors import InvalidOption
from headrace.workers import at_once
from headrace.workers.arena import SIZE

AT_ONCE = 32
"""Runs of a coroutine function that go on at once in one worker, where nothing else was said."""
MOST = 256
"""Workers of one model."""
LONGEST = 1_000_000
"""Seconds."""
LEAST_MEMORY, MOST_MEMORY = 1 << 20, 1 << 50
"""Bytes."""


@dataclass(frozen=True)
class WorkerOptions:
    """Seconds and bytes."""

    python: str | None = None
    """The interpreter workers run; None: this one's."""
    response_timeout: float = 120.0
    start_timeout: float = 120.0
    cancel_grace: float = 5.0
    """How long a run may go on after it was cancelled."""
    idempotent: bool = True
    """Whether a run that was begun may be begun once more, where its worker died."""
    memory_limit: int | None = None
    concurrency: int = AT_ONCE
    """Runs of a coroutine function that go on at once in one worker."""
    arena: int = SIZE


def check(options: WorkerOptions) -> None:
    """InvalidOption for what is no number of seconds or bytes, or is none of what it can be."""
    for what in ("response_timeout", "cancel_grace", "start_timeout"):
        seconds = getattr(options, what)
        if isinstance(seconds, bool) or not is_number(seconds) or not 0 < seconds <= LONGEST:
            raise InvalidOption(f"{what} is in seconds, above 0 and at most {LONGEST:,}, not {seconds!r}")
    runs = options.concurrency
    if isinstance(runs, bool) or not isinstance(runs, int) or not 1 <= runs <= at_once.MOST:
        raise InvalidOption(f"concurrency is a whole number from 1 to {at_once.MOST}, not {runs!r}")
    limit = options.memory_limit
    is_whole = isinstance(limit, int) and not isinstance(limit, bool)
    if limit is not None and not (is_whole and LEAST_MEMORY <= limit <= MOST_MEMORY):
        raise InvalidOption(
            f"memory_limit is a whole number of bytes from {LEAST_MEMORY:,} to {MOST_MEMORY:,}, or None, not {limit!r}"
        )
    if not isinstance(options.idempotent, bool):
        raise InvalidOption(f"idempotent is True or False, not {options.idempotent!r}")


def check_workers(workers: object) -> None:
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= MOST:
        raise InvalidOption(f"workers is a whole number from 1 to {MOST}, not {workers!r}")
