"""A load under a limit of time: nobody waits longer, and what comes too late is closed."""

from __future__ import annotations

import threading

import pytest

from headrace.errors import InvalidModel
from headrace.serving.loading import wants_memory, within
from headrace.testing import Gate

PATIENCE = 30


def test_what_is_made_in_time_is_given() -> None:
    assert within(PATIENCE, lambda: 5, lambda _: None) == 5
    assert within(None, threading.current_thread, lambda _: None) is threading.current_thread()


def test_what_goes_wrong_in_time_is_raised() -> None:
    def fail() -> int:
        raise KeyError("weights")

    for seconds in (None, PATIENCE):
        with pytest.raises(KeyError, match="weights"):
            within(seconds, fail, lambda _: None)


def test_what_comes_too_late_is_closed_and_nobody_waits_for_it() -> None:
    gate, closed = Gate(), threading.Event()
    with pytest.raises(InvalidModel, match=r"not loaded within 0\.01 s"):
        within(0.01, lambda: gate() or 5, lambda _: closed.set())
    assert not closed.is_set()
    gate.open()
    assert closed.wait(PATIENCE)


def test_no_time_at_all_is_too_short_for_anything() -> None:
    made: list[int] = []
    with pytest.raises(InvalidModel, match="within 0 s"):
        within(0, lambda: made.append(1), lambda _: None)
    assert made == []


def test_want_of_memory_is_found_wherever_it_is_said() -> None:
    inner = InvalidModel("x cannot be loaded")
    inner.__cause__ = MemoryError()
    assert wants_memory(MemoryError())
    assert wants_memory(inner)
    assert wants_memory(InvalidModel("m cannot be loaded in a worker: MemoryError: "))
    assert wants_memory(RuntimeError("std::bad_alloc"))
    assert not wants_memory(InvalidModel("no such weights"))
