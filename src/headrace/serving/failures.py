"""Loads that failed, of models that are not registered: for who asks later what became of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

MOST = 100
"""That are remembered."""


@dataclass(frozen=True)
class Failure:
    """A load that failed, of a model that is not registered."""

    name: str
    version: str
    """Empty where it was not found out."""
    reason: str


class Failures:
    """The newest of each version. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: deque[Failure] = deque(maxlen=MOST)  # exchanged for another, never changed

    def __iter__(self) -> Iterator[Failure]:
        return iter(self._failures)

    def add(self, name: str, version: str, error: BaseException) -> None:
        failure = Failure(name, version, str(error) or type(error).__name__)
        with self._lock:
            self._failures = deque((*self._others(name, version), failure), MOST)

    def forget(self, name: str, version: str) -> None:
        """It could be loaded, or is asked for anew."""
        with self._lock:
            self._failures = deque(self._others(name, version), MOST)

    def _others(self, name: str, version: str) -> list[Failure]:
        return [each for each in self._failures if each.name != name or each.version not in ("", version)]
