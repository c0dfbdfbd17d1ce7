"""Whether runs of a model hold the interpreter lock: from how late a thread wakes beside them. Pure.

Rule 1: a thread that sleeps SLEEP seconds at a time wakes late where another holds the lock. The share of a run's time
        that it spends so is the share that everything else in the process waits.
Rule 2: only what is later than usual counts. Usual is how late it wakes while the model does not run: the timer's own
        slack, and whatever else in the process holds the lock.
Rule 3: time in the queue for a CPU is not the lock's. The kernel counts it, and it is taken off.
Rule 4: where somebody else holds the lock for long, nothing is said: theirs and the model's cannot be told apart. Who
        holds it computes, nearly always: other threads may have held it for as long as they computed, and not longer.
Rule 5: runs below SHORTEST say nothing: they are over before a sleeper wakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median, median_high

SLEEP = 0.5e-3
SHORTEST = 2e-3
"""Seconds. Shorter runs hold nobody up for long."""
SLACK = 0.2e-3
"""Seconds a sleeper is late without anybody's fault, at the least."""
NOISY = 1e-3
"""Seconds a sleeper is usually late from which others are to blame for what is seen."""
TOO_MUCH = 0.25
"""The share of its runs from which a model counts as one that holds the lock."""
ENOUGH_RUNS = 3
ENOUGH_SECONDS = 0.2
"""Of runs that were looked at: so much is enough, however few they are."""


@dataclass(frozen=True, slots=True)
class Gil:
    """What was seen of a model and the interpreter lock."""

    share: float
    """Of a run's time, how much others waited for the lock."""
    lag: float
    """Seconds another thread woke late beside a run (median)."""
    run: float
    """Seconds such a run took (median)."""
    holds: bool
    """Whether that is more than a neighbour can be asked to bear."""


@dataclass(frozen=True, slots=True)
class Wake:
    """A sleeper's waking: when it was due, and when it was awake. Seconds of any one clock."""

    due: float
    woke: float

    @property
    def late(self) -> float:
        return max(0.0, self.woke - self.due)


@dataclass(frozen=True, slots=True)
class Look:
    """One run, as somebody beside it saw it."""

    seconds: float
    held: float
    """Seconds of it others waited for the lock."""
    lag: float
    """Seconds a wake was late (median)."""

    @property
    def share(self) -> float:
        return self.held / self.seconds


def is_noisy(idle: Sequence[Wake]) -> bool:
    """Whether others hold the lock for long now, from the wakes while the model does not run."""
    return bool(idle) and median_high([wake.late for wake in idle]) > NOISY


def look(began: float, ended: float, beside: Sequence[Wake], before: Sequence[Wake], queued: float = 0.0) -> Look:
    """`beside`, `before`: the wakes while it ran and while it did not. `queued`: seconds in which those beside it were
    in the queue for a CPU."""
    usual = max(SLACK, median([wake.late for wake in before])) if before else SLACK
    lates = []
    for wake in beside:
        due, woke = max(wake.due, began), min(wake.woke, ended)
        if due < ended and woke > due:
            lates.append(woke - due)
        elif began <= wake.due < ended:
            lates.append(0.0)
    held = sum(max(0.0, late - usual) for late in lates) - queued
    return Look(ended - began, min(max(0.0, held), ended - began), median_high(lates) if lates else 0.0)


def without(seen: Look, others: float) -> Look | None:
    """What was seen, without what other threads can have held the lock: they computed, or were about to, for `others`
    seconds. None where they may be to blame for it."""
    if seen.share <= TOO_MUCH:
        return seen
    rest = replace(seen, held=max(0.0, seen.held - others))
    return rest if rest.share > TOO_MUCH else None


def is_enough(looks: Sequence[Look]) -> bool:
    return len(looks) >= ENOUGH_RUNS or sum(one.seconds for one in looks) >= ENOUGH_SECONDS


def judged(looks: Sequence[Look], spoilt: int = 0) -> Gil | None:
    """None: what was seen is not enough to tell. `spoilt`: how many more looks somebody else may be to blame for; where
    they are as many, the others were luck."""
    telling = [one for one in looks if one.seconds >= SHORTEST]
    if not is_enough(telling) or spoilt >= len(telling):
        return None
    share = median([one.share for one in telling])
    return Gil(
        share=share,
        lag=median([one.lag for one in telling]),
        run=median([one.seconds for one in telling]),
        holds=share > TOO_MUCH,
    )


def warning(name: str, gil: Gil, streams: int) -> str:
    more = f"its {streams} streams take turns and gain nothing (num_streams=1 does as well); " if streams > 1 else ""
    return (
        f"{name} holds the GIL: another thread waited {gil.lag * 1e3:.1f} ms (median) beside runs of "
        f"{gil.run * 1e3:.1f} ms, {gil.share:.0%} of their time. Everything else in this process waits as well: {more}"
        "have the work done by a library that releases the GIL, or serve this model from a process of its own"
    )
