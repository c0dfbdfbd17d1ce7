"""How much may be inside, by count and by bytes.

Rule 1: `admit` never waits. `acquire` and `acquire_async` wait in line, first come, first served; who comes while
        others stand in line stands behind them.
Rule 2: the right to be inside is an object. It is given back once, however often `release` is called.
Rule 3: one request larger than the whole byte bound may be inside alone: else it could never be served.
Rule 4: no lock is held while waiting, or while waking whoever is next.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from headrace.engine.future import on_a_stream, refuse_to_wait_on_a_stream
from headrace.engine.mailbox import Mailbox
from headrace.errors import Closed, Overloaded, WouldDeadlock


@dataclass(frozen=True, slots=True)
class BudgetStatistics:
    inside: int
    """Requests inside now."""
    nbytes: int
    """Bytes they were admitted with."""
    max_count: int
    """The bound on `inside`."""
    max_bytes: int | None
    """The bound on `nbytes`; None: no bound."""
    waiting: int
    """Callers who stand in line for a permit."""
    refused: int
    """Requests refused since the start."""


class Permit:
    """The right of one request to be inside."""

    __slots__ = ("_budget", "held", "nbytes")

    def __init__(self, budget: Budget, nbytes: int) -> None:
        self._budget, self.nbytes, self.held = budget, nbytes, True

    def release(self) -> None:
        """Give it back. Once is enough; more often does no harm."""
        self._budget._give_back(self)

    def grow(self, nbytes: int) -> None:
        """Hold `nbytes` more, or Overloaded: for what comes in pieces and did not say how large it is.

        A permit that was given back holds nothing any more, and does not grow.
        """
        self._budget._grow(self, nbytes)


class Budget:
    def __init__(self, max_count: int, max_bytes: int | None = None) -> None:
        self.max_count, self.max_bytes = max_count, max_bytes
        self._lock = threading.RLock()  # re-entrant for the reason `future._settling` is
        self._inside = self._nbytes = self._refused = 0
        self._line: deque[_Waiter] = deque()
        self._idle: list[threading.Lock] = []  # who waits for nobody to be inside
        self._closed = False

    def admit(self, nbytes: int = 0) -> Permit:
        """A permit now, or Overloaded."""
        with self._lock:
            if not self._line and self._fits(nbytes):
                return self._let_in(nbytes)
            self._refused += 1
            return self._refuse()

    def acquire(self, nbytes: int = 0, timeout: float | None = None) -> Permit:
        """A permit, waiting at most `timeout` seconds. Overloaded if the time is up; WouldDeadlock on a stream."""
        with self._lock:
            if not self._line and self._fits(nbytes):
                return self._let_in(nbytes)
            if on_a_stream():
                raise WouldDeadlock(
                    f"the engine is full ({self.max_count:,} operations), and this code runs on one of its own "
                    "streams: waiting for room here could never end"
                )
            gate = threading.Lock()
            gate.acquire()
            waiter, woken = self._stand_in_line(nbytes, lambda _: gate.release())
        try:
            for each in woken:
                each.wake(each)
            gate.acquire(timeout=-1 if timeout is None else max(timeout, 0))
        except BaseException:  # KeyboardInterrupt: whoever is next must not lose our place
            self._give_up(waiter)
            raise
        return self._taken(waiter)

    async def acquire_async(self, nbytes: int = 0, timeout: float | None = None) -> Permit:
        """As `acquire`, without blocking the event loop."""
        box = Mailbox.here()
        here = box.loop.create_future()

        def wake(_: object) -> None:
            if not here.done():
                here.set_result(None)

        with self._lock:
            if not self._line and self._fits(nbytes):
                return self._let_in(nbytes)
            refuse_to_wait_on_a_stream()
            waiter, woken = self._stand_in_line(nbytes, lambda w: box.post(wake, w))
        timer = None if timeout is None else box.loop.call_later(timeout, wake, None)
        try:
            for each in woken:
                each.wake(each)
            await here
        except BaseException:
            self._give_up(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return self._taken(waiter)

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until nobody is inside. False if the time is up."""
        with self._lock:
            if not self._inside and not self._line:
                return True
            gate = threading.Lock()
            gate.acquire()
            self._idle.append(gate)
        try:
            return gate.acquire(timeout=-1 if timeout is None else max(timeout, 0))
        finally:
            with self._lock:
                if gate in self._idle:
                    self._idle.remove(gate)

    def close(self) -> None:
        """Refuse those who stand in line and those who come: Closed. Who is inside stays until it is done."""
        with self._lock:
            self._closed = True
            line, self._line = self._line, deque()
        for waiter in line:
            waiter.wake(waiter)

    def statistics(self) -> BudgetStatistics:
        with self._lock:
            return BudgetStatistics(
                self._inside, self._nbytes, self.max_count, self.max_bytes, len(self._line), self._refused
            )

    def _fits(self, nbytes: int) -> bool:
        if self._closed:
            raise Closed("the engine is closed")
        if self._inside >= self.max_count:
            return False
        return self.max_bytes is None or self._nbytes + nbytes <= self.max_bytes or not self._inside

    def _let_in(self, nbytes: int) -> Permit:
        self._inside += 1
        self._nbytes += nbytes
        return Permit(self, nbytes)

    def _refuse(self) -> NoReturn:
        if self.max_bytes is None or self._line or self._inside >= self.max_count:
            raise Overloaded(self._inside, self.max_count)
        raise Overloaded(self._nbytes, self.max_bytes, "bytes")

    def _stand_in_line(self, nbytes: int, wake: Callable[[_Waiter], None]) -> tuple[_Waiter, list[_Waiter]]:
        """A new last one, and who may go in all the same: the collector may have run since the caller saw no room, and
        what it finalised may have made some."""
        waiter = _Waiter(nbytes, wake)
        self._line.append(waiter)
        return waiter, self._next_ones()

    def _taken(self, waiter: _Waiter) -> Permit:
        """The permit of one who has waited; or what it is told, if its time is up or the engine was closed."""
        with self._lock:
            if waiter.permit is None:
                if self._closed:
                    raise Closed("the engine was closed while this call waited for room in it")
                self._line.remove(waiter)
                self._refused += 1
                woken = self._next_ones()  # a wide one that leaves may have kept narrow ones waiting
        if waiter.permit is not None:
            return waiter.permit
        for next_one in woken:
            next_one.wake(next_one)
        return self._refuse()

    def _give_up(self, waiter: _Waiter) -> None:
        """`waiter` goes without using what it may have been given meanwhile."""
        with self._lock:
            if waiter in self._line:
                self._line.remove(waiter)
            woken = self._next_ones()
        if waiter.permit is not None:
            waiter.permit.release()
        for next_one in woken:
            next_one.wake(next_one)

    def _grow(self, permit: Permit, nbytes: int) -> None:
        with self._lock:
            if not permit.held:  # its request has ended: nobody would give the bytes back
                return
            alone = self._inside == 1
            if self.max_bytes is not None and self._nbytes + nbytes > self.max_bytes and not alone:
                self._refused += 1
                raise Overloaded(self._nbytes, self.max_bytes, "bytes")
            permit.nbytes += nbytes
            self._nbytes += nbytes

    def _give_back(self, permit: Permit) -> None:
        idle: list[threading.Lock] = []
        with self._lock:
            if not permit.held:
                return
            permit.held = False
            self._inside -= 1
            self._nbytes -= permit.nbytes
            woken = self._next_ones() if self._line else ()
            if self._idle and not self._inside and not self._line:
                idle, self._idle = self._idle, []
        for waiter in woken:
            waiter.wake(waiter)
        for gate in idle:
            gate.release()

    def _next_ones(self) -> list[_Waiter]:
        woken = []
        while self._line and not self._closed and self._fits(self._line[0].nbytes):
            waiter = self._line.popleft()
            waiter.permit = self._let_in(waiter.nbytes)
            woken.append(waiter)
        return woken


class _Waiter:
    __slots__ = ("nbytes", "permit", "wake")

    def __init__(self, nbytes: int, wake: Callable[[_Waiter], None]) -> None:
        self.nbytes, self.wake = nbytes, wake
        self.permit: Permit | None = None
