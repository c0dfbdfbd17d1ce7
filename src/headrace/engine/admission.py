"""How much may be inside, by count and by bytes.

Rule 1: `admit` never waits. `acquire` and `acquire_async` wait in line, first come, first served; who comes while
        others stand in line stands behind them.
Rule 2: the right to be inside is an object: a Permit, or a request that is its own (`Holder`). It is given back once,
        however often that is tried.
Rule 3: one request larger than the whole byte bound may be inside alone: else it could never be served.
Rule 4: no lock is held while waiting, or while waking whoever is next.
Rule 5: where bytes are bounded, the outputs of what has ended stay charged until they are read or dropped: results
        nobody reads are how queues of futures grow without a bound. When all that is charged belongs to those who
        wait for room, nobody is left to make any: they are told (WouldDeadlock).
Rule 6: what a request is charged with may be learned while it waits: a charge that is a function is asked again each
        time there may be room.

Rule 7: Ctrl-C may come between any two steps of the main thread, which in CPython is where a call returns or a loop
        goes round. So numbers that belong together are changed with no call between them, what is taken out of
        somewhere is first put where it goes, and whoever is interrupted sees to the rest (`mend`).

An engine's budget shares the engine's lock: what enters or leaves a run does so in the turn that is taken anyway.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeVar, overload

from headrace.engine.future import Future
from headrace.engine.guard import Guard
from headrace.engine.here import on_a_stream, refuse_to_wait_on_a_stream
from headrace.engine.mailbox import Mailbox
from headrace.engine.permit import Group, Holder, Permit, open_gate
from headrace.engine.timeouts import check_timeout, loop_seconds_of, seconds_of
from headrace.engine.unread import GRACE, Unread, whoever_is_here
from headrace.errors import Closed, HeadraceError, Overloaded, WouldDeadlock

MOST_KNOWN = 1024
Charge = int | Callable[[], int]
"""Bytes; or what says how many, with the lock held: as far as is known by then."""
COLLECT = 1.0
"""Seconds between two collections of garbage, while all room is taken by results that nobody reads; at the least."""
COLLECT_AT_MOST = 0.02
"""The part of the time that such collections may take: with a large heap one stops every thread for seconds."""


@dataclass(frozen=True, slots=True)
class BudgetStatistics:
    inside: int
    """Requests inside now."""
    nbytes: int
    """Bytes charged now: what those inside were admitted with, and outputs nobody has read yet."""
    max_count: int
    """The bound on `inside`."""
    max_bytes: int | None
    """The bound on `nbytes`; None: no bound."""
    waiting: int
    """Callers who stand in line for room."""
    refused: int
    """Requests refused since the start."""
    unread: int
    """Results that have not been read and are charged for (only where bytes are bounded)."""


H = TypeVar("H", bound=Holder)


class Budget:
    def __init__(self, max_count: int, max_bytes: int | None = None, guard: Guard | None = None) -> None:
        """`guard`: whose lock it shares; None: one of its own."""
        self.max_count, self.max_bytes = max_count, max_bytes
        self.guard = guard or Guard()
        self.inside = 0
        self.nbytes = 0
        self.ceiling = max_count if max_bytes is None else 0
        """Who finds `inside` below it, with the lock held, may add one and be in: nobody waits, no bytes count."""
        self.woken: list[Callable[[], object]] = []
        """Who is to be told that there is room: by `wake`, once the lock is let go."""
        self.crowded = False
        """Whether anyone waits: for room, or for nobody to be inside. Else who leaves need tell nobody."""
        self._refused = 0
        self._line: deque[_Waiter] = deque()
        self._idle: list[threading.Lock] = []  # who waits for nobody to be inside
        self._unread: dict[int, Unread] = {}
        self.holding = 0
        """Streams that still have in hand what they have run: results nobody else keeps are about to go."""
        self._read_by_others: set[object] = set()  # threads and tasks whose results another one reads
        self._closed = False
        self._collect_at = 0.0

    @overload
    def admit(self, charge: Charge = 0) -> Permit: ...

    @overload
    def admit(self, charge: Charge, holder: H) -> H: ...

    def admit(self, charge: Charge = 0, holder: Holder | None = None) -> Holder:
        """A permit now, or Overloaded. With a `holder`, that is inside instead: whoever is interrupted on the way back
        from here knows whom to give back the room of."""
        holder = holder or Permit(self)
        with self.guard.lock:
            nbytes = charge if type(charge) is int else weigh(charge)
            if (
                not self._line
                and not self._closed
                and self.inside < self.max_count
                and (self.max_bytes is None or self.nbytes + nbytes <= self.max_bytes)
            ):  # as `_let_in`, without the call: what happens most
                self.inside += 1
                self.nbytes += nbytes
                holder.nbytes, holder.held = nbytes, True
                return holder
            if not self._line and not self._fits(nbytes):
                self._forget_the_gone()
            if not self._line and self._fits(nbytes):
                return self._let_in(nbytes, holder)
            return self._refuse(nbytes)

    @overload
    def acquire(self, charge: Charge = 0, timeout: float | None = None) -> Permit: ...

    @overload
    def acquire(self, charge: Charge, timeout: float | None, holder: H) -> H: ...

    def acquire(self, charge: Charge = 0, timeout: float | None = None, holder: Holder | None = None) -> Holder:
        """As `admit`, waiting at most `timeout` seconds. Overloaded if the time is up; WouldDeadlock on a stream, and
        where all that is charged are results this thread has not read."""
        seconds = seconds_of(timeout)
        holder = holder or Permit(self)
        with self.guard.lock:
            nbytes = weigh(charge)
            if not self._line and self._fits(nbytes):
                return self._let_in(nbytes, holder)
            if on_a_stream():
                raise WouldDeadlock(
                    f"the engine is full ({self.max_count:,} operations), and this code runs on one of its own "
                    "streams: waiting for room here could never end"
                )
            gate = threading.Lock()
            gate.acquire()
            waiter = _Waiter(charge, holder, partial(open_gate, gate), whoever_is_here())
        try:
            self._stand_in_line(waiter)
            until = None if seconds < 0 else time.monotonic() + seconds
            while not gate.acquire(timeout=self._until_the_next_look(until)):
                if until is not None and time.monotonic() >= until:
                    break
                self._look_again()
            return self._taken(waiter)
        except BaseException:  # KeyboardInterrupt: whoever is next must not lose our place
            self._give_up(waiter)
            raise

    async def acquire_async(
        self, charge: Charge = 0, timeout: float | None = None, holder: Holder | None = None
    ) -> Holder:
        """As `acquire`, without blocking the event loop."""
        holder = holder or Permit(self)
        box = Mailbox.here()
        here = box.loop.create_future()
        seconds = loop_seconds_of(timeout)
        with self.guard.lock:
            nbytes = weigh(charge)
            if not self._line and self._fits(nbytes):
                return self._let_in(nbytes, holder)
            refuse_to_wait_on_a_stream()
            waiter = _Waiter(charge, holder, lambda: box.wake(here), whoever_is_here())
        until = None if seconds is None else box.loop.time() + seconds
        timer: asyncio.TimerHandle | None = None

        def look() -> None:
            nonlocal timer
            if until is not None and box.loop.time() >= until:
                box.wake(here)
            elif not here.done():
                self._look_again()
                timer = box.loop.call_later(self._until_the_next_look(until, box.loop.time()), look)

        if until is not None or self.max_bytes is not None:
            timer = box.loop.call_later(self._until_the_next_look(until, box.loop.time()), look)
        try:
            self._stand_in_line(waiter)
            await here
            return self._taken(waiter)
        except BaseException:
            self._give_up(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def admit_to(self, group: Group, nbytes: int) -> Permit | None:
        """As `admit`, counted with `group`, which may have a bound of its own. None if nobody is let into it."""
        permit = Permit(self, group)
        with self.guard.lock:
            if group.closed:
                return None
            if group.limit is not None and group.inside >= group.limit:
                self._refused += 1
                raise Overloaded(group.inside, group.limit, "requests to this model")
            if (
                not self._line
                and not self._closed
                and self.inside < self.max_count
                and (self.max_bytes is None or self.nbytes + nbytes <= self.max_bytes)
            ):  # as `_let_in`, without the call: what happens most
                self.inside += 1
                self.nbytes += nbytes
                permit.nbytes, permit.held = nbytes, True
            elif not self._line and self._fits(nbytes):
                self._let_in(nbytes, permit)
            else:
                self._refuse(nbytes)
            group.inside += 1
            return permit

    def join(self, permit: Permit, group: Group) -> bool:
        """Count a permit that is held with `group`, from now on. False if nobody is let into that any more."""
        with self.guard.lock:
            if group.closed:
                return False
            group.inside += permit.held
            permit.group = group
            return True

    def close_group(self, group: Group, closed: bool = True) -> None:
        """Let nobody into it any more; or, with False, again."""
        with self.guard.lock:
            group.closed = closed

    def wait_until_empty(self, group: Group, timeout: float | None = None) -> bool:
        """Wait until nobody of `group` is inside. False if the time is up."""
        check_timeout(timeout)
        with self.guard.lock:
            if not group.inside:
                return True
            gate = threading.Lock()
            gate.acquire()
            group.gates.append(gate)
        try:
            return gate.acquire(timeout=seconds_of(timeout))
        finally:
            with self.guard.lock:
                group.gates.remove(gate)

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until nobody is inside. False if the time is up."""
        check_timeout(timeout)
        with self.guard.lock:
            if not self.inside:  # who stands in line all the same waits for others to read their results
                return True
            gate = threading.Lock()
            gate.acquire()
            self._idle.append(gate)
            self.crowded = True
        try:
            return gate.acquire(timeout=seconds_of(timeout))
        finally:
            with self.guard.lock:
                if gate in self._idle:
                    self._idle.remove(gate)

    def close(self) -> None:
        """Refuse those who stand in line and those who come: Closed. Who is inside stays until it is done."""
        with self.guard.lock:
            self._closed = True
            self.ceiling = 0
            self.woken += [waiter.wake for waiter in self._line]
            self._line.clear()
        self.wake()

    def release(self, holder: Holder) -> None:
        """`holder` is inside no more."""
        try:
            with self.guard.lock:
                self.leave(holder)
            if self.woken:
                self.wake()
        except BaseException:
            self.mend(holder)
            raise

    def leave(self, holder: Holder, unread: int = 0) -> None:
        """As `release`, with the lock held; `unread` bytes stay charged. Follow with `wake`."""
        if holder.held:
            holder.held = False
            self.inside -= 1
            if self.max_bytes is None:
                self.nbytes -= holder.nbytes
            else:
                self.nbytes -= holder.nbytes - unread
                if unread:
                    assert isinstance(holder, Future)
                    self._no_longer_unread(id(holder))  # one that is gone without having said so, and had this address
                    self._unread[id(holder)] = Unread(holder, unread, self._dropped)
                holder.nbytes = unread
            if self.crowded:
                self._make_room()

    def wake(self) -> None:
        """Tell those there is room for now. Without the lock."""
        woken: list[Callable[[], object]] = []
        try:
            with self.guard.lock:
                woken, self.woken = self.woken, woken
            for wake in woken:
                wake()
        except BaseException:
            for wake in woken:  # once more does no harm
                wake()
            raise

    def mend(self, holder: Holder | None = None) -> None:
        """Somebody was interrupted: see to what was left undone. `holder`: is to leave."""
        with self.guard.lock:
            if holder is not None:
                self.leave(holder)
            self._make_room()
        self.wake()

    def was_read(self, holder: Future[Any]) -> None:
        """Somebody has its value now: what becomes of it is theirs to bound."""
        try:
            self._was_read(holder)
            if self.woken:
                self.wake()
        except BaseException:
            self._was_read(holder)
            self.mend()
            raise

    def _was_read(self, holder: Future[Any]) -> None:
        with self.guard.lock:
            if holder.held:  # type: ignore[attr-defined]  # a Holder too. Cancelled, and its run goes on: it is charged
                return
            holder.nbytes = 0  # type: ignore[attr-defined]
            unread = self._unread.get(id(holder))
            if unread is not None and unread.who is not None and unread.who != whoever_is_here():
                if len(self._read_by_others) >= MOST_KNOWN:
                    self._read_by_others.clear()
                self._read_by_others.add(unread.who)
            self._no_longer_unread(id(holder))

    def let_go(self) -> None:
        """A stream has nothing in hand any more."""
        with self.guard.lock:
            self.holding -= 1
            if self._line:
                self._make_room()
        if self.woken:
            self.wake()

    def grow(self, permit: Permit, nbytes: int) -> None:
        with self.guard.lock:
            if not permit.held:  # its request has ended: nobody would give the bytes back
                return
            alone = self.inside == 1 and self.nbytes == permit.nbytes
            if self.max_bytes is not None and self.nbytes + nbytes > self.max_bytes and not alone:
                self._refused += 1
                raise Overloaded(self.nbytes, self.max_bytes, "bytes")
            permit.nbytes += nbytes
            self.nbytes += nbytes

    def statistics(self) -> BudgetStatistics:
        with self.guard.lock:
            return self.look()

    def look(self) -> BudgetStatistics:
        """As `statistics`, with the lock held; or without, when nobody can have it."""
        return BudgetStatistics(
            inside=self.inside,
            nbytes=self.nbytes,
            max_count=self.max_count,
            max_bytes=self.max_bytes,
            waiting=len(self._line),
            refused=self._refused,
            unread=len(self._unread),
        )

    # ---- with the lock held

    def _fits(self, nbytes: int) -> bool:
        if self._closed:
            raise Closed("the engine is closed")
        if self.inside >= self.max_count:
            return False
        return self.max_bytes is None or self.nbytes + nbytes <= self.max_bytes or not (self.inside or self.nbytes)

    def _let_in(self, nbytes: int, holder: Holder) -> Holder:
        self.inside += 1
        self.nbytes += nbytes
        holder.nbytes, holder.held = nbytes, True
        return holder

    def _refuse(self, nbytes: int) -> NoReturn:
        self._refused += 1
        if self.max_bytes is None or self._line or self.inside >= self.max_count:
            raise Overloaded(self.inside, self.max_count)
        raise Overloaded(self.nbytes, self.max_bytes, "bytes")

    def _make_room(self) -> None:
        """Let in those at the head of the line there is room for, and tell those who wait for nobody to be inside."""
        line = self._line
        while line and not self._closed:
            waiter = line[0]
            if not waiter.holder.held:
                nbytes = weigh(waiter.charge)
                if self._fits(nbytes):
                    self._let_in(nbytes, waiter.holder)
                else:
                    found = self._one_who_waits_for_itself()
                    if found is None:
                        break
                    waiter = found
            self.woken.append(waiter.wake)
            line.remove(waiter)
        if not line:
            self.ceiling = 0 if self._closed or self.max_bytes is not None else self.max_count
        if self._idle and not self.inside:
            self.woken += [partial(open_gate, gate) for gate in self._idle]
            self._idle = []
        self.crowded = bool(line or self._idle)

    def _one_who_waits_for_itself(self) -> _Waiter | None:
        """Nothing is inside, and all results that are charged for belong to those who wait: one of them is told."""
        if self.inside or self.holding or not self._unread:
            return None
        unread = list(self._unread.values())
        if any(each.who in self._read_by_others for each in unread):
            return None
        if any(each.handed_on_until for each in unread):
            now = time.monotonic()
            if any(each.handed_on_until > now for each in unread):
                return None  # who waits looks again
        waiting = {waiter.who for waiter in self._line}
        if any(each.who not in waiting for each in unread):
            return None
        for waiter in self._line:
            mine = [future for each in unread if each.who == waiter.who and (future := each.future()) is not None]
            if mine:
                waiter.error = WouldDeadlock(
                    f"all of the {self.nbytes:,} bytes that are charged are {len(mine):,} results this thread or task "
                    "has not read: waiting for room could never end. Read them, or let go of their Futures; they are "
                    "in `futures`",
                    mine,
                )
                return waiter
        return None

    def _forget_the_gone(self) -> None:
        """Results whose Futures went without saying so: a Ctrl-C in the callback of a weak reference is lost, and with
        it what that was to do."""
        for key, unread in list(self._unread.items()):
            if unread.future() is None:
                self._no_longer_unread(key)

    def _no_longer_unread(self, key: int) -> None:
        unread = self._unread.get(key)
        if unread is not None:
            self.nbytes -= unread.nbytes
            del self._unread[key]
            if self._line:
                self._make_room()

    # ---- without

    def _stand_in_line(self, waiter: _Waiter) -> None:
        """The new last one. It may go in all the same: since the caller saw no room, there may be some."""
        with self.guard.lock:
            if self._closed:  # since the caller looked
                raise Closed("the engine is closed")
            self._line.append(waiter)
            self.ceiling = 0
            self.crowded = True
            self._make_room()
        self.wake()

    def _until_the_next_look(self, until: float | None, now: float | None = None) -> float:
        """Seconds for which who waits may sleep; below 0: until it is woken."""
        seconds = -1.0
        if until is not None:
            seconds = max(0.0, until - (time.monotonic() if now is None else now))
        if self.max_bytes is not None:
            return GRACE if seconds < 0 else min(GRACE, seconds)
        return seconds

    def _look_again(self) -> None:
        with self.guard.lock:
            self._forget_the_gone()
            self._make_room()
            now = time.monotonic()
            is_stuck = bool(self._line and self._unread) and not self.inside and now >= self._collect_at
            if is_stuck:
                self._collect_at = now + COLLECT
        self.wake()
        if is_stuck:  # nothing runs: what is charged may be results in cycles of garbage, which nobody else collects
            gc.collect()
            self._collect_at = now + pause_after(time.monotonic() - now)

    def _dropped(self, key: int) -> None:
        try:
            with self.guard.lock:
                self._no_longer_unread(key)
            if self.woken:
                self.wake()
        except BaseException:
            with self.guard.lock:
                self._no_longer_unread(key)
            self.mend()
            raise

    def _taken(self, waiter: _Waiter) -> Holder:
        """The holder of one who has waited; or what it is told, if its time is up or the engine was closed."""
        with self.guard.lock:
            if waiter.holder.held:
                return waiter.holder
            if waiter.error is not None:
                error, waiter.error = waiter.error, None
                try:
                    raise error
                finally:
                    del error  # else it would stand in a cycle with its traceback, and keep the futures it names
            if self._closed:
                raise Closed("the engine was closed while this call waited for room in it")
            self._line.remove(waiter)
            self._make_room()  # a wide one that leaves may have kept narrow ones waiting
        self.wake()
        with self.guard.lock:
            return self._refuse(weigh(waiter.charge))

    def _give_up(self, waiter: _Waiter) -> None:
        """`waiter` goes without using what it may have been given meanwhile."""
        with self.guard.lock:
            if waiter in self._line:
                self._line.remove(waiter)
            self.leave(waiter.holder)
        self.mend()


def pause_after(took: float) -> float:
    """Seconds from one collection of garbage that took so many to the next one."""
    return max(COLLECT, took / COLLECT_AT_MOST)


def weigh(charge: Charge) -> int:
    return charge if isinstance(charge, int) else charge()


class _Waiter:
    __slots__ = ("charge", "error", "holder", "wake", "who")

    def __init__(self, charge: Charge, holder: Holder, wake: Callable[[], object], who: object) -> None:
        self.charge, self.holder, self.wake, self.who = charge, holder, wake, who
        self.error: HeadraceError | None = None
