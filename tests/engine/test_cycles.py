"""A thousand engines opened and closed, each in the middle of something else, leave nothing: no thread, no file
descriptor, no object, no memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.engine.engine import Engine
from headrace.engine.future import Future
from headrace.engine.stream import Stream
from headrace.engine.topology import made_up
from headrace.errors import Cancelled, Closed, PoisonedVar

PATIENCE = 30.0
WARM_UP, CYCLES = 200, 1000
GROWTH = 4 << 20
"""Bytes the process may grow by: an arena or two of the allocator, and far less than 5 KiB for each cycle."""


def made() -> Engine:
    return Engine(topology=made_up(cores=2), max_operations=32)


@contextlib.contextmanager
def opened() -> Iterator[Engine]:
    engine = made()
    yield engine
    engine.close(timeout=PATIENCE)  # so that a stream that does not end fails the test instead of hanging it


def never_used() -> None:
    with made():
        pass


def used_and_closed() -> None:
    with opened() as engine:
        future = engine.push(lambda: 7, writes=[hr.Var()])
    assert future.result(0) == 7


def closed_with_work_queued() -> None:
    var, seen = hr.Var("queued"), list[int]()
    with opened() as engine:
        futures = [engine.push(lambda i=i: seen.append(i), reads=[var], writes=[var]) for i in range(6)]
    assert seen == [*range(6)]
    assert all(future.can_read() for future in futures)


def cancelled() -> None:
    begun, var = threading.Event(), hr.Var()
    with opened() as engine:
        running = engine.push(lambda: begun.wait(PATIENCE), writes=[var])
        waiting = [engine.push(int, reads=[var]) for _ in range(4)]
        assert all(future.cancel() for future in waiting)
        running.cancel()
        begun.set()
    assert all(isinstance(future.exception(0), Cancelled) for future in (running, *waiting))


def failing() -> None:
    var = hr.Var()
    with opened() as engine:
        failed = engine.push(lambda: 1 / 0, writes=[var])
        poisoned = engine.push(int, reads=[var])
        engine.push(lambda: [][0])  # nobody looks at this one
        assert isinstance(poisoned.exception(PATIENCE), PoisonedVar)
        with contextlib.suppress(ZeroDivisionError):
            failed.result(0)


def closed_without_draining() -> None:
    begun, refused = threading.Semaphore(0), threading.Event()
    engine, var = made(), hr.Var()
    running = [
        engine.push(lambda: (begun.release(), refused.wait(PATIENCE)), writes=[each]) for each in (var, hr.Var())
    ]
    for _ in running:
        assert begun.acquire(timeout=PATIENCE)
    ready, waiting = engine.push(int), engine.push(int, reads=[var])
    ready.add_done_callback(lambda _: refused.set())  # `close` refuses it, and then waits for those that run
    engine.close(drain=False, timeout=PATIENCE)
    assert [type(future.exception(0)) for future in (*running, ready, waiting)] == [type(None)] * 2 + [Closed] * 2


def completed_in_turn() -> None:
    with opened() as engine:
        futures = [engine.push(lambda i=i: i) for i in range(5)]
        assert {future.result() for future in hr.as_completed(futures, timeout=PATIENCE)} == {*range(5)}
        engine.waitall(PATIENCE)


def awaited() -> None:
    async def main() -> None:
        with opened() as engine:
            futures = [engine.push(lambda i=i: i) for i in range(3)]
            assert await asyncio.gather(*futures) == [0, 1, 2]

    asyncio.run(main())


KINDS: list[Callable[[], None]] = [
    never_used,
    used_and_closed,
    closed_with_work_queued,
    cancelled,
    failing,
    closed_without_draining,
    completed_in_turn,
    awaited,
]


def cycles(times: int) -> None:
    for i in range(times):
        KINDS[i % len(KINDS)]()


def ours() -> list[Any]:
    gc.collect()
    return [each for each in gc.get_objects() if issubclass(type(each), Engine | Future | Stream | hr.Var)]


def descriptors() -> set[str]:
    return {*os.listdir("/proc/self/fd")}


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("cycle", KINDS, ids=lambda cycle: cycle.__name__)
def test_one_cycle_leaves_no_object_and_no_thread(cycle: Callable[[], None]) -> None:
    cycle()
    before, threads = ours(), threading.enumerate()
    cycle()
    kept = {id(each) for each in before}
    assert [each for each in ours() if id(each) not in kept] == []
    assert threading.enumerate() == threads


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory and descriptors are read from /proc")
def test_a_thousand_cycles_leave_no_thread_no_descriptor_no_object_and_no_memory(
    until: Callable[[Callable[[], object]], None],
) -> None:
    cycles(WARM_UP)
    before, threads, files, memory = ours(), threading.enumerate(), descriptors(), resident()
    tasks = len(os.listdir("/proc/self/task"))
    cycles(CYCLES)
    kept = {id(each) for each in before}
    assert [each for each in ours() if id(each) not in kept] == []
    assert threading.enumerate() == threads
    until(lambda: len(os.listdir("/proc/self/task")) <= tasks)  # a joined thread is gone from Python before the system
    assert descriptors() == files
    assert resident() - memory < GROWTH
