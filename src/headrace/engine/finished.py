"""What has ended and nobody has looked at, in the order it ended: what `engine.poll` hands out.

Kept from the first poll on, so that who never polls pays nothing; what ended before is found by looking through the
objects there are, once. Futures are not kept alive: what the caller has let go of is gone, as ever.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import deque
from typing import Any

from headrace.engine.future import Future
from headrace.engine.guard import Guard, refuse_to_wait_inside
from headrace.engine.here import refuse_to_wait_on_a_stream
from headrace.engine.timeouts import LONGEST, check_timeout, checked
from headrace.engine.waiters import Waiter
from headrace.errors import InvalidOption

SWEEP_AT = 4096


class Finished:
    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._refs: deque[weakref.ref[Future[Any]]] = deque()
        self._sweep_at = SWEEP_AT
        self._pollers: list[threading.Lock] = []
        self._over = False
        with guard.lock:
            # `type`, because objects may lie about their class, or fail to say it; and some future may be half made.
            futures: list[Future[Any]] = [each for each in gc.get_objects() if issubclass(type(each), Future)]
            ended = [f for f in futures if getattr(f, "_guard", None) is guard and f._done and not f._seen]
            self._refs.extend(map(weakref.ref, sorted(ended, key=lambda future: future._ended_at)))
            guard.finished = self

    def note(self, future: Future[Any]) -> None:
        """`future` has an outcome. With the guard's lock held."""
        if future._callbacks and any(isinstance(callback, Waiter) for callback in future._callbacks):
            return  # somebody waits for it: it is theirs
        self._refs.append(weakref.ref(future))
        for gate in self._pollers:
            gate.release()
        self._pollers.clear()
        if len(self._refs) > self._sweep_at:  # polled no more, perhaps: what is gone or was read takes no room
            self._refs = deque(ref for ref in list(self._refs) if (each := ref()) is not None and not each._seen)
            self._sweep_at = max(SWEEP_AT, 2 * len(self._refs))

    def end(self) -> None:
        """Nothing ends any more: nobody waits for it. With the guard's lock held."""
        self._over = True
        for gate in self._pollers:
            gate.release()
        self._pollers.clear()

    def take(self, max_n: int | None, timeout: float | None) -> list[Future[Any]]:
        """At most `max_n` of them; waits up to `timeout` seconds for the first, None: for ever."""
        asked = checked(timeout)
        seconds = LONGEST if asked is None else asked
        until = time.monotonic() + seconds
        in_time = True
        if seconds:
            refuse_to_wait_inside(self._guard)
        while True:
            with self._guard.lock:
                ready = self._take(max_n)
                if ready or not in_time or not seconds or max_n == 0 or self._over:
                    return ready
                refuse_to_wait_on_a_stream()
                gate = threading.Lock()
                gate.acquire()
                self._pollers.append(gate)
            try:
                left = min(max(0.0, until - time.monotonic()), LONGEST)
                in_time = gate.acquire(timeout=left)  # if not, one last look
            finally:
                with self._guard.lock:
                    if gate in self._pollers:
                        self._pollers.remove(gate)

    def _take(self, max_n: int | None) -> list[Future[Any]]:
        ready: list[Future[Any]] = []
        while self._refs and (max_n is None or len(ready) < max_n):
            future = self._refs.popleft()()
            if future is not None and not future._seen:
                ready.append(future)
        return ready


def check_poll(max_n: object, timeout: object) -> None:
    """InvalidOption for what is no number of futures, or of seconds."""
    check_timeout(timeout)
    if max_n is not None and (isinstance(max_n, bool) or not isinstance(max_n, int) or max_n < 0):
        raise InvalidOption(f"max_n is a whole number from 0, or None for all, not {max_n!r}")
