"""Several short runs that one stream does before it comes back to the engine.

A turn, and the interpreter's code for it in the processor's caches, cost as much as a run of a few microseconds. So
where runs are SHORT (`dispatch`) a stream takes several at a time.

Rule 1: nothing is stuck behind a run that turns out long. What has not begun can be taken back, and what has ended can
        be settled, by another stream, at any moment: `left` and `ended` are deques, and whoever takes something out of
        one of them has it alone.
Rule 2: `run` takes no lock. `complete`, `take_back` and `settle` are called with the engine's lock held.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from headrace.engine.future import Future
from headrace.engine.source import Work

_log = logging.getLogger("headrace.engine")


class Bundle:
    """Work made of works, each of which keeps its outcome to itself until it is completed."""

    __slots__ = ("_done", "_now", "ended", "left", "watched")

    def __init__(self, works: Iterable[Work]) -> None:
        self.left = deque(works)
        self.ended: deque[Work] = deque()
        self.watched = True
        """Another stream watches that it gets on. Not any more once what had not begun was taken back."""
        self._now: Work | None = None  # the one that runs
        self._done: list[Work] = []  # completed, and not delivered

    @property
    def name(self) -> str:
        return next((work.name for work in self._works()), "nothing more")

    def futures(self) -> Iterator[Future[Any]]:
        """Of what runs, and of what is still in hand."""
        for work in self._works():
            yield from work.futures()

    def run(self) -> None:
        left, ended = self.left, self.ended
        try:
            while True:
                self._now = work = left.popleft()
                work.run()
                ended.append(work)
        except IndexError:  # nothing is left. A work's `run` raises nothing
            self._now = None

    def complete(self, now: float) -> None:
        self._done += self.settle(now)

    def deliver(self) -> None:
        done, self._done = self._done, []
        deliver(done)

    def settle(self, now: float) -> list[Work]:
        """Complete what has ended. Who calls this delivers it, without the lock."""
        settled: list[Work] = []
        ended = self.ended
        while ended:
            work = ended.popleft()
            work.complete(now)
            now += 1e-9  # each after the one before: whoever sorts them by when they ended finds their order
            settled.append(work)
        return settled

    def take_back(self) -> list[Work]:
        """What has not begun, in its order: it is the caller's now."""
        taken: list[Work] = []
        while True:
            try:
                taken.append(self.left.popleft())
            except IndexError:
                return taken

    def _works(self) -> list[Work]:
        """All of them, the running one first. Copies: its stream may be taking from them."""
        running = self._now
        ended = self.ended.copy()
        return [*(() if running is None or running in ended else (running,)), *ended, *self.left.copy()]


def deliver(works: Sequence[Work]) -> None:
    """Tell those who wait for what was completed. One that cannot be delivered costs the others nothing."""
    if len(works) > 1:
        first = works[0]
        together = getattr(first, "deliver_all", None)
        if together is not None and all(type(work) is type(first) for work in works):
            together(works)
            return
    for work in works:
        try:
            work.deliver()
        except BaseException:  # the stream must outlive it: it has been given its next work, and holds cores
            _log.exception("an outcome could not be delivered")
