"""What the tests of this room share."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

PATIENCE = 30


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Wait until something is so; or fail."""

    def until(so: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not so():
            assert time.monotonic() < end, "it did not come to that"
            time.sleep(0.001)

    return until


@pytest.fixture
def add_one() -> Callable[..., None]:
    """Write an ONNX file that adds 1 to each of two columns."""

    def add_one(path: Path, rows: int | str = "n") -> None:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 2])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 2])
        one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
        graph = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "g", [x], [y], [one])
        onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)

    return add_one
