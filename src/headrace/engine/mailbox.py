"""From any thread to one event loop, with at most one wake-up for many messages.

Rule 1: the flag is cleared before the queue is drained, never after: a message posted while we drain either is taken
        now or wakes the loop again. Cleared after, a message can be left lying with nobody to wake.
Rule 2: no lock. What is relied on is that `deque.append`, `deque.popleft` and storing an attribute are atomic, which
        holds with the GIL and in CPython's free-threaded build. Two posters that both find the flag down cost one
        wake-up too many, nothing else.
Rule 3: a loop that was closed has nobody left to tell: its messages are dropped.
Rule 4: a stream that ends one short run after the other holds its wake-ups back (`Hold`) for a moment: each would have
        the loop fight it for the interpreter. Only while the loop ticks, so that what is held is found within TICK
        seconds even if the stream's next run never ends. Clear first, here too: the tick clears its flags, then drains.
        Others who post while a wake-up is held back leave it to that one (`promised`).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

TICK = 0.001
"""Seconds. Less is more to asyncio: it rounds its timeouts up to milliseconds."""
MANY = 8
"""A loop ticks while at least so many of its tasks wait: fewer are woken one by one."""
HOLD = 0.0002
"""Seconds a stream holds its wake-ups back."""


class _Local(threading.local):  # defaults in the class: a thread that lacks them finds that out slowly
    box: Mailbox | None = None
    hold: Hold | None = None


_local = _Local()


class Hold:
    """The wake-ups a stream holds back. Of one thread, and used by it alone."""

    __slots__ = ("_since", "boxes", "on")

    def __init__(self) -> None:
        self.on = False
        self.boxes: list[Mailbox] = []
        self._since = 0.0

    @classmethod
    def here(cls) -> Hold:
        """A new one, for this thread's posts."""
        hold = _local.hold = cls()
        return hold

    def let_go(self, now: float) -> None:
        """Wake the loops that have been kept waiting for HOLD seconds; all of them if nothing is to be held."""
        if self.boxes:
            if self.on:
                if not self._since:
                    self._since = now
                if now - self._since < HOLD:
                    return
            self._since = 0.0
            boxes, self.boxes = self.boxes, []
            for box in boxes:
                box.promised = False  # clear first, as everywhere: what is posted from now on is promised anew
                box.ring()


class Mailbox:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._items: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._armed = False
        self._ticking = False
        self.promised = False
        """A stream holds a wake-up back, and will ring: who posts meanwhile need not ask for one."""
        self.waiting = (
            0  # tasks of the loop, which count themselves in and out; like `_drained`, used by the loop's thread alone
        )
        self._drained = False  # something came since the last tick

    @classmethod
    def here(cls) -> Mailbox:
        """The mailbox of the loop that runs on this thread. RuntimeError if none runs."""
        loop = asyncio.get_running_loop()
        box = _local.box
        if box is None or box.loop is not loop:
            box = _local.box = cls(loop)
        return box

    def post(self, function: Callable[[Any], object], argument: Any) -> None:
        """Have the loop call `function(argument)` soon. From any thread."""
        self._items.append((function, argument))
        if not (self._armed or self.promised):
            self.announce()

    def announce(self) -> None:
        """There is a message: wake the loop, now, or when this stream lets go of what it holds back."""
        if self._ticking:
            hold = _local.hold
            if hold is not None and hold.on:
                if self not in hold.boxes:
                    hold.boxes.append(self)
                    self.promised = True
                return
        self.ring()

    def ring(self) -> None:
        """Wake the loop, unless it will be awake or there is nothing to tell it."""
        if self._items and not self._armed:
            self._armed = True
            try:
                self.loop.call_soon_threadsafe(self._drain)
            except RuntimeError:
                self._armed = False  # else what is posted later would pile up here
                self._items.clear()

    def take_what(self, step: Callable[[], object]) -> None:
        """Call `step()`, and take what is posted meanwhile right after it, without a wake-up. On the loop's thread,
        where no task runs."""
        self._armed = True
        try:
            step()
        finally:
            self._drain()

    def expect(self, number: int = 1) -> None:
        """So many tasks of the loop are about to wait for a message. Each counts itself out of `waiting` when it has
        it."""
        self.waiting += number
        if not self._ticking and self.waiting >= MANY:
            self._ticking = True
            self.loop.call_later(TICK, self._tick)

    def wake(self, waiter: asyncio.Future[None]) -> None:
        self.post(wake_up, waiter)

    def _tick(self) -> None:
        self._ticking = False
        self.promised = False  # the one who promised may be in a run that never ends, and nobody ticks any more
        self._drain()
        if self._drained and self.waiting >= MANY:  # else it ticks again when one more comes to wait
            self._drained = False
            self._ticking = True
            self.loop.call_later(TICK, self._tick)

    def _drain(self) -> None:
        self._armed = False
        items = self._items
        if items:
            self._drained = True
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


def wake_up(waiter: asyncio.Future[None]) -> None:
    """End a wait that has not been given up. On the loop's thread."""
    if not waiter.done():
        waiter.set_result(None)


def loop_runs_here() -> bool:
    """Whether this thread runs an event loop, and so must not block."""
    return asyncio._get_running_loop() is not None
