"""What `compile_model` takes, and what it makes of it."""

import functools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import headrace as hr
from headrace.engine.topology import made_up


def double(x: Any) -> Any:
    return x * 2


def test_a_closed_engine_takes_no_models() -> None:
    engine = hr.Engine(topology=made_up(1))
    engine.close()
    with pytest.raises(hr.Closed):
        hr.compile_model(double, engine=engine)


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ({}, [4]),
        ({"num_cores": 3}, [3]),
        ({"scheduler": "single_stream"}, [4]),
        ({"scheduler": "sync"}, [4]),
        ({"scheduler": "multi_stream"}, [1, 1, 1, 1]),
        ({"scheduler": hr.Scheduler.multi_stream, "num_streams": 2}, [2, 2]),
        ({"scheduler": "multi_stream", "num_cores": 3, "num_streams": 2}, [2, 1]),
        ({"scheduler": "ASYNC", "num_streams": 1}, [4]),
        ({"scheduler": "elastic"}, [2, 2]),
        ({"scheduler": "elastic", "num_cores": 3}, [2, 1]),
        ({"scheduler": hr.Scheduler.elastic, "num_streams": 1}, [2]),
        ({"scheduler": "naive"}, []),
    ],
)
def test_a_scheduler_says_how_many_streams_there_are_and_how_wide(options: dict[str, Any], widths: list[int]) -> None:
    with (
        hr.Engine(topology=made_up(4, nodes=2)) as engine,
        hr.compile_model(double, engine=engine, **options) as model,
    ):
        assert [placement.width for placement in model.placements] == widths
        assert model.statistics().streams == max(1, len(widths))
        assert engine.statistics().streams == len(widths)
        assert model([3]) == 6


def test_a_model_without_an_engine_of_its_own_uses_the_processs() -> None:
    with hr.compile_model(double) as model:
        assert model.engine is hr.default_engine()
        assert model(2) == 4


@pytest.mark.parametrize(
    ("given", "options", "name"),
    [
        (double, {}, "double"),
        (double, {"name": "twice"}, "twice"),
        (functools.partial(double), {}, "partial"),
        (None, {"backend": "null"}, "null"),
    ],
)
def test_a_model_has_a_name(given: Any, options: dict[str, Any], name: str) -> None:
    with hr.compile_model(given, scheduler="naive", **options) as model:
        assert model.name == name
        assert f"<Model {name} on {model.backend}, naive, 1 stream: anything>" == repr(model)
    assert repr(model).endswith(" closed>")


def test_a_model_says_what_it_takes_and_gives(digits: Path, sum_and_difference: bytes) -> None:
    with hr.compile_model(sum_and_difference, scheduler="naive", max_batch_size=4, max_batch_delay=0.5) as model:
        assert [str(spec) for spec in model.inputs or ()] == ["a: float32 [any, 3]", "b: float32 [any, 3]"]
        assert [spec.name for spec in model.outputs or ()] == ["sum", "difference"]
        assert (model.max_batch_size, model.max_batch_delay) == (4, 0.5)
        assert "a: float32 [any, 3]; b: float32 [any, 3]" in repr(model)
    with hr.compile_model(digits, scheduler="naive") as model:
        assert (model.name, model.backend, model.platform) == ("digits", "onnxruntime", "onnxruntime_onnx")


def test_shapes_are_fixed_in_the_forms_deepsparse_has(sum_and_difference: bytes) -> None:
    row = np.zeros((1, 3), np.float32)
    for options in (
        {"batch_size": 1},
        {"input_shapes": [[1, 3], [1, 3]]},
        {"input_shapes": {"a": [1, 3], "b": [1, 3]}},
    ):
        with hr.compile_model(sum_and_difference, scheduler="naive", **options) as model:
            assert len(model([row, row])) == 2
            with pytest.raises(hr.InvalidInput, match=r"input 'a' takes float32 \[1, 3\]"):
                model([np.zeros((2, 3), np.float32)] * 2)


@pytest.mark.parametrize("scheduler", ["single_stream", "multi_stream", "elastic", "naive"])
@pytest.mark.parametrize("max_batch_size", [1, 8])
def test_every_scheduler_agrees_with_bare_onnx_runtime(scheduler: str, max_batch_size: int, digits: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    bare = onnxruntime.InferenceSession(digits, options, providers=["CPUExecutionProvider"])
    (spec,) = bare.get_inputs()
    rng = np.random.default_rng(7)
    xs = [rng.random((rows, *spec.shape[1:]), np.float32) for rows in (1, 2, 1, 5, 9)]
    expected = [bare.run(None, {spec.name: x}) for x in xs]
    with (
        hr.Engine(topology=made_up(2, nodes=2)) as engine,
        hr.compile_model(digits, scheduler=scheduler, engine=engine, max_batch_size=max_batch_size) as model,
    ):
        for x, wanted in zip(xs, expected):
            answer = model([x])
            assert len(answer) == len(wanted)
            for output, right in zip(answer, wanted):
                np.testing.assert_allclose(output, right, rtol=0, atol=1e-6)
                assert output.dtype == right.dtype
        for x, answer, wanted in zip(xs, model.map(([x] for x in xs), window=5), expected):
            assert len(x) == len(answer[0])
            np.testing.assert_allclose(answer[0], wanted[0], rtol=0, atol=1e-6)


def test_streams_of_width_one_agree_with_bare_onnx_runtime_bit_for_bit(digits: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    bare = onnxruntime.InferenceSession(digits, options, providers=["CPUExecutionProvider"])
    (spec,) = bare.get_inputs()
    x = np.random.default_rng(3).random((4, *spec.shape[1:]), np.float32)
    for scheduler in ("multi_stream", "naive"):
        with (
            hr.Engine(topology=made_up(2)) as engine,
            hr.compile_model(digits, scheduler=scheduler, engine=engine) as model,
        ):
            for output, right in zip(model([x]), bare.run(None, {spec.name: x})):
                np.testing.assert_array_equal(output, right, strict=True)


def test_the_naive_scheduler_runs_in_the_caller() -> None:
    with hr.compile_model(threading.get_ident, scheduler="naive") as model:
        assert model([]) == threading.get_ident()
        assert model.engine is None
        assert model.submit([]).can_read()


def test_a_naive_model_may_call_itself() -> None:
    with hr.compile_model(lambda n: 1 if n < 2 else n * model(n - 1), scheduler="naive", name="factorial") as model:
        assert model(10) == 3628800
