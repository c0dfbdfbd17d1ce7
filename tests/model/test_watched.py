"""A callable's first runs are looked at, and after that it is called as if nobody had."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import headrace as hr
from headrace.engine.topology import made_up
from headrace.model import watched
from headrace.model.gil import ENOUGH_RUNS, SHORTEST, TOO_MUCH, Gil, Look
from headrace.model.instance import LocalInstance
from headrace.model.probe import can_look
from headrace.model.watched import AFTER, RUNS, Watch
from headrace.testing import FakeClock, Gate

holding = ctypes.PyDLL(None)
pytestmark = pytest.mark.skipif(not can_look(), reason="this interpreter has no lock to hold")


class Told:
    """Stands in for the clock and the thread beside a run: each run takes as long as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.looked_at, self.held = FakeClock(), 0, 0.0
        monkeypatch.setattr(watched, "perf_counter", self.clock.now)
        monkeypatch.setattr(watched, "beside", self.beside)
        self.verdicts: list[Gil | None] = []
        self.alone = True
        self.watch = Watch(self.verdicts.append, lambda: self.alone)

    def beside(self, run: Callable[[], object], quiet: object, own: object) -> Look:
        self.looked_at += 1
        began = self.clock.now()
        run()
        seconds = self.clock.now() - began
        return Look(seconds, self.held * seconds, self.held * seconds)

    def run(self, seconds: float, times: int = 1) -> None:
        for _ in range(times):
            self.watch.run(lambda: self.clock.advance(seconds))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


@pytest.mark.parametrize("held", [0.9, 0.0])
def test_after_a_few_looks_it_is_decided_once(told: Told, held: float) -> None:
    told.held = held
    told.run(0.01, 1 + ENOUGH_RUNS - 1)
    assert told.verdicts == []
    told.run(0.01, 100)
    assert told.looked_at == ENOUGH_RUNS
    (gil,) = told.verdicts
    assert gil is not None
    assert gil.holds is bool(held)


def test_short_runs_are_not_looked_at_and_in_the_end_nothing_is_known(told: Told) -> None:
    told.run(SHORTEST / 2, RUNS - 1)
    assert told.verdicts == []
    told.run(SHORTEST / 2)
    assert told.verdicts == [None]
    assert told.looked_at == 0


def test_a_long_first_run_and_short_ones_after_it_say_nothing(told: Told) -> None:
    told.run(3.0)
    told.run(SHORTEST / 2, RUNS)
    assert told.looked_at == AFTER
    assert told.verdicts == [None]


def test_what_is_seen_beside_other_models_does_not_count(told: Told) -> None:
    told.alone, told.held = False, 0.9
    told.run(0.01, 3 * RUNS)
    assert (told.looked_at, told.verdicts) == (0, []), "nor does it use up what may be looked at"
    told.alone = True
    told.run(0.01, ENOUGH_RUNS + 1)
    (gil,) = told.verdicts
    assert gil is not None
    assert gil.holds


def test_one_that_takes_long_only_now_and_then_is_found(told: Told) -> None:
    told.held = 0.9
    for _ in range(RUNS):
        told.run(0.01)
        told.run(SHORTEST / 2)
    (gil,) = told.verdicts
    assert gil is not None
    assert gil.holds


def test_a_run_is_not_held_up_by_a_look_at_another(told: Told) -> None:
    told.run(0.01)
    gate, ended = Gate(), []
    looked = threading.Thread(target=lambda: told.watch.run(gate))
    looked.start()
    gate.wait()
    assert told.looked_at == 1
    told.watch.run(lambda: ended.append(1))
    assert ended == [1]
    assert told.looked_at == 1
    gate.open()
    looked.join(30)
    assert not looked.is_alive()


# ---- with real runs


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    with caplog.at_level(logging.WARNING, "headrace.model"):
        yield lambda: [record.getMessage() for record in caplog.records]


def hold(_: Any) -> None:
    holding.usleep(20_000)


def sleep(_: Any) -> None:
    time.sleep(0.02)


@pytest.mark.parametrize("scheduler", ["single_stream", "multi_stream", "naive"])
def test_a_callable_that_holds_the_lock_is_reported_once_with_figures(
    scheduler: str, said: Callable[[], list[str]]
) -> None:
    with hr.Engine(topology=made_up(2)) as engine, hr.compile_model(hold, engine=engine, scheduler=scheduler) as model:
        assert model.gil is None
        for _ in range(12):
            model(1)
        assert model.gil is not None
        assert model.gil.holds
        assert model.gil.share >= TOO_MUCH  # on a busy machine less than all of it
        assert model.statistics().gil == model.gil
        assert "holds the GIL for" in repr(model)
        assert len([text for text in said() if text.startswith("hold holds the GIL: another thread waited ")]) == 1
        assert all(type(instance) is LocalInstance for instance in model._source._instances)


def test_one_that_lets_go_of_it_is_not(said: Callable[[], list[str]]) -> None:
    with hr.Engine(topology=made_up(1)) as engine, hr.compile_model(sleep, engine=engine) as model:
        for _ in range(12):
            model(1)
        assert model.gil is not None
        assert not model.gil.holds
        assert "GIL" not in repr(model)
        assert said() == []
        assert all(type(instance) is LocalInstance for instance in model._source._instances)


def test_two_streams_of_one_that_holds_it_are_both_guilty() -> None:
    with (
        hr.Engine(topology=made_up(2)) as engine,
        hr.compile_model(hold, engine=engine, scheduler="multi_stream") as model,
    ):
        for future in [model.submit(1) for _ in range(40)]:
            future.result()
        assert model.gil is not None
        assert model.gil.holds


def test_a_tiny_callable_is_soon_called_as_if_nobody_had_looked() -> None:
    with hr.Engine(topology=made_up(1)) as engine, hr.compile_model(lambda x: x, engine=engine) as model:
        for _ in range(RUNS):
            model(1)
        assert model.gil is None
        assert all(type(instance) is LocalInstance for instance in model._source._instances)


def test_a_callable_is_never_called_unasked() -> None:
    calls: list[int] = []
    with hr.Engine(topology=made_up(1)) as engine, hr.compile_model(calls.append, engine=engine) as model:
        assert calls == []
        model(3)
        assert calls == [3]


def test_failures_and_lists_pass_through_unchanged() -> None:
    def work(xs: list[int]) -> list[int]:
        return [12 // x for x in xs]

    with hr.Engine(topology=made_up(1)) as engine, hr.compile_model(work, engine=engine, max_batch_size=4) as model:
        futures = [model.submit(x) for x in (1, 2, 0, 3)]
        assert [futures[i].result() for i in (0, 1, 3)] == [12, 6, 4]
        with pytest.raises(hr.BackendError, match="ZeroDivisionError"):
            futures[2].result()
