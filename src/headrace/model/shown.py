"""Which part of a timeline is shown: what was asked for, or as much as can be read; and who waits in it. Pure."""

from __future__ import annotations

from collections import Counter
from math import floor, log10
from typing import Any

from headrace.errors import InvalidOption
from headrace.model.timeline import Request, Timeline

Window = float | tuple[float, float]
"""So many seconds, or from when to when."""
RUNS_SHOWN = 28
"""On the busiest stream, unless a window is asked for: so that a bar has room for its number."""


def check_window(window: Window | None) -> None:
    if window is None:
        return
    pair: tuple[Any, ...] = window if isinstance(window, tuple) else (0.0, window)
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in pair)
    if not numbers or len(pair) != 2 or not 0 <= pair[0] < pair[1]:
        raise InvalidOption(f"window is seconds from the begin, or a pair of them, the lesser first; {window!r} came")


def shown(timeline: Timeline, window: Window | None) -> tuple[float, float]:
    """From when to when: what was asked for, or the first runs that have room for their numbers."""
    seconds = timeline.seconds or 1e-6  # a single moment is drawn as some time
    if isinstance(window, tuple):
        return (min(window[0], seconds), min(window[1], seconds)) if window[0] < seconds else (0.0, seconds)
    if window is not None:
        return 0.0, min(window, seconds)
    until = seconds
    seen: Counter[int] = Counter()
    for span in timeline.spans:
        seen[span.row] += 1
        if seen[span.row] > RUNS_SHOWN and span.start > 0:
            until = span.start
            break
    if until < seconds:
        step = 10.0 ** (floor(log10(until)) - 1)
        until = max(step, floor(until / step + 1e-9) * step)
    return 0.0, min(until, seconds)


def who_waits(timeline: Timeline, start: float, end: float) -> list[tuple[Request, float]]:
    """Who waits in this time, and until when; by arrival."""
    found = []
    for request in timeline.requests:
        if request.arrived is not None and request.arrived < end:
            over = request.begun if request.begun is not None else request.ended
            over = timeline.seconds if over is None else over
            if over >= start:
                found.append((request, over))
    return sorted(found, key=lambda each: each[0].arrived or 0.0)
