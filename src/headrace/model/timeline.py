"""What a model's streams did, as a timeline: which requests ran where and when, and since when they had waited.

Rule 1: requests have numbers from 1, in the order they arrived. Those that had arrived before the recording come first.
Rule 2: time is in seconds since the first thing that was recorded.
Rule 3: figures count a request in the window in which it ended. One that was still running has not ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from headrace.engine.events import DROP, RUN, SUBMIT, Event

CALLER = "caller"
"""What a trace calls the stream of the naive scheduler."""


@dataclass(frozen=True, slots=True)
class Row:
    """A stream, and the cores it runs on. None are known where it is the caller's own thread."""

    name: str
    cores: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """One run: `requests` on the stream with the place `row` among the timeline's."""

    requests: tuple[int, ...]
    row: int
    start: float
    end: float
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """`arrived` None: before the recording. `begun` None: it was not run, for the reason `dropped`, or it still waits.
    `ended`: its run's end, or when it was dropped; None: not yet."""

    number: int
    arrived: float | None
    begun: float | None = None
    ended: float | None = None
    dropped: str = ""

    @property
    def latency(self) -> float | None:
        if self.arrived is None or self.begun is None or self.ended is None:
            return None
        return self.ended - self.arrived


@dataclass(frozen=True, slots=True)
class Timeline:
    rows: tuple[Row, ...]
    spans: tuple[Span, ...]
    """By when they began."""
    requests: tuple[Request, ...]
    """By their numbers."""
    seconds: float
    """Until the last thing that was recorded."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the requests that ended within some time. Latencies are from arrival to the end of the run, in seconds."""

    requests: int
    dropped: int
    per_second: float
    p50: float | None
    p99: float | None


def timeline_of(events: Iterable[Event], rows: Sequence[Row], unfinished: Sequence[str] = ()) -> Timeline:
    """`events` of one model, in the order of time (`engine.trace`). `unfinished`: streams whose last run goes on."""
    events = list(events)
    begin = min((event[1] for event in events), default=0.0)
    places = {row.name: place for place, row in enumerate(rows)}
    last_on = {event[3]: index for index, event in enumerate(events) if event[0] == RUN}
    goes_on = {last_on[name] for name in unfinished if name in last_on}
    unknown = _arrived_before(events)
    requests = [Request(number, None) for number in range(1, unknown + 1)]
    open_: dict[int, int] = {}  # by future id: its place in `requests`
    spans: list[Span] = []
    came_early = 0
    end = begin
    for index, event in enumerate(events):
        kind, at = event[0], event[1] - begin
        end = max(end, event[1], event[2] if kind == RUN else begin)
        if kind == SUBMIT:
            open_[event[2]] = len(requests)
            requests.append(Request(len(requests) + 1, at))
        elif kind == DROP:
            place = open_.pop(event[2], None)
            if place is not None:
                was = requests[place]
                requests[place] = Request(was.number, was.arrived, None, at, event[3])
        elif kind == RUN:
            finished, ended = index not in goes_on, max(event[2] - begin, at)
            numbers = []
            for future_id in event[4]:
                place = open_.get(future_id)
                if place is None:
                    place, came_early = came_early, came_early + 1
                    open_[future_id] = place
                was = requests[place]
                first = at if was.begun is None else was.begun
                requests[place] = Request(was.number, was.arrived, first, ended if finished else None)
                numbers.append(was.number)
            spans.append(Span(tuple(sorted(numbers)), places[event[3]], at, ended, finished))
    return Timeline(tuple(rows), tuple(spans), tuple(requests), end - begin)


def figures(timeline: Timeline, start: float = 0.0, end: float | None = None) -> Figures:
    """Of the requests that ended from `start` on and not after `end` (None: the timeline's)."""
    end = timeline.seconds if end is None else end
    ended = [each for each in timeline.requests if each.ended is not None and start <= each.ended <= end]
    ran = [each for each in ended if each.begun is not None]
    latencies = sorted(each.latency for each in ran if each.latency is not None)
    return Figures(
        requests=len(ran),
        dropped=len(ended) - len(ran),
        per_second=len(ran) / (end - start) if end > start else 0.0,
        p50=_percentile(latencies, 50),
        p99=_percentile(latencies, 99),
    )


def busy(timeline: Timeline, row: int, start: float, end: float) -> float:
    """The part of that time in which the stream ran, from 0 to 1."""
    seconds = sum(
        min(s.end, end) - max(s.start, start)
        for s in timeline.spans
        if s.row == row and s.start < end and s.end > start
    )
    return seconds / (end - start) if end > start else 0.0


def _arrived_before(events: Iterable[Event]) -> int:
    """How many requests run that were not seen to arrive."""
    known: set[int] = set()
    unknown = 0
    for event in events:
        if event[0] == SUBMIT:
            known.add(event[2])
        elif event[0] == RUN:
            unknown += len(set(event[4]) - known)
            known.update(event[4])
        elif event[0] == DROP:
            known.discard(event[2])
    return unknown


def _percentile(values: Sequence[float], percent: float) -> float | None:
    """The least of `values` (in order) that so many percent are not above."""
    return values[max(0, ceil(len(values) * percent / 100) - 1)] if values else None
