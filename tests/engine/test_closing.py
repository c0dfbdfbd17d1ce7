"""What waits when an engine is closed hears of it, whatever it waits for."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

import headrace as hr
from headrace.engine.topology import made_up
from headrace.testing import Gate

PATIENCE = 30.0


def hanging(engine: hr.Engine, var: hr.Var) -> tuple[hr.Future[Any], Gate]:
    """A write of `var` that is in its run, and ends when the gate is opened."""
    gate = Gate()
    future = engine.push(gate, writes=[var])
    gate.wait()
    return future, gate


@pytest.mark.parametrize("drain", [True, False])
def test_what_waits_for_a_var_of_a_run_that_hangs_is_refused(drain: bool) -> None:
    engine, var, other = hr.Engine(topology=made_up(1)), hr.Var(), hr.Var()
    hangs, gate = hanging(engine, var)
    behind = [engine.push(int, reads=[var], writes=[other]) for _ in range(3)]
    behind += [engine.push(int, reads=[other]) for _ in range(3)]
    beside = engine.push(int)
    heard = threading.Semaphore(0)
    for future in (*behind, beside):
        future.add_done_callback(lambda _: heard.release())
    engine.close(drain=drain, timeout=0.0)
    for _ in range(7):
        assert heard.acquire(timeout=PATIENCE)
    assert {type(future.exception(0)) for future in (*behind, beside)} == {hr.Closed}
    assert engine.statistics().budget.inside == 1
    assert engine.statistics().operations.refused == 7
    gate.open()
    hangs.wait_to_read(PATIENCE)
    engine.close()
    assert engine.statistics().budget.inside == 0
    assert isinstance(other.error, hr.Closed), "nobody must take its old value for a new one"


def test_what_is_refused_behind_a_run_is_refused_once_and_is_not_run_when_that_has_ended() -> None:
    engine, var, ran = hr.Engine(topology=made_up(1)), hr.Var(), list[int]()
    _, gate = hanging(engine, var)
    waiting = [engine.push(lambda i=i: ran.append(i), writes=[var]) for i in range(5)]
    waiting[2].cancel()
    closing = threading.Thread(target=lambda: engine.close(drain=False))
    closing.start()
    for future in waiting:
        assert isinstance(future.exception(PATIENCE), hr.Closed | hr.Cancelled)
    gate.open()
    closing.join(PATIENCE)
    assert ran == []
    counts = engine.statistics().operations
    assert (counts.pushed, counts.completed, counts.refused, counts.cancelled) == (6, 1, 4, 1)


def test_closing_in_a_callback_returns_at_once_and_finishes_what_is_inside() -> None:
    engine = hr.Engine(topology=made_up(2))
    gate, closed = Gate(), threading.Event()
    busy = engine.push(gate)
    gate.wait()

    def close(_: object) -> None:
        engine.close()
        closed.set()

    queued: list[hr.Future[int]] = []
    engine.push(lambda: queued.extend(engine.push(lambda i=i: i) for i in range(5))).add_done_callback(close)
    assert closed.wait(PATIENCE), "it does not wait for the other stream"
    gate.open()
    busy.wait_to_read(PATIENCE)
    assert [future.result(PATIENCE) for future in queued] == [*range(5)], "drain=True is the default there, too"
    engine.close()
    assert engine.statistics().budget.inside == 0
    with pytest.raises(hr.Closed):
        engine.push(int)


def test_two_engines_may_be_closed_by_each_others_streams() -> None:
    a, b = hr.Engine(topology=made_up(1)), hr.Engine(topology=made_up(1))
    both = threading.Barrier(2)

    def close(other: hr.Engine) -> None:
        both.wait(PATIENCE)
        other.close()

    futures = [a.push(lambda: close(b)), b.push(lambda: close(a))]
    for future in futures:
        future.wait_to_read(PATIENCE)
    a.close()
    b.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "headrace-engine-close"]


@pytest.mark.parametrize("others_wait", [False, True])
def test_whoever_closes_again_after_an_interrupted_close_finishes_what_that_was_to_finish(others_wait: bool) -> None:
    engine, var = hr.Engine(topology=made_up(1)), hr.Var()
    _, gate = hanging(engine, var)
    queued = [engine.push(lambda i=i: i, reads=[var]) for i in range(5)]
    waiting: list[threading.Thread] = []

    def interrupt() -> None:
        while not engine.budget._idle:  # it waits
            pass
        if others_wait:
            waiting.append(threading.Thread(target=engine.close))
            waiting[0].start()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        engine.close()
    thread.join(PATIENCE)
    closing = threading.Thread(target=engine.close)
    closing.start()
    gate.open()
    assert [future.result(PATIENCE) for future in queued] == [*range(5)]
    for each in (closing, *waiting):
        each.join(PATIENCE)
        assert not each.is_alive()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_nobody_polls_for_ever_on_an_engine_that_is_closed(when: str) -> None:
    engine, got = hr.Engine(topology=made_up(1)), list[list[hr.Future[Any]]]()
    if when == "before":
        engine.close()
    polling = threading.Thread(target=lambda: got.append(engine.poll(None, None)))
    polling.start()
    if when == "meanwhile":
        while engine._finished is None or not engine._finished._pollers:
            pass
        engine.close()
    polling.join(PATIENCE)
    assert got == [[]]


def test_a_closed_engine_still_hands_out_what_has_ended() -> None:
    engine = hr.Engine(topology=made_up(1))
    engine.poll()
    futures = [engine.push(lambda i=i: i) for i in range(5)]
    engine.close()
    assert engine.poll(None, None) == futures
    assert engine.poll(None, None) == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda engine: hr.Var(3),
        lambda engine: engine.push(int, reads=hr.Var()),
        lambda engine: engine.push(int, priority=10**5000),
        lambda engine: hr.as_completed([1]),
        lambda engine: hr.as_completed(engine.push(int)),
        lambda engine: engine.push(int).add_done_callback(None),
        lambda engine: hr.Engine(topology=1),
    ],
)
def test_what_cannot_be_meant_is_a_type_error_at_once(wrong: Callable[[hr.Engine], object]) -> None:
    with hr.Engine(topology=made_up(1)) as engine, pytest.raises(TypeError) as told:
        wrong(engine)
    assert len(str(told.value)) < 200


@pytest.mark.parametrize("capacity", ["x", 10**30, True, 0])
def test_a_trace_keeps_a_number_of_events(capacity: Any, tmp_path: Any) -> None:
    with hr.Engine(topology=made_up(1)) as engine, pytest.raises(hr.InvalidOption, match="capacity"):
        engine.trace(tmp_path / "t.json", capacity=capacity)


@pytest.mark.parametrize("window", ["x", 1.5, True, 0])
def test_a_window_is_a_whole_number(window: Any) -> None:
    with (
        hr.Engine(topology=made_up(1)) as engine,
        hr.compile_model(int, engine=engine) as model,
        pytest.raises(hr.InvalidOption, match="window"),
    ):
        model.map([1], window=window)


@pytest.mark.parametrize("timeout", [-(10**400), -1])
def test_no_time_left_is_no_time_left_however_much_is_missing(timeout: int) -> None:
    engine, var = hr.Engine(topology=made_up(1)), hr.Var()
    future, gate = hanging(engine, var)
    for wait in (future.result, engine.waitall, lambda seconds: [*hr.as_completed([future], timeout=seconds)]):
        with pytest.raises(TimeoutError):
            wait(timeout)
    assert engine.poll(None, timeout) == []
    engine.close(timeout=timeout)
    gate.open()
