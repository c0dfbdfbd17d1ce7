"""A model whose requests may be joined, and those whose may not, are told apart when they are loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

import headrace as hr
from headrace.model.agreement import disagreement
from headrace.model.compile import SERVED_BATCH_SIZE
from headrace.tensor import Array, TensorSpec

FREE = ["n", 4]
AGREES = "a batch and its members run alone agree"


def chosen(model: Any, **options: Any) -> tuple[int, str]:
    with hr.compile_model(model, scheduler="naive", **{"max_batch_size": None, **options}) as compiled:
        return compiled.max_batch_size, compiled.batching


def test_a_model_whose_rows_keep_to_themselves_is_batched(digits: Path, sum_and_difference: bytes) -> None:
    assert chosen(digits) == (SERVED_BATCH_SIZE, AGREES)
    assert chosen(sum_and_difference) == (SERVED_BATCH_SIZE, AGREES)


@pytest.mark.parametrize(
    "nodes",
    [
        [("ReduceMean", ["x"], ["mean"], {"axes": [0]}), ("Sub", ["x", "mean"], ["y"], {})],
        [("Softmax", ["x"], ["y"], {"axis": 0})],
        [("ReduceMax", ["x"], ["top"], {"axes": [0]}), ("Div", ["x", "top"], ["y"], {})],
        [("CumSum", ["x", "zero"], ["y"], {})],
    ],
    ids=["batch mean", "softmax over rows", "batch maximum", "running sum"],
)
def test_a_model_that_mixes_rows_is_not_batched(graph: Callable[..., bytes], nodes: list[Any]) -> None:
    zero = numpy_helper.from_array(np.array(0, np.int64), "zero")
    size, reason = chosen(graph(nodes, {"x": FREE}, {"y": FREE}, [zero]))
    assert size == 1
    assert reason.startswith("output 0 differs by up to ")
    assert reason.endswith(" between alone and in a batch")


def test_a_model_with_more_rows_of_output_than_of_input_is_not_batched(graph: Callable[..., bytes]) -> None:
    nodes = [("NonZero", ["x"], ["found"], {}), ("Transpose", ["found"], ["y"], {})]
    model = graph(nodes, {"x": FREE}, {"y": (TensorProto.INT64, ["m", 2])})
    assert chosen(model) == (1, "a batch of 3 rows came back with output 0 of shape [12, 2]")


def test_a_model_that_mixes_whole_numbers_is_not_batched(graph: Callable[..., bytes]) -> None:
    zero = numpy_helper.from_array(np.array(0, np.int64), "zero")
    whole = (TensorProto.INT64, ["n", 4])
    model = graph([("CumSum", ["x", "zero"], ["y"], {})], {"x": whole}, {"y": whole}, [zero])
    assert chosen(model) == (1, "output 0 is not the same alone and in a batch")


@pytest.mark.parametrize("side", ["input", "output"])
def test_a_fixed_leading_dimension_is_not_batched(graph: Callable[..., bytes], side: str) -> None:
    if side == "input":
        model = graph([("Identity", ["x"], ["y"], {})], {"x": [2, 4]}, {"y": [2, 4]})
        reason = "the leading dimension is not free: x: float32 [2, 4]"
    else:
        model = graph([("ReduceSum", ["x"], ["y"], {"keepdims": 0})], {"x": FREE}, {"y": []})
        reason = "the leading dimension is not free: y: float32 []"
    assert chosen(model) == (1, reason)
    assert chosen(model, max_batch_size=1) == (1, "as asked")
    with pytest.raises(
        hr.InvalidOption, match=r"max_batch_size=2, but requests to this model cannot be joined: the le"
    ):
        chosen(model, max_batch_size=2)


def test_a_dimension_that_an_option_fixes_is_fixed(sum_and_difference: bytes) -> None:
    expected = (1, "the leading dimension is not free: a: float32 [1, 3]")
    assert chosen(sum_and_difference, batch_size=1) == expected
    assert chosen(sum_and_difference, input_shapes=[[1, 3]]) == expected
    with pytest.raises(hr.InvalidOption, match="cannot be joined"):
        chosen(sum_and_difference, batch_size=1, max_batch_size=8)


def test_a_model_without_inputs_has_nothing_to_join(graph: Callable[..., bytes]) -> None:
    nodes = [
        ("RandomUniform", [], ["r"], {"shape": [20], "seed": 1.0}),
        ("Cast", ["r"], ["whole"], {"to": TensorProto.BOOL}),
        ("NonZero", ["whole"], ["found"], {}),
        ("Transpose", ["found"], ["y"], {}),
    ]
    model = graph(nodes, {}, {"y": (TensorProto.INT64, ["n", 1])})
    assert chosen(model) == (1, "it has no inputs")
    with pytest.raises(hr.InvalidOption, match="it has no inputs"):
        chosen(model, max_batch_size=2)


def test_what_cannot_be_tried_is_not_batched(graph: Callable[..., bytes]) -> None:
    """Free dimensions that must fit each other: 8 is tried for all of them, and this one needs a square of another."""
    shape = numpy_helper.from_array(np.array([0, 5, -1], np.int64), "shape")
    model = graph([("Reshape", ["x", "shape"], ["y"], {})], {"x": ["n", "m"]}, {"y": ["n", 5, "k"]}, [shape])
    size, reason = chosen(model)
    assert size == 1
    assert reason.startswith("it could not be tried with made-up inputs: ")


def test_who_asks_for_a_size_gets_it_or_an_error(graph: Callable[..., bytes], caplog: pytest.LogCaptureFixture) -> None:
    mixes = graph([("Softmax", ["x"], ["y"], {"axis": 0})], {"x": FREE}, {"y": FREE})
    assert chosen(mixes, max_batch_size=7) == (7, "as asked")
    assert "output 0 differs" in caplog.text  # what is asked for is done, and not in silence


def test_a_callable_is_batched_only_when_it_is_asked_for() -> None:
    assert chosen(len) == (1, "a callable is batched when it is asked for")
    assert chosen(len, max_batch_size=4) == (4, "as asked")


# ---- the comparison itself


class Scripted:
    def __init__(self, *answers: list[Any]) -> None:
        self.answers = list(answers)

    def run(self, inputs: tuple[Array, ...], names: tuple[str, ...] | None = None) -> list[Array]:
        return [np.asarray(output) for output in self.answers.pop(0)]

    def close(self) -> None:
        pass


SPEC = TensorSpec("x", np.dtype(np.float32), (None, 2))


def verdict(alone: Any, together: Any, dtype: Any = np.float64) -> str | None:
    one = [np.asarray(alone, dtype)]
    return disagreement(Scripted(one, one, one, [np.asarray(together, dtype)]), [SPEC])


def test_sums_in_another_order_and_nan_agree() -> None:
    assert verdict([1.0], [1.0, 1.0 + 1e-5, 1.0]) is None
    assert verdict([np.nan], [np.nan] * 3) is None
    assert verdict([np.inf], [np.inf] * 3) is None
    assert verdict(np.zeros((1, 0)), np.zeros((3, 0))) is None
    assert verdict(["a"], ["a"] * 3, object) is None


def test_what_is_off_by_more_does_not() -> None:
    assert verdict([1.0], [1.0, 1.01, 1.0]) == "output 0 differs by up to 0.01 between alone and in a batch"
    assert "differs by up to inf" in str(verdict([np.inf], [np.inf, 1.0, np.inf]))
    assert "differs by up to nan" in str(verdict([[np.inf, np.inf]], [[np.inf, 0.0]] * 3))
    assert verdict(["a"], ["a", "b", "a"], object) == "output 0 is not the same alone and in a batch"
    assert verdict([1], [1, 1, 2], np.int64) == "output 0 is not the same alone and in a batch"


def test_the_shape_of_a_row_must_not_depend_on_its_company() -> None:
    said = verdict(np.zeros((1, 5)), np.zeros((3, 4)))
    assert said == "output 0 of one row is [1, 5] alone and [1, 4] in a batch"


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", "float64", "object"])
def test_made_up_inputs_are_what_the_model_takes(dtype: str) -> None:
    seen: list[Array] = []

    class Looking(Scripted):
        def run(self, inputs: tuple[Array, ...], names: tuple[str, ...] | None = None) -> list[Array]:
            seen.append(inputs[0])
            return list(inputs)

    spec = TensorSpec("x", np.dtype(dtype), (None, None, 3))
    assert disagreement(Looking(), [spec]) is None
    assert [array.shape for array in seen] == [(1, 8, 3)] * 3 + [(3, 8, 3)]
    assert all(spec.takes(array) for array in seen)
