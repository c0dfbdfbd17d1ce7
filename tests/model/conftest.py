"""Small ONNX graphs, as bytes; the bundled model; an engine of one core."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

import headrace
from headrace.engine.topology import made_up

Graph = Callable[..., bytes]


def made(nodes: Sequence[Any], inputs: dict[str, Any], outputs: dict[str, Any], weights: Sequence[Any] = ()) -> bytes:
    """`inputs` and `outputs`: a shape by name (float32), or (ONNX element type, shape)."""

    def tensor(name: str, what: Any) -> Any:
        kind, shape = what if isinstance(what, tuple) else (TensorProto.FLOAT, what)
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        [helper.make_node(kind, takes, gives, **attributes) for kind, takes, gives, attributes in nodes],
        "made",
        [tensor(*one) for one in inputs.items()],
        [tensor(*one) for one in outputs.items()],
        list(weights),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


@pytest.fixture(scope="session")
def graph() -> Graph:
    return made


@pytest.fixture(scope="session")
def sum_and_difference() -> bytes:
    """Two inputs [any, 3], two outputs: `sum` and `difference`."""
    nodes = [("Add", ["a", "b"], ["sum"], {}), ("Sub", ["a", "b"], ["difference"], {})]
    return made(nodes, {"a": ["n", 3], "b": ["n", 3]}, {"sum": ["n", 3], "difference": ["n", 3]})


@pytest.fixture(scope="session")
def digits() -> Path:
    return Path(headrace.__file__).parent / "bundled/digits/digits.onnx"


@pytest.fixture
def engine() -> Iterator[headrace.Engine]:
    """One core: requests run one after the other."""
    engine = headrace.Engine(topology=made_up(1))
    yield engine
    engine.close(timeout=30.0)  # so that a test that fails with something inside does not hang
