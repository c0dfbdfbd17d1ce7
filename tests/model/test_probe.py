"""The thread beside a run, with real runs: one that holds the interpreter lock, and one that does not."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable

import pytest

from headrace.model import probe
from headrace.model.gil import Wake, judged
from headrace.model.probe import beside, can_look, usual_wakes

holding = ctypes.PyDLL(None)  # calls that do not release the lock
pytestmark = pytest.mark.skipif(not can_look(), reason="this interpreter has no lock to hold")


def hold() -> None:
    holding.usleep(50_000)


def compute() -> None:
    until = time.perf_counter() + 0.05
    while time.perf_counter() < until:
        pass


def probes() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "headrace-gil-probe"]


@pytest.mark.parametrize(
    ("run", "holds"), [(hold, True), (compute, True), (lambda: time.sleep(0.05), False)], ids=["hold", "loop", "sleep"]
)
def test_holding_the_lock_is_told_apart_from_letting_go_of_it(run: Callable[[], object], holds: bool) -> None:
    interval = sys.getswitchinterval()
    looks = [beside(run) for _ in range(5)]
    gil = judged([one for one in looks if one is not None])
    assert gil is not None
    assert gil.holds is holds, gil
    assert gil.share > 0.5 if holds else gil.share < 0.2
    assert gil.run >= 0.05
    assert not probes()
    assert sys.getswitchinterval() == interval


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_thread_that_computes_just_beside_the_run_is_not_taken_for_it(goes_on: bool) -> None:
    """It rests while is found out how late a thread wakes anyway: how late they are beside the run tells nothing."""
    go, done, end = threading.Event(), threading.Event(), threading.Event()

    def stranger() -> None:
        go.wait()
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        done.set()
        if goes_on:
            end.wait()

    def innocent() -> None:  # lets go of the lock from beginning to end
        go.set()
        done.wait()

    thread = threading.Thread(target=stranger)
    thread.start()
    seen = beside(innocent)
    end.set()
    thread.join()
    assert seen is None


def test_threads_that_run_the_model_too_are_no_strangers() -> None:
    go, done = threading.Event(), threading.Event()
    known: list[int] = []
    over: list[bool] = []

    def beside_it() -> None:
        known.append(threading.get_native_id())
        done.set()
        go.wait()
        while not over:
            pass

    thread = threading.Thread(target=beside_it)
    thread.start()
    done.wait()

    def run() -> None:
        go.set()
        compute()
        over.append(True)
        thread.join()

    seen = beside(run, own=known)
    assert seen is not None


def test_what_the_run_raises_is_raised_and_nobody_is_left_beside_it() -> None:
    with pytest.raises(ZeroDivisionError):
        beside(lambda: 1 / 0)
    assert not probes()


def test_a_long_run_is_not_watched_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "LONGEST", 0.005)

    def run() -> None:
        for thread in probes():
            thread.join(30)
            assert not thread.is_alive()

    seen = beside(run)
    assert seen is not None
    assert seen.seconds <= 0.1


def test_where_no_thread_can_be_started_the_run_is_done_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ran: list[int] = []
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert beside(lambda: ran.append(1)) is None
    assert ran == [1]


QUIET, NOISY = [Wake(0.0, 0.0)] * 4, [Wake(0.0, 0.005)] * 4


@pytest.mark.parametrize(
    ("run", "idle", "seen"),
    [
        (hold, [QUIET, QUIET], True),
        (hold, [QUIET, []], True),  # it runs again already
        (hold, [QUIET, NOISY], False),
        (hold, [NOISY], False),
        (lambda: time.sleep(0.05), [NOISY], False),
        (lambda: time.sleep(0.05), [QUIET], True),  # and is not looked at longer than need be
    ],
)
def test_where_somebody_else_holds_the_lock_before_or_after_it_nothing_is_held_against_a_run(
    run: Callable[[], object], idle: list[list[Wake]], seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, ran = list(idle), []
    monkeypatch.setattr(probe, "usual_wakes", lambda quiet: left.pop(0))
    assert (beside(lambda: ran.append(run())) is not None) is seen
    assert ran == [None]
    assert not left


def test_the_usual_is_not_taken_from_a_model_that_has_begun_to_run() -> None:
    assert len(usual_wakes(lambda: True)) == probe.BEFORE
    answers = iter([True, True, False, False])
    assert usual_wakes(lambda: next(answers)) == []


def test_it_does_without_the_kernels_count_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> int:
        raise OSError

    monkeypatch.setattr(probe.os, "open", missing)
    seen = beside(lambda: time.sleep(0.003))
    assert seen is not None
