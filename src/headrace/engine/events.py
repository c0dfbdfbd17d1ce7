"""What a trace records, and where it is kept.

Rule 1: to record is to append to a deque. No lock, no count, no formatting.
Rule 2: the newest events are kept, and it is known how many were forgotten.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any

SUBMIT, RUN, READ, DROP, COUNT = range(5)
"""The kinds of events:

(SUBMIT, now, future_id, thread_ident, source)              a future entered; `now` is of the engine's clock, `source`
                                                            the name of the port it entered by
(RUN, begun, ended, stream_name, future_ids, name, rows)    one run on one stream; an id for each request of the batch
(READ, now, future_id, thread_ident)                        somebody read its outcome the first time
(DROP, now, future_id, why)                                 it ended without being run
(COUNT, now, waiting, inside, nbytes, streams_running)

`future_id` is `id(future)`, so it may come again: each SUBMIT begins a new life of its id.
"""

Event = tuple[Any, ...]


def of_source(events: Iterable[Event], source: str, streams: frozenset[str]) -> list[Event]:
    """Those of the futures that entered by one port; all are in the order of time. Counters are the whole engine's, and
    left out."""
    mine: set[int] = set()  # future ids: each SUBMIT says anew whose one is
    kept = []
    for event in events:
        kind = event[0]
        if kind == SUBMIT:
            keep = event[4] == source
            (mine.add if keep else mine.discard)(event[2])
        elif kind == RUN:
            keep = event[3] in streams
            if keep:
                mine.update(event[4])
        else:
            keep = kind in (READ, DROP) and event[2] in mine
        if keep:
            kept.append(event)
    return kept


class Ring(deque[Any]):
    """The newest `capacity` events. It counts what it forgets at no cost to those who append: among the events lies a
    marker that is pushed out once in a lap, and then counts the lap and puts the next marker in."""

    def __init__(self, capacity: int) -> None:
        super().__init__(maxlen=capacity + 1)  # and the marker
        self.laps = 0
        self.append(_Marker(self))

    def look(self) -> tuple[list[Event], int]:
        """The events, and how many were forgotten."""
        while True:
            try:
                laps, slots = self.laps, tuple(self)
                break
            except RuntimeError:  # somebody recorded meanwhile: it happens only where threads really run at once
                continue
        at = next((place for place, slot in enumerate(slots) if type(slot) is _Marker), len(slots))
        return [*slots[:at], *slots[at + 1 :]], max(0, laps * (self.maxlen or 0) - at)


class _Marker:
    __slots__ = ("_ring",)

    def __init__(self, ring: Ring) -> None:
        self._ring = weakref.ref(ring)

    def __del__(self) -> None:
        ring = self._ring()
        if ring is not None:  # it was pushed out; otherwise the ring itself is gone
            ring.laps += 1
            ring.append(_Marker(ring))
