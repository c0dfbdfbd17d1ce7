"""What a model measures of its runs: nothing unless it is asked to, and then everything once."""

from __future__ import annotations

import time
from typing import Any

import pytest

import headrace as hr
from headrace.engine.bundle import Bundle
from headrace.engine.guard import Guard
from headrace.model.batcher import Batcher, Meter
from headrace.model.model import Model
from headrace.model.pending import Owner, Pending
from headrace.testing import Gate


class Nobody(Owner):
    def on_error(self, pending: Pending) -> None:
        pass


def quiet(x: Any) -> Any:
    return x


def test_nothing_is_measured_unless_it_is_asked_for() -> None:
    with hr.Engine(num_cores=1) as engine, hr.compile_model(quiet, engine=engine) as model:
        model(1)
        assert model.measures() is None
        assert model._batcher.counts.meter is None
        assert model.port is not None
        assert model.port.run_times is None


@pytest.mark.parametrize("scheduler", ["single_stream", "naive"])
def test_every_request_and_every_run_is_measured_once(scheduler: str) -> None:
    def refuse_odd(x: int) -> int:
        if x % 2:
            raise ValueError("odd")
        return x

    with hr.compile_model(refuse_odd, scheduler=scheduler) as model:
        model.measure()
        model.measure()  # once more starts nothing anew
        for x in range(50):
            model.submit(x).exception()
        measures = model.measures()
        assert measures is not None
        assert (measures.queue_seconds.count, measures.run_seconds.count, measures.rows.count) == (50, 50, 50)
        assert measures.rows.total == 50
        statistics = model.statistics()
        assert measures.queue_seconds.total == pytest.approx(statistics.queue_seconds)
        assert measures.run_seconds.total == pytest.approx(statistics.run_seconds)


def test_a_joined_run_is_one_run_of_many_rows_and_each_member_has_waited() -> None:
    gate = Gate()

    def wait(xs: list[Any]) -> list[Any]:
        gate()
        return xs

    with hr.compile_model(wait, max_batch_size=4, scheduler="single_stream") as model:
        model.measure()
        first = model.submit(0)
        gate.wait()
        others = [model.submit(x) for x in range(4)]
        gate.open()
        for future in (first, *others):
            future.wait_to_read(30)
        measures = model.measures()
        assert measures is not None
        assert measures.rows.cumulative()[:4] == [1, 1, 2, 2]  # one of one row, one of four
        assert measures.rows.total == 5
        assert (measures.run_seconds.count, measures.queue_seconds.count) == (2, 5)


def test_what_was_pulled_and_put_back_is_measured_when_it_has_run_and_not_before() -> None:
    batcher = Batcher()
    batcher.counts.meter = meter = Meter()
    one = Pending(Nobody(), (object(),), Guard())
    batcher.add(one, 1.0)
    assert batcher.pull_one(2.0, []) is one
    batcher.put_back(1, [one], 2.0)
    assert meter.queue_seconds.read().count == 0
    assert batcher.pull_one(4.0, []) is one
    one.outcome = [1]
    one.complete(5.0)
    assert (meter.queue_seconds.read().count, meter.queue_seconds.read().total) == (1, 3.0)


def test_runs_that_are_taken_several_at_a_time_are_measured_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    run = Bundle.run

    def counting(bundle: Bundle) -> None:
        taken.append(len(bundle.left))
        run(bundle)

    monkeypatch.setattr(Bundle, "run", counting)
    with hr.compile_model(quiet, scheduler="multi_stream") as model:
        model.measure()
        sent = until_bundled(model, taken)
        assert taken, "nothing was taken several at a time"
        measures = model.measures()
        assert measures is not None
        assert measures.queue_seconds.count == measures.rows.count == sent
        assert model.port is not None
        assert measures.run_seconds.count == model.port.runs
        assert max(taken) > 1


def until_bundled(model: Model, taken: list[int]) -> int:
    sent, give_up = 0, time.monotonic() + 30
    while not taken and time.monotonic() < give_up:
        futures = [model.submit(x) for x in range(500)]
        sent += len(futures)
        for future in futures:
            future.result()
    return sent


def test_runs_of_one_row_and_of_many_are_in_one_histogram() -> None:
    meter = Meter()
    meter.alone = 3
    meter.rows.observe(1)
    meter.rows.observe(4)
    read = meter.read_rows()
    assert (read.cumulative()[:3], read.count, read.total) == ([4, 4, 5], 5, 8)
