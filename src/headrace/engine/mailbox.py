"""From any thread to one event loop, with at most one wake-up for many messages.

Rule 1: the flag is cleared before the queue is drained, never after: a message posted while we drain either is taken
        now or wakes the loop again. Cleared after, a message can be left lying with nobody to wake.
Rule 2: no lock. What is relied on is that `deque.append`, `deque.popleft` and storing an attribute are atomic, which
        holds with the GIL and in CPython's free-threaded build. Two posters that both find the flag down cost one
        wake-up too many, nothing else.
Rule 3: a loop that was closed has nobody left to tell: its messages are dropped.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

_local = threading.local()


class Mailbox:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._items: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._armed = False

    @classmethod
    def here(cls) -> Mailbox:
        """The mailbox of the loop that runs on this thread. RuntimeError if none runs."""
        loop = asyncio.get_running_loop()
        box: Mailbox | None = getattr(_local, "box", None)
        if box is None or box.loop is not loop:
            box = _local.box = cls(loop)
        return box

    def post(self, function: Callable[[Any], object], argument: Any) -> None:
        """Have the loop call `function(argument)` soon. From any thread."""
        self._items.append((function, argument))
        if not self._armed:
            self._armed = True
            try:
                self.loop.call_soon_threadsafe(self._drain)
            except RuntimeError:
                self._armed = False  # else what is posted later would pile up here
                self._items.clear()

    def _drain(self) -> None:
        self._armed = False
        items = self._items
        # Only what is here now: what comes meanwhile has armed a wake-up of its own, and the loop gets its turn.
        for _ in range(len(items)):
            function, argument = items.popleft()
            try:
                function(argument)
            except Exception as error:
                self.loop.call_exception_handler({"message": "a delivery raised", "exception": error})
            except BaseException:  # it ends this turn of the loop; the loop may run again, and then takes the rest
                if items and not self._armed:
                    self._armed = True
                    self.loop.call_soon(self._drain)
                raise


def loop_runs_here() -> bool:
    """Whether this thread runs an event loop, and so must not block."""
    return asyncio._get_running_loop() is not None
