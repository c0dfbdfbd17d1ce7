"""Whether the caller runs on a stream's thread. Nobody may wait there: a stream would have to do what it waits for."""

from __future__ import annotations

import os
import threading

from headrace.errors import WouldDeadlock


class _Here(threading.local):
    stream = False  # in the class: to find that a thread has none of its own would cost a microsecond, each time


here = _Here()
"""`here.stream`: as `on_a_stream`, without the call."""


def _after_fork() -> None:
    """The child has no streams yet."""
    here.stream = False


os.register_at_fork(after_in_child=_after_fork)


def on_a_stream() -> bool:
    """Whether the caller runs on a stream's thread."""
    return here.stream


def mark_stream_thread() -> None:
    here.stream = True


class as_a_stream:
    """The caller does a stream's work in here, on its own thread."""

    # Not by contextlib: it sets the traceback of what is raised, and an error may be frozen.
    def __enter__(self) -> None:
        self._before, here.stream = here.stream, True

    def __exit__(self, *_: object) -> None:
        here.stream = self._before


def refuse_to_wait_on_a_stream() -> None:
    """WouldDeadlock on a stream's thread, also inside an event loop that work has started there."""
    if on_a_stream():
        raise WouldDeadlock(
            "this code runs on a stream of the engine and waits for work the engine still has to do; "
            "use add_done_callback, or name what the work reads: engine.push(fn, reads=[...])"
        )
