"""The state of an engine as text, for whoever looks at a hang: `engine.dump_state()`."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

from headrace.engine.dependencies import Var, behind
from headrace.engine.engine import Engine
from headrace.engine.operations import Operation, OperationSource
from headrace.engine.port import Port
from headrace.engine.stream import Stream
from headrace.wording import count_of

MOST = 20
"""Of waiting things so many are listed; the others are counted."""
FRAMES = 6
PATIENCE = 2.0
"""Seconds it waits for the engine's lock. Should somebody hold it for ever, that is what is to be found out."""


def dump(engine: Engine) -> str:
    """Everything as of one moment, if the lock can be had; else as it is found."""
    lock = engine.guard.lock
    held = lock.acquire(timeout=PATIENCE)
    try:
        lines = list(_lines(engine))
    finally:
        if held:
            lock.release()
    if not held:
        lines.insert(1, f"  its lock was not let go of within {PATIENCE:g} s: what follows may change while it is read")
    return "\n".join(lines)


def _lines(engine: Engine) -> Iterator[str]:
    now = engine.clock.now()
    said = engine.budget.look()
    state = "closed" if engine.closed else "open"
    yield f"engine, {state}: {count_of(len(engine.cores), 'core')}, {engine._leases.leased} leased"
    bound = f", {said.nbytes:,} of {said.max_bytes:,} bytes" if said.max_bytes is not None else ""
    unread = f", {count_of(said.unread, 'result')} charged and not read" if said.unread else ""
    callers = f"{count_of(said.waiting, 'caller')} wait{'s' if said.waiting == 1 else ''}"
    yield f"  inside: {said.inside:,} of {said.max_count:,}{bound}{unread}; {callers} for room"
    for port in (*engine._ports, *engine._leaving):
        yield from _port(port, now)


def _port(port: Port, now: float) -> Iterator[str]:
    waits = "; it waits for cores that others use" if port.group.in_line else ""
    yield f"{port.name}: {len(port.source):,} ready, {count_of(port.runs, 'run')} ended{waits}"
    for stream in (*port.streams, *(each for each in port.former if not each.ended)):
        yield from _stream(stream, now)
    source = port.source
    if isinstance(source, OperationSource):
        yield from _operations(source, port, now)
    else:
        waiting = [each for each in source.waiting() if not each._done]
        if waiting:
            yield f"  the oldest request has waited {now - min(each.queued_at for each in waiting):.3f} s"


def _stream(stream: Stream, now: float) -> Iterator[str]:
    stack = list(_stack(stream))
    if stream.work is None:
        watching = f", watching until {stream.alarm - now:+.4f} s" if stream.alarm is not None else ""
        yield f"  {stream.name}: {'in a callback' if stack else 'idle'}{watching}"
    else:
        count = sum(1 for _ in stream.work.futures())
        several = f", {count} requests" if count > 1 else ""
        yield f"  {stream.name}: runs {stream.work.name}{several} for {now - stream.began:.3f} s"
    yield from stack


def _stack(stream: Stream) -> Iterator[str]:
    """What it does outside of the engine."""
    frame = sys._current_frames().get(stream.thread or 0)
    frames = traceback.extract_stack(frame) if frame is not None else []
    own = [each for each in frames if not _is_machinery(each.filename, each.name)]
    for each in own[-FRAMES:]:
        yield f"      {each.filename}:{each.lineno} in {each.name}: {each.line}"


def _is_machinery(filename: str, name: str) -> bool:
    if filename.endswith("/threading.py") and name in ("_bootstrap", "_bootstrap_inner", "run"):
        return True
    return "/headrace/engine/" in filename


def _operations(source: OperationSource, port: Port, now: float) -> Iterator[str]:
    running = [stream.work for stream in port.streams if isinstance(stream.work, Operation)]
    ready = [operation for operation in source.waiting() if not operation._done]
    for operation in ready[:MOST]:
        yield f"  ready for {now - operation.queued_at:.3f} s: pushed at {operation.pushed_at}"
    yield from _more(ready)
    waiting = [each for each in behind([*running, *source.waiting()]) if not each._done]
    holders = _holders([*running, *source.waiting()], waiting)
    for operation in waiting[:MOST]:
        yield f"  waits: pushed at {operation.pushed_at}"
        for var in dict.fromkeys((*operation.reads, *operation.writes)):
            held = ", ".join(dict.fromkeys(f"{what} by what was pushed at {at}" for what, at in holders.get(var, ())))
            yield f"      for {var}: {held or 'behind others that wait for it'}"
    yield from _more(waiting)


def _more(listed: list[Any]) -> Iterator[str]:
    if len(listed) > MOST:
        yield f"  and {len(listed) - MOST:,} more"


def _holders(granted: Iterable[Operation], waiting: Iterable[Operation]) -> dict[Var, list[tuple[str, str]]]:
    """Who holds each Var: read or written, and where that was pushed. Also who has been granted one and waits for
    another."""
    holders: dict[Var, list[tuple[str, str]]] = {}
    for operation in waiting:
        for var in dict.fromkeys((*operation.reads, *operation.writes)):
            if all(queued is not operation for queued, _ in var._queue or ()):
                holders.setdefault(var, []).append(("held", operation.pushed_at))
    for operation in granted:
        for var in operation.reads:
            holders.setdefault(var, []).append(("read", operation.pushed_at))
        for var in operation.writes:
            holders.setdefault(var, []).append(("written", operation.pushed_at))
    return holders
