"""What a worker's process has started, and what those have: they end with it, in whatever session they are.

A process that has left its parents (a daemon, forked twice) is nobody's, and lives on.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def children(pid: int) -> set[int]:
    """Of all its threads; none where it has gone."""
    found: set[int] = set()
    with contextlib.suppress(OSError, ValueError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found.update(map(int, (thread / "children").read_text().split()))
    return found


class Offspring:
    """Descendants of a process, as they are when it is made: afterwards nobody would know them."""

    def __init__(self, pid: int) -> None:
        self._held: list[int] = []
        known, left = {pid}, [pid]
        while left:
            for child in children(left.pop()) - known:
                known.add(child)
                left.append(child)
                with contextlib.suppress(OSError):  # it has gone, or there is no descriptor left
                    self._held.append(os.pidfd_open(child))

    def __len__(self) -> int:
        return len(self._held)

    def kill(self) -> None:
        """Those that live still. Once."""
        held, self._held = self._held, []
        for process in held:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            os.close(process)
