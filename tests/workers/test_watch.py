"""What is looked at though a worker says nothing, with a clock that is told what time it is."""

from types import SimpleNamespace
from typing import Any

import pytest

from headrace.workers import watch
from headrace.workers.watch import IDLE, Watch


class Process:
    def __init__(self) -> None:
        self.looks, self.stopped = 0, False

    def is_stopped(self) -> bool:
        self.looks += 1
        return self.stopped


def test_an_idle_process_is_looked_at_by_the_clock_however_often_its_thread_is_woken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look opens a file, and what is stopped for a moment is not to be ended for it."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: clock.now))
    process: Any = Process()
    pool: Any = SimpleNamespace(name="m")
    hand: Any = SimpleNamespace(sent={})
    watched = Watch(pool, SimpleNamespace(alarm=None), process, hand, SimpleNamespace())  # type: ignore[arg-type]
    process.stopped = True
    for _ in range(100):  # woken again and again
        assert watched.idle() is None
    assert process.looks == 1
    clock.now += IDLE
    assert "was stopped by a signal" in str(watched.idle())
