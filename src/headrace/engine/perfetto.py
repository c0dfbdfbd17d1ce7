"""Events as ui.perfetto.dev and chrome://tracing draw them.

Rule 1: no dangling arrows: an arrow begins where a future was submitted that is seen to run, and ends where its
        outcome was read, or at its last run.

The format is the "Trace Event Format" (JSON). What is special about it is said where it matters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any

from headrace.engine.events import COUNT, DROP, READ, RUN, SUBMIT, Event

COUNTERS = (("waiting", "requests"), ("inside", "requests"), ("held", "bytes"), ("running", "streams"))
"""Name and unit of what COUNT tells. A counter each: several values of one counter are drawn on one scale, and the
bytes would flatten the rest."""

PROCESS = 1
FIRST_TRACK = 2  # a thread with the number of its process is taken for the main thread, and drawn first
TICKS = 8e6
"""Times are rounded to eighths of a microsecond: exact in binary, and whole nanoseconds. With any other fraction, a run
that begins when the one before it ends can overlap it by a nanosecond in the viewer, which then moves it elsewhere."""
SHORT = 8  # ticks: how long a submit or a read is drawn, where there is room for it


def chrome_trace(
    events: Iterable[Event], *, process_name: str, streams: Sequence[str], dropped: int = 0
) -> dict[str, Any]:
    """The events as a trace: a dict that `json` can write. Pure."""
    trace = _trace_events(events, process_name=process_name, streams=streams, dropped=dropped)
    return {"otherData": _other_data(dropped), "traceEvents": list(trace)}


def dump(
    events: Iterable[Event],
    write: Callable[[bytes], object],
    *,
    process_name: str,
    streams: Sequence[str],
    dropped: int = 0,
) -> None:
    """The same as text. Piece by piece: the whole would need many times the memory of the events."""
    trace = _trace_events(events, process_name=process_name, streams=streams, dropped=dropped)
    dumps = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
    write(f'{{"otherData":{dumps(_other_data(dropped))},"traceEvents":['.encode())
    before = b"\n"
    while piece := list(islice(trace, 1000)):
        write(before + dumps(piece)[1:-1].encode())
        before = b",\n"
    write(b"\n]}\n")


class _Life:
    """A future from its submit on."""

    __slots__ = ("last_run", "number", "read", "submitted", "waits_until")

    def __init__(self, number: int, submitted: int) -> None:
        self.number, self.submitted = number, submitted
        self.waits_until: int | None = None  # the index of the event that ended its waiting, if one did
        self.last_run: int | None = None  # the index of its last run. There may be several: a batch that failed
        self.read = False


class _Matched:
    """Events in the order of time, and which of them belong together."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.events = sorted(events, key=itemgetter(1))
        self.lives: list[Any] = [None] * len(self.events)  # of each event its life; of a run those of its requests
        self.callers: dict[int, int] = {}  # thread ident: 0, 1, … in the order they came
        self.streams: dict[str, None] = {}
        self.open: dict[int, _Life] = {}  # by future id; in the end, those that are still there
        self.start = self.events[0][1] if self.events else 0.0
        self.end = 0
        for index, event in enumerate(self.events):
            self._match(index, event)
        for life in self.open.values():
            if life.last_run is None:
                life.waits_until = len(self.events)

    def tick(self, seconds: float) -> int:
        return round((seconds - self.start) * TICKS)

    def _match(self, index: int, event: Event) -> None:
        kind, last = event[0], event[1]
        if kind == SUBMIT:
            now, future_id, ident = event[1:4]
            self.callers.setdefault(ident, len(self.callers))
            self.open[future_id] = self.lives[index] = _Life(index, self.tick(now))
        elif kind == RUN:
            last = max(event[1], event[2])
            self.streams[event[3]] = None
            mine = self.lives[index] = [life for life in map(self.open.get, event[4]) if life is not None]
            for life in mine:
                if life.last_run is None:
                    life.waits_until = index
                life.last_run = index
        elif kind == READ:
            self.callers.setdefault(event[3], len(self.callers))
            life = self.open.pop(event[2], None)
            if life is not None and life.last_run is not None:
                life.read = True
                self.lives[index] = life
        elif kind == DROP:
            life = self.open.get(event[2])
            if life is not None and life.last_run is None:
                life.waits_until = index
                self.lives[index] = self.open.pop(event[2])
        self.end = max(self.end, self.tick(last))


