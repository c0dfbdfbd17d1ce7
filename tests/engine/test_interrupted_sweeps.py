"""What a signal's handler raises (Ctrl-C, a time limit) at any line of a sweep: the engine is whole after it.

The sweep is made small, and interrupted at each of its lines in turn: first, second, and so on until it has no more.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

import headrace as hr
from headrace.engine.operations import OperationSource
from headrace.engine.topology import made_up
from headrace.testing import Gate

PATIENCE = 30.0
FEW = 6


class OutOfTime(Exception):
    """What a user's own handler raises; an Exception, other than KeyboardInterrupt."""


@pytest.fixture(params=["Ctrl-C", "a time limit"])
def number(request: pytest.FixtureRequest) -> Iterator[int]:
    """Of the signal."""
    raised = KeyboardInterrupt if request.param == "Ctrl-C" else OutOfTime

    def handler(number: int, frame: FrameType | None) -> None:
        raise raised

    number = signal.SIGINT if request.param == "Ctrl-C" else signal.SIGALRM
    before = signal.signal(number, handler)
    yield number
    signal.signal(number, before)


class InterruptedAt:
    """Sends the signal when a sweep comes to its line number `line`, counted over all that it calls."""

    def __init__(self, number: int, line: int) -> None:
        self._number, self.left, self.where = number, line, ""
        self._inside: FrameType | None = None

    def __enter__(self) -> InterruptedAt:
        self._before = sys.gettrace()
        gc.disable()  # what is raised in the callback of a weak reference is lost
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)
        gc.enable()

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if self._inside is None and frame.f_code is OperationSource._sweep.__code__:
            self._inside = frame
        if self._inside is None:
            return self._trace
        if event == "return" and frame is self._inside:
            self._inside = None
        elif event == "line":
            self.left -= 1
            if self.left < 0:
                self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
                signal.raise_signal(self._number)  # its handler runs at once: from here on nothing is traced
        return self._trace


@contextlib.contextmanager
def opened() -> Iterator[hr.Engine]:
    engine = hr.Engine(topology=made_up(1))
    try:
        yield engine
    except BaseException:
        engine.close(drain=False, timeout=1)  # something may be inside for ever
        raise
    engine.close()


def interrupt_a_sweep_at(number: int, line: int) -> str:
    """Where it was interrupted; "" if it has not so many lines."""
    with opened() as engine:
        held, others, seen = hr.Var("held"), [hr.Var(f"{i}") for i in range(FEW)], list[str]()
        gate = Gate()
        engine.push(gate, writes=[held])
        gate.wait()
        gone = []
        for i, var in enumerate(others):
            # Some could start, and hold what they write; the others wait. Behind each is one that stays.
            gone.append(engine.push(lambda: seen.append("cancelled"), writes=[var], reads=[held] * (i % 2)))
            engine.push(lambda: seen.append("reads"), reads=[var])
            gone.append(engine.push(lambda: seen.append("cancelled"), writes=[var], priority=i % 3))
            engine.push(lambda: seen.append("writes"), writes=[var], priority=i % 3)
        for future in gone:
            assert future.cancel()
        interrupted = InterruptedAt(number, line)
        try:
            with interrupted:
                engine.push(lambda: seen.append("pushed"), reads=[held, others[0]])
        except (KeyboardInterrupt, OutOfTime):
            assert interrupted.where
        else:
            assert not interrupted.where, f"what was raised at {interrupted.where} has been lost"
        gate.open()
        engine.waitall(PATIENCE)
        assert not any(var._writing or var._readers or var._queue for var in (held, *others)), interrupted.where
        assert sorted(seen) == sorted(["reads", "writes"] * FEW + ["pushed"] * (not interrupted.where))
        statistics = engine.statistics()
        assert statistics.budget.inside == 0
        assert statistics.operations.cancelled == len(gone)
        return interrupted.where


def test_a_sweep_that_is_interrupted_at_any_of_its_lines_leaves_nothing_inside(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("headrace.engine.operations.TOMBSTONES", 2 * FEW)
    lines = 0
    while interrupt_a_sweep_at(number, lines):
        lines += 1
    assert lines > 20, "it was not interrupted at every line"
