"""Coroutine functions in a worker: several runs at once on one event loop. Loaded by its path there, for those alone.

Rule 1: one thread and one loop, which hears the owner beside the runs. What has come begins at once, in the order it
        came: how many go on together is the owner's to say.
Rule 2: what nobody waits for any more, or what takes too long, is cancelled as tasks are, as soon as the owner says so
        (CANCEL). What does not leave is ended with its process by the owner.
Rule 3: answers of one turn of the loop leave together.
Rule 4: each run has a context of its own: what it sets, no other sees.
Rule 5: whose step the loop is at stands in the page shared with the owner, so that of several it is known who blocked
        the loop, or ended the process.
"""

from __future__ import annotations

import asyncio
import collections.abc
import contextlib
import contextvars
import faulthandler
import signal
import struct
import sys
import time
from typing import Any

WORD, STEP = struct.Struct("<I"), struct.Struct("<II")
SHOWN = 8
"""Runs whose stacks are shown, those that have gone on longest: last, as what is read last of a log is kept."""
FRAMES = 30
_run: contextvars.ContextVar[int] = contextvars.ContextVar("headrace_run", default=0)


def serve(child: Any) -> None:
    """Until the owner says STOP. EOFError if it has gone."""
    asyncio.run(_Serving(child).serve())


class _Steps(collections.abc.Coroutine):  # type: ignore[type-arg]  # subscripted it is nothing before Python 3.9
    """A run's coroutine, which says in the page that it is at work while it is."""

    made = 0
    """Steps of all runs."""

    def __init__(self, run: Any, id: int, page: Any) -> None:
        self.run, self._id, self._page = run, id, page

    def send(self, value: Any) -> Any:
        _Steps.made = made = (_Steps.made + 1) & 0xFFFFFFFF
        STEP.pack_into(self._page, 4, self._id, made)
        try:
            return self.run.send(value)
        finally:
            STEP.pack_into(self._page, 4, 0, made)

    def throw(self, *raised: Any) -> Any:
        _Steps.made = made = (_Steps.made + 1) & 0xFFFFFFFF
        STEP.pack_into(self._page, 4, self._id, made)
        try:
            return self.run.throw(*raised)
        finally:
            STEP.pack_into(self._page, 4, 0, made)

    def close(self) -> None:
        self.run.close()

    def __await__(self) -> Any:
        return (yield from self.run.__await__())