def _trace_events(
    events: Iterable[Event], *, process_name: str, streams: Sequence[str], dropped: int
) -> Iterator[dict[str, Any]]:
    matched = _Matched(events)
    names = list(dict.fromkeys([*streams, *sorted(matched.streams, key=_as_people_count)]))
    stream_tracks = {name: track for track, name in enumerate(names, FIRST_TRACK)}
    queue = FIRST_TRACK + len(names)
    caller_tracks = {ident: queue + 1 + place for ident, place in matched.callers.items()}

    if dropped:  # in the name, because that is seen
        process_name = f"{process_name} (its oldest {dropped:,} events were forgotten)"
    yield {"ph": "M", "pid": PROCESS, "name": "process_name", "args": {"name": process_name}}
    for name, track in stream_tracks.items():
        yield from _named(track, {"name": name})
    yield from _named(queue, {"name": "queue"})
    for ident, track in caller_tracks.items():
        yield from _named(track, {"name": f"caller {track - queue}", "ident": ident})

    # Arrows bind to the slice that is open on their track when they come, so each follows its slice in the file.
    tick, short = matched.tick, _short_slices(matched)
    counted: list[Any] = [None] * len(COUNTERS)
    for index, (event, life) in enumerate(zip(matched.events, matched.lives)):
        kind, at = event[0], tick(event[1])
        ts = at / 8
        if kind == SUBMIT:
            track = caller_tracks[event[3]]
            yield _slice("submit", "caller", track, ts, short[index])
            if life.last_run is not None:
                yield _arrow("s", life, track, ts)
            if life.waits_until is not None:
                yield _waiting("b", life, queue, ts)
        elif kind == RUN:
            _, _, ended, stream, future_ids, name, rows = event
            args = {"rows": rows, "requests": len(future_ids)}
            if life:
                args["oldest waited (ms)"] = (at - min(one.submitted for one in life)) / (TICKS / 1e3)
            track = stream_tracks[stream]
            yield _slice(name, "run", track, ts, max(0, tick(ended) - at) / 8) | {"args": args}
            for one in life:
                if one.waits_until == index:
                    yield _waiting("e", one, queue, ts)
                yield _arrow("t" if one.read or one.last_run != index else "f", one, track, ts)
        elif kind == READ:
            track = caller_tracks[event[3]]
            yield _slice("read", "caller", track, ts, short[index])
            if life is not None:
                yield _arrow("f", life, track, ts)
        elif kind == DROP:
            if life is not None:
                yield _waiting("e", life, queue, ts)
            yield {"ph": "i", "s": "t", "pid": PROCESS, "tid": queue, "ts": ts, "cat": "drop", "name": event[3]}
        elif kind == COUNT:
            for place, (name, unit) in enumerate(COUNTERS):
                value = event[2 + place]
                if value != counted[place]:  # it is drawn as steps: the same again would only make the file longer
                    counted[place] = value
                    yield {"ph": "C", "pid": PROCESS, "ts": ts, "name": name, "args": {unit: value}}
    for life in matched.open.values():
        if life.waits_until == len(matched.events):
            yield _waiting("e", life, queue, matched.end / 8)


def _named(track: int, args: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "pid": PROCESS, "tid": track, "name": "thread_name", "args": args}
    yield {"ph": "M", "pid": PROCESS, "tid": track, "name": "thread_sort_index", "args": {"sort_index": track}}


def _slice(name: str, category: str, track: int, ts: float, duration: float) -> dict[str, Any]:
    return {"ph": "X", "pid": PROCESS, "tid": track, "ts": ts, "dur": duration, "cat": category, "name": name}


def _arrow(phase: str, life: _Life, track: int, ts: float) -> dict[str, Any]:
    # An id that is a string is read as hexadecimal. "bp": without it an "f" looks for the next slice, not for its own.
    arrow = {"ph": phase, "pid": PROCESS, "tid": track, "ts": ts, "cat": "request", "name": "request"}
    arrow["id"] = hex(life.number)
    if phase == "f":
        arrow["bp"] = "e"
    return arrow


def _waiting(phase: str, life: _Life, track: int, ts: float) -> dict[str, Any]:
    # Waits overlap as they please, and the slices of a thread must nest: so they are asynchronous spans. All have the
    # same category and name, and so the viewers pack them into one track with as many rows as wait at once, not into a
    # track for each; the id only joins the two ends.
    span = {"ph": phase, "pid": PROCESS, "tid": track, "ts": ts, "cat": "waiting", "name": "waiting"}
    span["id"] = hex(life.number)
    return span


def _short_slices(matched: _Matched) -> list[float]:
    """How long each submit and each read is drawn, in microseconds: never into the next slice of its track."""
    durations = [0.0] * len(matched.events)
    following: dict[int, tuple[int, int]] = {}  # by caller: when its next slice begins, and how long that is
    for index in range(len(matched.events) - 1, -1, -1):
        event = matched.events[index]
        if event[0] in (SUBMIT, READ):
            at = matched.tick(event[1])
            begins, ticks = following.get(event[3], (at + SHORT, SHORT))
            if begins != at:  # those of one moment are equally long: one lies in the other
                ticks = min(SHORT, begins - at)
            following[event[3]] = at, ticks
            durations[index] = ticks / 8
    return durations


def _as_people_count(name: str) -> list[Any]:
    """Sorts "stream 10" after "stream 9"."""
    return [int(part) if odd % 2 else part for odd, part in enumerate(re.split(r"(\d+)", name))]


def _other_data(dropped: int) -> dict[str, Any]:
    return {"made_by": "headrace", "events_forgotten_at_least": dropped}
