"""How many runs a worker is sent ahead of the one it does. Pure.

Rule 1: about AHEAD seconds of work lie at a worker beside its run, so that it never waits for its next one, and never
        more than MOST runs: what waits there cannot go to another worker, and is lost time where it is cancelled.
Rule 2: nothing is known before the first answer: one run at a time. Runs that take longer than AHEAD have none ahead.
Rule 3: what is known falls at once to what was measured and rises fast: a worker whose runs become long is sent less at
        its next answer.
"""

from __future__ import annotations

AHEAD = 0.001
"""Seconds."""
MOST = 64
"""Runs."""


class Window:
    def __init__(self, ahead: float = AHEAD, most: int = MOST) -> None:
        self._ahead, self._most = ahead, most
        self.typical = float("inf")
        """Seconds a run takes."""
        self.size = 1
        """Runs that may be with the worker, the one it does included."""

    def learn(self, seconds: float) -> None:
        """A run has taken so long."""
        typical = self.typical
        if seconds < typical:
            typical = seconds if typical == float("inf") else typical - 0.25 * (typical - seconds)
        else:
            typical += 0.25 * (seconds - typical)
        self.typical = typical
        self.size = 1 + min(self._most - 1, int(self._ahead / max(typical, 1e-9) + 0.5))

    def forget(self) -> None:
        """Another process takes over: it has its first runs before it."""
        self.typical, self.size = float("inf"), 1
