"""Has an event loop hear what comes through a worker's socket, beside the worker's own thread."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from headrace.engine.mailbox import Mailbox


class Ear:
    """It has a descriptor of its own, so that the socket may be closed at any moment: only the loop's thread may tell
    the loop to listen no more, and it may be busy."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, hear: Callable[[], object]) -> None:
        """On the loop's thread. NotImplementedError from loops that cannot."""
        self.loop = loop
        self._fd = os.dup(fd)
        try:
            loop.add_reader(self._fd, Mailbox.here().take_what, hear)  # answers are told in the same turn of the loop
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def is_awake(self) -> bool:
        """Whether its loop runs. It may be blocked all the same."""
        return self.loop.is_running()

    def close(self) -> None:
        """From any thread. Once."""
        if asyncio._get_running_loop() is self.loop:
            self._close()
            return
        try:
            self.loop.call_soon_threadsafe(self._close)
        except RuntimeError:  # it is closed, and listens to nothing
            os.close(self._fd)

    def _close(self) -> None:
        self.loop.remove_reader(self._fd)
        os.close(self._fd)
