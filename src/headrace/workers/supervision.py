"""What becomes of a worker: when it is started again, and when it is given up for a while. Pure: told what time it is.

    STOPPED -> STARTING -> READY <-> BUSY -> STOPPING -> STOPPED
                  |          |        |
                  +----------+--------+--> BACKING_OFF -> STARTING      it failed; it is started again, later each time
                                      +--> BROKEN      -> STARTING      it failed too often; it is tried again, seldom

Rule 1: the first time it fails it is started again at once; then after FIRST seconds, doubled each time, at most
        LONGEST.
Rule 2: what counts are failures without success in between. An answer is a success, and so is CALM seconds of life.
Rule 3: TOO_OFTEN failures in a row break the circuit: its model says that it is not ready, and what waits is refused.
        One try each RETRY seconds: READY closes the circuit, and the next failure opens it again.
"""

from __future__ import annotations

import enum

FIRST = 0.1
LONGEST = 10.0
CALM = 10.0
RETRY = 15.0
TOO_OFTEN = 5


class State(enum.StrEnum):
    STOPPED = "STOPPED"
    STARTING = "STARTING"
    READY = "READY"
    BUSY = "BUSY"
    BACKING_OFF = "BACKING_OFF"
    BROKEN = "BROKEN"
    STOPPING = "STOPPING"


WORKS = (State.READY, State.BUSY)
_MAY: dict[State, frozenset[State]] = {
    State.STOPPED: frozenset({State.STARTING}),
    State.STARTING: frozenset({State.READY, State.BACKING_OFF, State.BROKEN, State.STOPPING}),
    State.READY: frozenset({State.BUSY, State.BACKING_OFF, State.BROKEN, State.STOPPING}),
    State.BUSY: frozenset({State.READY, State.BACKING_OFF, State.BROKEN, State.STOPPING}),
    State.BACKING_OFF: frozenset({State.STARTING, State.STOPPING}),
    State.BROKEN: frozenset({State.STARTING, State.STOPPING}),
    State.STOPPING: frozenset({State.STOPPED}),
}


class Supervision:
    """One worker's. `state` is changed by its methods alone; one that cannot follow is an AssertionError."""

    def __init__(self) -> None:
        self.state = State.STOPPED
        self.starts = 0
        self.failures = 0
        """In a row."""
        self.reason: str | None = None
        """Why it failed last, while that matters."""
        self.start_at = 0.0
        """When it is to be started; while it is BACKING_OFF or BROKEN."""
        self._ready_at: float | None = None

    def starting(self) -> None:
        self._to(State.STARTING)
        self.starts += 1

    def ready(self, now: float) -> None:
        """It has loaded its model."""
        self._to(State.READY)
        self._ready_at = now

    def busy(self) -> None:
        if self.state is not State.BUSY:
            self._to(State.BUSY)

    def idle(self) -> None:
        if self.state is not State.READY:
            self._to(State.READY)

    def answered(self) -> None:
        """It works."""
        self.failures = 0
        self.reason = None

    def failed(self, now: float, reason: str) -> float:
        """It died, hung, or could not load. When to start it again."""
        if self._ready_at is not None and now - self._ready_at >= CALM:
            self.failures = 0
        self._ready_at = None
        self.failures += 1
        self.reason = reason
        if self.failures >= TOO_OFTEN:
            self._to(State.BROKEN)
            self.start_at = now + RETRY
        else:
            self._to(State.BACKING_OFF)
            wait = 0.0 if self.failures == 1 else min(LONGEST, FIRST * 2.0 ** (self.failures - 2))
            self.start_at = now + wait
        return self.start_at

    def replaced(self, now: float) -> None:
        """It is to be started again, and nothing was wrong with it."""
        self._to(State.BACKING_OFF)
        self.start_at, self._ready_at = now, None

    def stopping(self) -> None:
        if self.state is not State.STOPPED:
            self._to(State.STOPPING)

    def stopped(self) -> None:
        if self.state is not State.STOPPED:
            self._to(State.STOPPED)

    @property
    def is_broken(self) -> bool:
        """The circuit is open: also while it is tried."""
        return self.state is State.BROKEN or (self.state is State.STARTING and self.failures >= TOO_OFTEN)

    def _to(self, state: State) -> None:
        assert state in _MAY[self.state], f"a worker that is {self.state} does not become {state}"
        self.state = state
