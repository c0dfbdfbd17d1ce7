"""One at a time for each key, in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class Turns:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[Hashable, deque[threading.Lock]] = {}
        """By key: who has its turn, and who waits behind. What nobody stands at is not kept."""

    @contextmanager
    def of(self, key: Hashable) -> Iterator[None]:
        """Waits until all who came before have ended. Not for a thread that has this turn already: it never comes."""
        mine = threading.Lock()
        mine.acquire()
        with self._lock:
            line = self._lines.setdefault(key, deque())
            line.append(mine)
            first = line[0] is mine
        try:
            if not first:
                mine.acquire()
            yield
        finally:
            with self._lock:
                was_first = line[0] is mine
                line.remove(mine)  # whoever is interrupted while it waits stands in the middle
                if not line:
                    del self._lines[key]
                elif was_first:
                    line[0].release()

    def __len__(self) -> int:
        """Keys that somebody stands at."""
        return len(self._lines)
