"""ONNX models for the tests of workers."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

SIDE = 512


def model(
    nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], weights: dict[str, Any] | None = None
) -> bytes:
    """`inputs`, `outputs`: a shape (float32), or an element type and a shape."""

    def info(name: str, about: Any) -> Any:
        kind, shape = about if isinstance(about, tuple) else (TensorProto.FLOAT, about)
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes,
        "made",
        [info(*each) for each in inputs.items()],
        [info(*each) for each in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialized: bytes = made.SerializeToString()
    return serialized


def two_in_two_out() -> bytes:
    """`sum` = a + b, `product` = a * b."""
    return model(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Mul", ["a", "b"], ["product"])],
        {"a": ["n", 3], "b": ["n", 3]},
        {"sum": ["n", 3], "product": ["n", 3]},
    )


def mixing() -> bytes:
    """Calls its leading dimension free, and mixes rows."""
    return model([helper.make_node("Softmax", ["x"], ["y"], axis=0)], {"x": ["n", 3]}, {"y": ["n", 3]})


def fixed() -> bytes:
    return model([helper.make_node("Relu", ["x"], ["y"])], {"x": [2, 3]}, {"y": [2, 3]})


def large(layers: int = 8) -> bytes:
    """Matrix products: `layers` MiB of weights."""
    rng = np.random.default_rng(0)
    names = ["x", *(f"h{i}" for i in range(1, layers)), "y"]
    return model(
        [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(layers)],
        {"x": ["n", SIDE]},
        {"y": ["n", SIDE]},
        {f"w{i}": rng.standard_normal((SIDE, SIDE), np.float32) / SIDE**0.5 for i in range(layers)},
    )


def looping() -> bytes:
    """`y` is `x` after max(`turns`) turns."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "identity"], ["after"]),
            helper.make_node("Identity", ["on"], ["still_on"]),
        ],
        "turn",
        [
            info("i", TensorProto.INT64, []),
            info("on", TensorProto.BOOL, []),
            info("before", TensorProto.FLOAT, None),
        ],
        [info("still_on", TensorProto.BOOL, []), info("after", TensorProto.FLOAT, None)],
    )
    return model(
        [
            helper.make_node("ReduceMax", ["turns"], ["most"], keepdims=0),
            helper.make_node("Loop", ["most", "", "x"], ["y"], body=body),
        ],
        {"x": ["n", 8], "turns": (TensorProto.INT64, ["n"])},
        {"y": ["n", 8]},
        {"identity": np.eye(8, dtype=np.float32)},
    )


def text() -> bytes:
    return model(
        [helper.make_node("Identity", ["x"], ["y"])],
        {"x": (TensorProto.STRING, ["n"])},
        {"y": (TensorProto.STRING, ["n"])},
    )


def gather() -> bytes:
    """Fails where an index is out of bounds."""
    return model(
        [helper.make_node("Gather", ["table", "i"], ["y"])],
        {"i": (TensorProto.INT64, ["n"])},
        {"y": ["n", 2]},
        {"table": np.arange(8, dtype=np.float32).reshape(4, 2)},
    )
