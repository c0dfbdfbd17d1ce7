"""What the tests of this room share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import headrace

PATIENCE = 30
TELLS = """
import json, sys
import numpy
def handle(data, context):
    if data is None:
        return
    try:
        import six
    except ImportError:
        six = None
    about = {"prefix": sys.prefix, "numpy": numpy.__version__, "six": six and six.__version__,
             "batch_size": context.system_properties["batch_size"]}
    return [json.dumps(about)] * len(data)
"""
"""A handler that says where it runs."""


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
def archive(tmp_path: Path) -> Callable[..., Path]:
    """Make an archive, the folder `m`."""

    def make(source: str = TELLS, requirements: str | None = None, yaml: str | None = None, **model: str) -> Path:
        folder = tmp_path / "m"
        (folder / "MAR-INF").mkdir(parents=True)
        model = {"modelName": "m", "modelVersion": "1.0", "handler": "service.py", **model}
        (folder / "service.py").write_text(source)
        for key, name, text in (
            ("requirementsFile", "requirements.txt", requirements),
            ("configFile", "model-config.yaml", yaml),
        ):
            if text is not None:
                (folder / name).write_text(text)
                model[key] = name
        (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"runtime": "python", "model": model}))
        return folder

    return make


@pytest.fixture
def add_one() -> Callable[..., None]:
    """Write an ONNX file that adds 1 to each of two columns."""
    return add_one_


@pytest.fixture
def add_two() -> Callable[..., None]:
    """As `add_one`, and 2."""
    return partial(add_one_, what=2.0)


@pytest.fixture
def digits() -> Path:
    return Path(headrace.__file__).parent / "bundled/digits/digits.onnx"


def add_one_(path: Path, rows: int | str = "n", what: float = 1.0) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 2])
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [what])
    graph = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "g", [x], [y], [one])
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
