"""The states of versions, as they change: one at a time, by `lifecycle` or by workers that cannot be kept alive."""

from __future__ import annotations

import threading

from headrace.serving.loading import in_our_words
from headrace.serving.registry import Entry, State
from headrace.serving.served import Served


class States:
    def __init__(self) -> None:
        self._changing = threading.Lock()
        """Held for each change of a state: workers that die change it too."""

    def become(self, entry: Entry[Served], state: State, reason: str | None = None) -> None:
        with self._changing:
            entry.become(state, reason)

    def exchange(self, entry: Entry[Served], served: Served) -> None:
        """Another one answers its requests from now on."""
        old = entry.served
        if old is not None and old.model.crew is not None:
            old.model.crew.on_change = _nothing
        with self._changing:
            entry.served = served
            if entry.state is State.FAILED:
                entry.become(State.READY)
        self.follow(entry)

    def follow(self, entry: Entry[Served]) -> None:
        """It is READY as long as requests would be answered: not while no worker can be kept alive."""
        assert entry.served is not None
        crew = entry.served.model.crew
        if crew is None:
            return

        def look() -> None:
            with self._changing:
                broken = crew.is_broken
                if entry.state is State.READY and broken:
                    reason = crew.reason
                    entry.become(State.FAILED, reason and in_our_words(reason))
                elif entry.state is State.FAILED and not broken:
                    entry.become(State.READY)

        crew.version, crew.on_change = entry.version, look
        entry.retry_after = lambda: crew.retry_after
        look()


def _nothing() -> None:
    pass
