"""How a stream takes the engine's lock: it never stands in line for it.

Where threads share one interpreter, the thread that holds the lock may have been made to give up the interpreter in the
middle of its step. Who then waits for the lock is handed it when it is let go, at which moment it has the lock and not
the interpreter; the one that has the interpreter finds the lock taken and waits in its turn; and so they go on, two
switches of threads for every step, for as long as both have work (a lock convoy: Blasgen, Gray, Mitchell and Price,
"The convoy phenomenon", 1979). A stream therefore asks for the lock, and where it is taken lets the interpreter go and
asks again: nobody but threads of the user's ever waits in the lock's own line, so nothing keeps a convoy going.
"""

from __future__ import annotations

import sys
import time
from threading import RLock

TRIES = 3
"""Times it lets the interpreter go for no longer than it takes another one to have it."""
NAP = 10e-6
"""Seconds it sleeps after that between two tries."""

# Without an interpreter lock there is nobody to make way for: whoever holds the lock runs.
_shares_interpreter = getattr(sys, "_is_gil_enabled", lambda: True)()


def take_patiently(lock: RLock) -> None:
    """Take `lock`, which was just found taken."""
    if not _shares_interpreter:
        lock.acquire()
        return
    for _ in range(TRIES):
        time.sleep(0)
        if lock.acquire(blocking=False):
            return
    while not lock.acquire(blocking=False):
        time.sleep(NAP)
