"""A stream asks for the engine's lock; it never stands in its line."""

import sys
import threading
from typing import Any

import pytest

from headrace.engine import convoy
from headrace.engine.convoy import take_patiently
from headrace.engine.engine import Engine
from headrace.engine.topology import made_up
from headrace.testing import Gate

PATIENCE = 30.0


class Watched:
    """A lock that notes on which threads it was asked for, and how."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.asked: list[tuple[str, bool]] = []
        self.refused = threading.Event()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self.asked.append((threading.current_thread().name, blocking))
        taken = self.lock.acquire(blocking, timeout)
        if not taken:
            self.refused.set()
        return taken

    def release(self) -> None:
        self.lock.release()

    def _is_owned(self) -> bool:
        return self.lock._is_owned()  # type: ignore[attr-defined,no-any-return]

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def test_a_stream_that_finds_the_lock_taken_asks_again_and_never_waits_in_line() -> None:
    lock: Any = Watched()
    with Engine(topology=made_up(1)) as engine:
        gate = Gate()
        future = engine.push(gate)
        gate.wait()  # its stream runs: it does not hold the lock, or ask for it
        engine.guard.lock = lock
        with lock.lock:
            gate.open()
            assert lock.refused.wait(PATIENCE), "the stream has asked"
            assert not future.can_read()
        future.wait_to_read(PATIENCE)
    streams = [blocking for name, blocking in lock.asked if name.startswith("headrace-operations")]
    assert False in streams
    assert True not in streams


def test_it_is_had_once_it_is_let_go() -> None:
    lock, taken = threading.RLock(), threading.Event()

    def take() -> None:
        take_patiently(lock)
        taken.set()
        lock.release()

    thread = threading.Thread(target=take)
    with lock:
        thread.start()
        assert not taken.is_set()
    thread.join(PATIENCE)
    assert taken.is_set()


def test_where_threads_share_no_interpreter_the_line_is_stood_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convoy, "_shares_interpreter", False)
    lock: Any = Watched()
    take_patiently(lock)
    assert [blocking for _, blocking in lock.asked] == [True]
    assert getattr(sys, "_is_gil_enabled", lambda: True)() or not convoy._shares_interpreter