class _Serving:
    def __init__(self, child: Any) -> None:
        self._child, self._messages, self._frames = child, child.messages, child.frames
        self._tasks: dict[int, asyncio.Task[None]] = {}  # runs that have begun, in that order
        self._overdue: dict[int, str] = {}  # where those were that took too long
        self._without_room: list[asyncio.Future[None]] = []  # those whose answers wait for room
        self._flushes = False
        child.run_one, child.cancelled = self._begin, self._cancelled

    async def serve(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = loop.create_future()
        # Where a thread is, faulthandler tells; where its coroutines are, only their loop can, and then is not blocked.
        faulthandler.unregister(signal.SIGUSR2)
        loop.add_signal_handler(signal.SIGUSR2, self._show_stacks)
        faulthandler.register(signal.SIGUSR2, all_threads=True, chain=True)
        loop.add_reader(self._child.sock.fileno(), self._hear)
        self._take()  # what came meanwhile
        try:
            await self._over
        finally:
            loop.remove_reader(self._child.sock.fileno())
            self._child.ends()  # first: asyncio waits for threads, too

    # ---- the owner

    def _hear(self) -> None:
        try:
            if not self._child.receive():
                raise EOFError("the owner has gone")
        except Exception as error:
            self._end(error)
            return
        self._take()

    def _take(self) -> None:
        waiting, kinds = self._child.waiting, self._frames
        while waiting:
            frame = waiting.pop()
            if frame.kind == kinds.RUN:
                self._child.run(frame)  # which calls `_begin` for each
            elif frame.kind == kinds.CANCEL:
                self._cancel(frame.id, bool(frame.flags))
            elif frame.kind == kinds.STOP:
                self._flush()
                self._end(None)
                return
        self._flush_soon()  # what could not even begin

    def _cancel(self, id: int, overdue: bool) -> None:
        task = self._tasks.get(id)  # else it is over, or sees the owner's mark before it begins
        if task is None:
            return
        if overdue:
            self._overdue[id] = where(task)
            sys.stderr.write(f"it takes too long:\n{self._overdue[id]}\n")
            sys.stderr.flush()
        task.cancel()

    def _end(self, error: Exception | None) -> None:
        self._child.gone = self._child.gone or error is not None
        if self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)

    def _flush_soon(self) -> None:
        child = self._child
        if not self._flushes and (child.out or child.times or child.shared.kept):
            self._flushes = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushes = False
        try:
            self._child.flush()
            if self._child.shared.kept:
                self._child.shared.look_at_kept()
        except OSError as error:
            self._end(error)

    # ---- runs

    def _begin(self, id: int, frame: Any, values: list[Any], owner: Any) -> None:
        """In place of the plain way: the last of `values` is the run's alone from then on."""
        WORD.pack_into(self._child.page, 0, id)
        self._loop.create_task(_Steps(self._run_one(id, frame, [values.pop()], owner), id, self._child.page))

    async def _run_one(self, id: int, frame: Any, value: list[Any], owner: Any) -> None:
        child, clock = self._child, time.perf_counter
        if child.is_unwanted(id):
            child.answer(id, 0.0, child.packed(("", "Withdrawn", "nobody waited for it any more", "")), True, 0)
            self._flush_soon()
            return
        self._tasks[id] = asyncio.current_task()  # type: ignore[assignment]
        _run.set(id)
        failed = small = False
        seconds: Any = None  # until the callable has returned
        began = clock()
        try:
            answer = await self._call(value)
            seconds = clock() - began
            pickled, arrays = child.encoder.encode(answer)
            answer = None
            if arrays or len(pickled) > self._messages.INLINE:
                pickled, arrays = await self._packed(id, frame, pickled, arrays), None
            else:
                small = True
        except BaseException as raised:
            if child.gone:
                self._end(EOFError("the owner has gone"))
                return
            error = self._shown(id, raised) if seconds is None else child.values.cannot_leave(raised, answer)
            seconds, answer, arrays, failed = clock() - began, None, None, True
            pickled = child.packed(error)
        finally:
            del self._tasks[id]
        kept = owner is not None and sys.getrefcount(owner[1]) > 2
        if kept:
            child.shared.kept.append(owner)
        if small and not kept:
            child.answer_small(id, seconds, pickled)
        else:
            child.answer(id, seconds, self._messages.pack_small(pickled) if small else pickled, failed, int(kept))
        if frame.flags:
            self._flush()
        waiting, self._without_room = self._without_room, []
        for room in waiting:
            if not room.done():
                room.set_result(None)
        self._flush_soon()
        if child.waiting:  # it came while an answer waited for room
            self._loop.call_soon(self._take)

    async def _packed(self, id: int, frame: Any, pickled: bytes, arrays: list[Any]) -> bytes:
        """Answers of others may have all the room: then once one of them has left."""
        while True:
            try:
                return self._child.shared.pack(id, frame, pickled, arrays)  # type: ignore[no-any-return]
            except ValueError as error:
                if type(error).__name__ != "NoRoom" or len(self._tasks) <= len(self._without_room) + 1:
                    raise
                room = self._loop.create_future()
                self._without_room.append(room)
            await room

    async def _call(self, value: list[Any]) -> Any:
        child = self._child
        if child.in_lists:
            arguments = value.pop()
            return child.as_many(await child.function(arguments), len(arguments))
        inputs, names = value.pop()
        return await (child.function(*inputs) if names is None else child.function(**dict(zip(names, inputs))))

    def _shown(self, id: int, raised: BaseException) -> Any:
        stack = self._overdue.pop(id, None)
        return self._child.values.shown(raised) if stack is None else ("", "Overdue", stack[-30_000:], "")

    def _cancelled(self) -> bool:
        """`headrace_worker.cancelled()`, of the run that asks: also from threads that have its context."""
        id = _run.get()
        return bool(id and self._child.is_unwanted(id))

    def _show_stacks(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for task in list(self._tasks.values())[SHOWN - 1 :: -1]:
                sys.stderr.write(f"a run on the event loop:\n{where(task)}\n")
            sys.stderr.flush()


def where(task: Any) -> str:
    """Where a task waits: its coroutine, what that one awaits, and so on, the innermost first."""
    lines: list[str] = []
    at = task.get_coro()
    at = getattr(at, "run", at)
    while at is not None and len(lines) < FRAMES:
        frame = getattr(at, "cr_frame", None) or getattr(at, "gi_frame", None) or getattr(at, "ag_frame", None)
        if frame is not None:
            code = frame.f_code
            lines.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}')
        for name in ("cr_await", "gi_yieldfrom", "ag_await"):
            following = getattr(at, name, None)
            if following is not None:
                break
        at = following
    ours = __file__
    return "\n".join(line for line in reversed(lines) if ours not in line)
