"""Streams whose runs are long give way to other threads; those whose runs are short do not."""

import os
import threading
from collections.abc import Callable

import pytest

from headrace.engine import courtesy
from headrace.engine.courtesy import KNOWN, LONG, NICE, give_way
from headrace.engine.engine import Engine
from headrace.engine.topology import made_up

PATIENCE = 30.0


def nice_of_here() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def on_a_thread(function: Callable[[], int]) -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def nice_after(run: Callable[[], object]) -> int:
    """Of the one stream of an engine that has made more than enough such runs."""
    with Engine(topology=made_up(1)) as engine:
        for _ in range(KNOWN + 1):
            engine.push(run).result(PATIENCE)
        return engine.push(nice_of_here).result(PATIENCE)


def wait_longer_than_short() -> None:
    assert not threading.Event().wait(2 * LONG)  # what a run takes is what is tested


def test_a_stream_whose_runs_are_long_gives_way() -> None:
    assert nice_after(wait_longer_than_short) == nice_of_here() + NICE


def test_a_stream_whose_runs_are_short_does_not() -> None:
    assert nice_after(lambda: None) == nice_of_here()


def test_the_caller_and_the_threads_it_starts_afterwards_are_as_they_were() -> None:
    before = nice_of_here()
    nice_after(wait_longer_than_short)
    assert (nice_of_here(), on_a_thread(nice_of_here)) == (before, before)


def test_a_thread_that_gives_way_more_already_is_left_as_it_is() -> None:
    def already() -> int:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE + 4)
        give_way()
        return nice_of_here()

    assert on_a_thread(already) == NICE + 4


def test_a_policy_somebody_has_chosen_is_left_as_it_is() -> None:
    def chosen() -> int:
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_BATCH, os.sched_param(0))
        give_way()
        return 10 * os.sched_getscheduler(threading.get_native_id()) + nice_of_here()

    assert on_a_thread(chosen) == 10 * os.SCHED_BATCH


@pytest.mark.parametrize("how", ["no such call here", "the call is refused"])
def test_without_time_slices_to_choose_there_is_the_nice_value(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {} if how == "no such call here" else {courtesy.platform.machine(): 1 << 20}
    monkeypatch.setattr(courtesy, "_SCHED_SETATTR", numbers)

    def polite() -> int:
        give_way()
        return nice_of_here()

    assert on_a_thread(polite) == NICE
