"""Where one Source meets its streams: who they are, what they have run, and what that says of the next run."""

from __future__ import annotations

import threading
from collections.abc import Callable

from headrace.counters import Histogram
from headrace.engine.leases import Group
from headrace.engine.source import Entering, Source
from headrace.engine.stream import Stream

KNOWN = 8
"""Runs after which the quickest of them says how long one takes at the least: the first ones warm up."""


class Port:
    """Where one source meets its streams. Changed only by `Dispatch`, with its lock held."""

    def __init__(self, source: Source, name: str) -> None:
        self.source, self.name = source, name
        self.group = Group()
        self.streams: tuple[Stream, ...] = ()
        self.former: list[Stream] = []  # replaced, and a last run of theirs goes on, or a trace has seen them
        self.made = 0  # streams so far: each has a number of its own
        self.attached = True
        self.rehearsing = False  # one at a time
        self.watcher: Stream | None = None  # the idle stream that watches the clock
        self.vigilant = False  # it watches that runs end, and so looks again within PATIENCE
        self.seen = -1  # how many runs had ended when it began to
        self.bundles = 0  # that streams have taken, and that are to be watched
        self.runs = 0  # that have ended
        self.runs_before = 0  # of those, by streams of other widths: they say nothing about these
        self.run_seconds = 0.0
        self.run_times: Histogram | None = None  # the same, run by run, where somebody wants to know
        self.typical = float("inf")
        """Seconds a run takes when nothing disturbs it: falls at once to what was measured, and rises slowly."""
        self.quickest = float("inf")
        """Seconds the quickest run took."""
        self.drained: threading.Event | None = None  # set when nothing waits or runs, if someone waits for that
        self.straight: Callable[[Entering], bool] | None = None
        """What `offer` tries first: enter the item, and have it begin, in one step (`workers/straight`)."""

    def wait(self, batches: int) -> float:
        """Seconds until so many runs have at the least begun; 0 where nothing has been measured."""
        if self.runs - self.runs_before < KNOWN:
            return 0.0
        return batches // max(1, len(self.streams)) * self.quickest

    def cut_short(self, grace: float | None = None) -> None:
        """Nobody wants what runs any more: where it can be ended it is, after so many seconds. Not with the lock."""

    def is_idle(self) -> bool:
        """Whether nothing waits or runs. With the lock held."""
        return not self.group.running and self.source.is_empty()
