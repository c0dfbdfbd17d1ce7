"""A request of the server: told once, its permit back when nothing reads its bytes, its run stopped when it leaves."""

from __future__ import annotations

from typing import Any

import pytest

import headrace as hr
from headrace.backends.base import Stop
from headrace.engine.admission import Budget
from headrace.errors import Cancelled, Closed
from headrace.model.batcher import Batcher
from headrace.model.instance import LocalInstance
from headrace.model.run import Requests, Run
from headrace.serving.inflight import InFlight
from headrace.serving.served import Served


class Session:
    """Stoppable. `leave` is called while it runs."""

    stoppable = True

    def __init__(self) -> None:
        self.stopped: list[Any] = []
        self.leave: Any = None

    def run(self, inputs: tuple[Any, ...], names: tuple[str, ...] | None = None, stop: Stop | None = None) -> list[Any]:
        assert stop is not None
        stop.handle = handle = object()
        if self.leave is not None:
            self.leave()
        if handle in self.stopped:
            raise RuntimeError("stopped")
        return list(inputs)

    def stop(self, handle: Any) -> None:
        self.stopped.append(handle)

    def close(self) -> None:
        pass


class Bench:
    """One request, its budget and its model's pure parts, without threads."""

    def __init__(self) -> None:
        self.session, self.batcher, self.budget = Session(), Batcher(), Budget(1, 100)
        self.requests = Requests(self.batcher, [LocalInstance(self.session)], "m")
        served = Served("m", "1", hr.compile_model(lambda x: x, scheduler="naive"))
        self.request = InFlight(served, self.budget.admit(7))
        self.request.inputs = ("bytes",)
        self.delivered: list[tuple[Any, bool]] = []
        self.request.receiver = lambda request: self.delivered.append((request.exception(), request.permit.held))
        self.batcher.add(self.request, 0.0)

    def pull(self) -> Run:
        run = self.requests.pull(0.0, False, 0, [])
        assert run is not None
        return run

    def end(self, run: Run) -> None:
        with self.request._guard.lock:
            run.complete(1.0)
        run.deliver()

    @property
    def inside(self) -> tuple[int, int]:
        return self.budget.inside, self.budget.nbytes


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_it_is_told_once_and_its_permit_is_back_before(bench: Bench) -> None:
    run = bench.pull()
    run.run()
    assert (bench.inside, bench.delivered) == ((1, 7), [])
    bench.end(run)
    assert bench.delivered == [(None, False)]
    assert bench.request.result() == ["bytes"]
    assert (bench.inside, bench.request.inputs) == ((0, 0), ())


def test_what_is_refused_is_told_once_and_its_permit_is_back_before(bench: Bench) -> None:
    error = Closed("closed")
    assert bench.request.settle(error=error)
    assert bench.delivered == [(error, False)]
    assert (bench.inside, bench.request.inputs) == ((0, 0), ())


def test_who_departs_while_it_waits_is_not_told_and_gives_its_permit_back_at_once(bench: Bench) -> None:
    bench.request.depart()
    assert (bench.delivered, bench.inside, bench.request.inputs) == ([], (0, 0), ())
    assert bench.batcher.pull(0.0, False, []) == []


def test_who_departs_while_it_runs_stops_the_run_and_keeps_its_permit_until_that_has_ended(bench: Bench) -> None:
    run = bench.pull()
    bench.session.leave = bench.request.depart
    run.run()
    assert bench.session.stopped == [run.handle]
    assert (bench.inside, bench.request.inputs) == ((1, 7), ("bytes",))
    bench.end(run)
    assert (bench.delivered, bench.inside, bench.request.inputs) == ([], (0, 0), ())
    assert bench.request.cancelled()
    assert bench.batcher.counts.failed == 1


def test_who_departs_between_the_run_and_its_end_gives_its_permit_back_too(bench: Bench) -> None:
    run = bench.pull()
    run.run()
    bench.request.depart()
    bench.end(run)
    assert (bench.delivered, bench.inside) == ([], (0, 0))


def test_who_departs_after_the_answer_changes_nothing(bench: Bench) -> None:
    run = bench.pull()
    run.run()
    bench.end(run)
    bench.request.depart()
    assert bench.delivered == [(None, False)]
    assert bench.request.result() == ["bytes"]


def test_one_that_is_cancelled_while_it_runs_is_told_once(bench: Bench) -> None:
    told: list[object] = []
    bench.request.add_done_callback(told.append)
    run = bench.pull()
    bench.session.leave = bench.request.cancel
    run.run()
    bench.end(run)
    ((error, _),) = bench.delivered
    assert isinstance(error, Cancelled)
    assert told == [bench.request]
    assert bench.inside == (0, 0)


def test_both_ways_of_hearing_hear(bench: Bench) -> None:
    told: list[object] = []
    bench.request.add_done_callback(told.append)
    run = bench.pull()
    run.run()
    bench.end(run)
    assert (len(bench.delivered), told) == (1, [bench.request])
