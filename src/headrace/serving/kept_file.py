"""A file that is to say what is so: written when that has changed, and by itself again where it could not be.

Rule 1: a disk that is full, or a folder that is away, keeps nobody from changing anything: the old file stays.
Rule 2: what could not be written is tried again later and later, and at the end once more. What is written then is what
        is so then.
Rule 3: one line in the log says that it cannot be written, however often it is tried, and one that it has been.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from headrace.serving.snapshot import write

LONGEST = 60.0
"""Seconds between two tries, at most."""
_log = logging.getLogger("headrace.serving")


def pause_after(tries: int) -> float:
    """Seconds until it is tried again, after so many tries of its own that failed."""
    return min(2.0 ** min(tries, 10), LONGEST)


class KeptFile:
    """`text`: what is so now. Any thread may `write`. A thread of its own is there only while it cannot be written."""

    def __init__(self, path: Path, text: Callable[[], str], wait: Callable[[float], bool] | None = None) -> None:
        """`wait`: so many seconds; true if it has been closed."""
        self._path, self._text = path, text
        self._end = threading.Event()
        self._wait = self._end.wait if wait is None else wait
        self._writing = threading.Lock()
        self._is_stale = False
        self._tries = 0
        """By itself, since it could be written the last time."""
        self._thread: threading.Thread | None = None

    def write(self) -> None:
        with self._writing:
            self._try()
            if self._is_stale and self._thread is None and not self._end.is_set():
                self._thread = threading.Thread(target=self._try_again, name="headrace-snapshot", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Once more, if that is needed."""
        self._end.set()
        thread = self._thread
        if thread is not None:
            thread.join()
        with self._writing:
            if self._is_stale and not self._try():
                _log.error("the snapshot %s could not be written until the end", self._path)

    def _try(self) -> bool:
        try:
            write(self._path, self._text())
        except OSError as error:
            if not self._is_stale:
                _log.error(
                    "the snapshot %s cannot be written, and is not what is served; it is tried again: %s",
                    self._path, error,
                )  # fmt: skip
            self._is_stale = True
            return False
        if self._is_stale:
            _log.warning("the snapshot %s has been written, and is what is served", self._path)
        self._is_stale, self._tries = False, 0
        return True

    def _try_again(self) -> None:
        while not self._wait(pause_after(self._tries)):
            with self._writing:
                if not self._is_stale or self._try():  # a change may have had it written meanwhile
                    self._thread = None
                    return
                self._tries += 1
