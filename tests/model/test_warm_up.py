"""The first runs of a tensor model are made at load."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

import headrace as hr
from headrace.backends._onnxruntime import OnnxRuntimeSession
from headrace.backends.base import Stop
from headrace.engine.topology import made_up as made_up_machine
from headrace.model import warm_up as module
from headrace.model.gil import Gil
from headrace.model.probe import can_look
from headrace.model.warm_up import LARGEST, WarmUp, made_up
from headrace.tensor import TensorSpec
from headrace.testing import Gate

Graph = Callable[..., bytes]


class Runs(list[tuple[int, tuple[Any, ...]]]):
    """Each run of any ONNX session: on which thread, and with what."""

    def shapes(self) -> set[tuple[tuple[int, ...], ...]]:
        return {tuple(x.shape for x in inputs) for _, inputs in self}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    seen, run = Runs(), OnnxRuntimeSession.run

    def record(
        session: OnnxRuntimeSession, inputs: tuple[Any, ...], names: Any = None, stop: Stop | None = None
    ) -> list[Any]:
        seen.append((threading.get_ident(), inputs))
        return run(session, inputs, names, stop)

    monkeypatch.setattr(OnnxRuntimeSession, "run", record)
    return seen


@pytest.fixture
def engine() -> Iterator[hr.Engine]:
    with hr.Engine(topology=made_up_machine(2)) as engine:
        yield engine


@pytest.mark.parametrize(
    ("scheduler", "streams"), [("single_stream", 1), ("multi_stream", 2)], ids=["single_stream", "multi_stream"]
)
def test_each_stream_has_run_the_model_on_its_own_thread(
    scheduler: str, streams: int, sum_and_difference: bytes, engine: hr.Engine, runs: Runs
) -> None:
    with hr.compile_model(sum_and_difference, engine=engine, scheduler=scheduler) as model:
        assert model._port is not None
        assert {thread for thread, _ in runs} >= {stream.thread for stream in model._port.streams}
        assert len(runs) >= streams
        assert model.statistics() == replace(model.statistics(), submitted=0, runs=0, rows=0, run_seconds=0.0)
        assert len(model([np.ones((2, 3), np.float32)] * 2)) == 2


def test_naive_has_run_it_in_the_caller(sum_and_difference: bytes, runs: Runs) -> None:
    with hr.compile_model(sum_and_difference, scheduler="naive"):
        assert {thread for thread, _ in runs} == {threading.get_ident()}


def test_without_warm_up_nothing_is_run(sum_and_difference: bytes, engine: hr.Engine, runs: Runs) -> None:
    with hr.compile_model(sum_and_difference, engine=engine, warm_up=False) as model:
        assert runs == []
        assert model.gil is None
        model([np.ones((2, 3), np.float32)] * 2)
        assert len(runs) == 1


@pytest.mark.parametrize(
    ("options", "shape"),
    [({}, (1, 3)), ({"batch_size": 4}, (4, 3)), ({"input_shapes": {"a": [7, 3], "b": [7, 3]}}, (7, 3))],
)
def test_the_shapes_are_those_that_are_known_and_1_where_none_is(
    options: dict[str, Any], shape: tuple[int, ...], sum_and_difference: bytes, engine: hr.Engine, runs: Runs
) -> None:
    with hr.compile_model(sum_and_difference, engine=engine, **options):
        assert runs.shapes() == {(shape, shape)}


def test_a_model_that_does_not_take_what_is_made_up_is_loaded_all_the_same(graph: Graph, engine: hr.Engine) -> None:
    pair = graph([("Reshape", ["x", "shape"], ["y"], {})], {"x": ["n"], "shape": (TensorProto.INT64, [2])}, {"y": None})
    with hr.compile_model(pair, engine=engine) as model:
        (answer,) = model([np.arange(6, dtype=np.float32), np.array([2, 3])])
        assert answer.shape == (2, 3)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("float32", 0.5), ("float16", 0.5), ("int64", 0), ("uint8", 0), ("bool", False), ("object", "")],
)
def test_what_is_made_up_has_the_kind_the_model_wants(dtype: str, value: object) -> None:
    (array,) = made_up([TensorSpec("x", np.dtype(dtype), (None, 2, None))]) or ()
    assert array.dtype == np.dtype(dtype)
    assert array.tolist() == [[[value], [value]]]


def test_inputs_that_would_not_fit_are_not_made_up() -> None:
    assert made_up([TensorSpec("x", np.dtype(np.float32), (LARGEST // 4, None))]) is not None
    assert made_up([TensorSpec("x", np.dtype(np.float32), (LARGEST // 4 + 1, 1))]) is None
    assert made_up([TensorSpec("x", np.dtype(np.float32), (1 << 40, 1 << 40))]) is None
    assert made_up([]) == ()


ENDLESS = 1 << 60


class Sleeper:
    """A session whose runs end when they are told to stop."""

    stoppable = True

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.runs = 0

    def run(self, inputs: Sequence[Any], names: Any = None, stop: Stop | None = None) -> list[Any]:
        self.runs += 1
        assert stop is not None
        stop.handle = self.stopped
        assert self.stopped.wait(30)
        raise RuntimeError("stopped")

    @staticmethod
    def stop(handle: threading.Event) -> None:
        handle.set()

    def close(self) -> None:
        pass


def test_a_run_that_takes_too_long_is_stopped_and_the_model_is_there(engine: hr.Engine) -> None:
    session = Sleeper()
    with hr.compile_model(None, backend="null", engine=engine, scheduler="multi_stream") as model:
        assert model._port is not None
        specs = [TensorSpec("x", np.dtype(np.float32), (1,))]
        assert module.warm_up([session] * 2, specs, engine, model._port, seconds=0.02) == WarmUp()
        assert session.stopped.is_set()
        assert session.runs == 1  # the other stream was not asked any more
        assert model(1) == 1


class Holding:
    """A session that holds the interpreter lock for `seconds` in each run, or lets go of it."""

    def __init__(self, holds: bool) -> None:
        import ctypes

        self.call = ctypes.PyDLL(None).usleep if holds else lambda us: time.sleep(us * 1e-6)

    def run(self, inputs: Sequence[Any], names: Any = None) -> list[Any]:
        self.call(20_000)
        return []

    def close(self) -> None:
        pass


@pytest.mark.skipif(not can_look(), reason="this interpreter has no lock to hold")
@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("naive", [True, False])
def test_a_runtime_that_holds_the_lock_is_found_at_load(holds: bool, naive: bool, engine: hr.Engine) -> None:
    session: Any = Holding(holds)
    with hr.compile_model(None, backend="null", engine=engine) as model:
        specs = [TensorSpec("x", np.dtype(np.float32), (1,))]
        gil = module.warm_up([session], specs, None if naive else engine, None if naive else model._port, 30.0).gil
        assert isinstance(gil, Gil)
        assert gil.holds is holds, gil


def test_ctrl_c_in_the_warm_up_leaves_no_model_behind(
    sum_and_difference: bytes, engine: hr.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("headrace.model.model.warm_up", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hr.compile_model(sum_and_difference, engine=engine)
    assert engine.statistics().ports == 0


X = [np.ones((2, 3), np.float32)] * 2


@pytest.mark.parametrize("scheduler", ["single_stream", "multi_stream", "elastic"])
def test_requests_that_are_inside_are_the_first_runs(
    scheduler: str, sum_and_difference: bytes, engine: hr.Engine, runs: Runs
) -> None:
    with hr.compile_model(sum_and_difference, engine=engine, scheduler=scheduler, warm_up=False) as model:
        gate = Gate()
        busy = [engine.push(gate) for _ in range(2)]
        gate.wait(2)
        inside = [model.submit(X) for _ in range(50)]
        model.warm_up()
        assert model._later is None
        gate.open()
        for each in (*inside, *busy):
            each.result(timeout=30)
        assert runs.shapes() == {((2, 3), (2, 3))}


def test_several_at_once_and_requests_meanwhile(sum_and_difference: bytes, engine: hr.Engine) -> None:
    with hr.compile_model(sum_and_difference, engine=engine, scheduler="multi_stream", warm_up=False) as model:
        for _ in range(10):
            threads = [threading.Thread(target=model.warm_up, daemon=True) for _ in range(3)]
            for thread in threads:
                thread.start()
            for _ in range(5):
                model.submit(X).result(timeout=30)
            for thread in threads:
                thread.join(30)
                assert not thread.is_alive()


@pytest.mark.parametrize("scheduler", ["single_stream", "naive"])
def test_a_closed_model_is_not_warmed_up(scheduler: str, sum_and_difference: bytes) -> None:
    model = hr.compile_model(sum_and_difference, scheduler=scheduler)
    model.close()
    with pytest.raises(hr.Closed):
        model.warm_up()
