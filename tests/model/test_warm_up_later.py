"""A model whose cores are busy while it is loaded is warmed up when they are free."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import headrace as hr
from headrace.backends._onnxruntime import OnnxRuntimeSession
from headrace.backends.base import Stop
from headrace.engine.topology import made_up
from headrace.testing import Gate

PATIENCE = 30.0
X = [np.ones((2, 3), np.float32)] * 2


class Runs(list[tuple[int, ...]]):
    """The shape of the first input of each run of an ONNX session; `one` is set at the end of each."""

    def __init__(self) -> None:
        self.one = threading.Event()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    seen, run = Runs(), OnnxRuntimeSession.run

    def record(
        session: OnnxRuntimeSession, inputs: tuple[Any, ...], names: Any = None, stop: Stop | None = None
    ) -> list[Any]:
        try:
            return run(session, inputs, names, stop)
        finally:
            seen.append(inputs[0].shape)
            seen.one.set()

    monkeypatch.setattr(OnnxRuntimeSession, "run", record)
    return seen


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[hr.Engine, Gate]]:
    """An engine whose only core is taken until the gate is opened; whoever compiles a model does not wait for it."""
    gate = Gate()
    monkeypatch.setattr(hr.Engine, "rehearse", lambda *_: False)
    with hr.Engine(topology=made_up(1)) as engine:
        engine.push(gate)
        gate.wait()
        yield engine, gate
        gate.open()


def test_it_is_done_when_the_cores_are_free_and_people_are_told(
    busy: tuple[hr.Engine, Gate], sum_and_difference: bytes, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    engine, gate = busy
    with caplog.at_level(logging.INFO, "headrace.model"):
        model = hr.compile_model(sum_and_difference, engine=engine, name="m")
    assert [record.getMessage() for record in caplog.records] == [
        "m: its cores are busy; it is warmed up when they are free, if no request comes first"
    ]
    assert runs == []
    assert "m warms up" in engine.dump_state()
    gate.open()
    assert runs.one.wait(PATIENCE)
    model.close()
    assert runs == [(1, 3)]
    assert not [thread for thread in threading.enumerate() if "warms up" in thread.name]
    assert "m warms up" not in engine.dump_state()


def test_a_request_that_came_meanwhile_is_the_first_run(
    busy: tuple[hr.Engine, Gate], sum_and_difference: bytes, runs: Runs
) -> None:
    engine, gate = busy
    with hr.compile_model(sum_and_difference, engine=engine) as model:
        future = model.submit(X)
        gate.open()
        assert len(future.result(PATIENCE)) == 2
    assert runs == [(2, 3)]


def test_a_model_that_is_closed_before_is_not_warmed_up(
    busy: tuple[hr.Engine, Gate], sum_and_difference: bytes, runs: Runs
) -> None:
    engine, gate = busy
    hr.compile_model(sum_and_difference, engine=engine).close()
    gate.open()
    hr.waitall()
    assert engine.push(lambda: 1).result(PATIENCE) == 1  # whoever stood in line before this has had its turn
    assert runs == []


def test_an_engine_that_is_closed_before_does_not_wait_for_it(sum_and_difference: bytes, runs: Runs) -> None:
    gate = Gate()
    engine = hr.Engine(topology=made_up(1))

    def compile_here() -> hr.Model:
        model = hr.compile_model(sum_and_difference, engine=engine)
        engine.close(drain=False, timeout=PATIENCE)
        return model

    model = engine.push(compile_here).result(PATIENCE)
    gate.open()
    engine.close()
    model.close()
    assert runs == []


def test_a_model_that_is_compiled_on_a_stream_is_warmed_up_after_that(sum_and_difference: bytes, runs: Runs) -> None:
    with hr.Engine(topology=made_up(1)) as engine:

        def compile_here() -> tuple[hr.Model, int]:
            return hr.compile_model(sum_and_difference, engine=engine), len(runs)

        model, before = engine.push(compile_here).result(PATIENCE)
        assert before == 0  # it would have waited for itself
        assert runs.one.wait(PATIENCE)
        model.close()
    assert runs == [(1, 3)]


def test_a_session_that_streams_share_is_run_once(sum_and_difference: bytes, runs: Runs) -> None:
    with hr.Engine(topology=made_up(2)) as engine:
        model = engine.push(lambda: hr.compile_model(sum_and_difference, engine=engine, scheduler="multi")).result(
            PATIENCE
        )
        assert runs.one.wait(PATIENCE)
        model.close()
    assert runs == [(1, 3)]
