"""SIGHUP: not the end of a server. Whoever rotates logs sends it, and so does a terminal that is closed."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def hangups(tell: Callable[[], object]) -> Iterator[None]:
    """Within it SIGHUP calls `tell`, on the main thread between any two instructions: it must take no lock.

    Without effect on another thread, and where there is no such signal.
    """
    number = getattr(signal, "SIGHUP", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    # A handler, rather than SIG_IGN, which processes that a model starts would inherit.
    before = signal.signal(number, lambda *_: tell())
    signal.siginterrupt(number, False)  # code that is not Python's may not expect to be interrupted
    try:
        yield
    finally:
        signal.signal(number, before)
