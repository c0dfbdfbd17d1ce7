"""Who waits for a Future: a thread, a task on its event loop, or `asyncio.wait`. Made when someone waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any

from headrace.engine.mailbox import Mailbox


class Waiter:
    """A callback of somebody who waits for the outcome, and will look at it."""

    __slots__ = ("_gate", "who")

    def __init__(self, gate: threading.Lock) -> None:
        self._gate, self.who = gate, threading.get_ident()

    def __call__(self, _: object) -> None:
        self._gate.release()


class Awaiter(Waiter):
    """One task that waits on its event loop, as the task sees it: what asyncio asks of a future, and no more.

    A task is resumed right where its loop empties its mailbox. By way of an `asyncio.Future` it would be resumed a
    callback of the loop later, which costs as much again as all the rest of an await.
    """

    __slots__ = ("_asyncio_future_blocking", "_box", "_cancelled", "_context", "_message", "_resume")

    def __init__(self, box: Mailbox) -> None:
        self._box = box
        self._asyncio_future_blocking = True  # says to the task that it is to wait
        self._cancelled = False
        self._resume: Callable[[Awaiter], object] | None = None
        self.who = -1  # nobody who could wait for room meanwhile

    def __call__(self, _: object) -> None:
        box = self._box
        box._items.append((_wake, self))  # as `post`, without the call
        if not box._armed:
            box.announce()

    # ---- what the task calls, on the loop's thread

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._box.loop

    def add_done_callback(self, resume: Callable[[Awaiter], object], *, context: Context) -> None:
        self._resume, self._context = resume, context

    def cancel(self, msg: object = None) -> bool:
        """False if it has been woken already. `msg`: of the CancelledError; anyio tells its own by it."""
        resume = self._resume
        if resume is None:
            return False
        self._resume, self._cancelled, self._message = None, True, msg
        self._box.loop.call_soon(resume, self, context=self._context)
        return True

    def result(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError() if self._message is None else asyncio.CancelledError(self._message)


def _wake(waiting: Awaiter) -> None:
    """Its future is settled. On the loop's thread."""
    resume = waiting._resume
    if resume is not None:
        waiting._resume = None
        waiting._context.run(resume, waiting)


class OnItsLoop(Waiter):
    """A callback of `asyncio.wait`, which knows loops and takes all callbacks to be called on its own."""

    __slots__ = ("_box", "_callback")

    def __init__(self, callback: Callable[[Any], object]) -> None:
        self._box, self._callback = Mailbox.here(), callback
        self.who = -1

    def __call__(self, future: Any) -> None:
        self._box.post(self._callback, future)

    def __eq__(self, other: object) -> bool:
        """So that it can be taken back by its own name."""
        return other is self or other is self._callback

    __hash__ = None  # type: ignore[assignment]
