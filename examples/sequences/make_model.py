"""A small sequence-to-sequence model with attention and random weights, as ONNX: make_model.py OUT

An encoder GRU reads [length, 1, WIDTH] float32, a decoder GRU writes as many steps, and between them each step attends
to each other: the time grows with the length, and the attention with its square. So a long sequence that comes first
ends long after a short one that comes second, as in translation or speech.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 64


def make_model() -> bytes:
    rng = np.random.default_rng(0)
    nodes: list[Any] = []
    weights: list[Any] = []

    def weight(name: str, *shape: int) -> str:
        weights.append(numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), name))
        return name

    def gru(x: str, y: str) -> None:
        inputs = [x, weight(f"{y}_w", 1, 3 * WIDTH, WIDTH), weight(f"{y}_r", 1, 3 * WIDTH, WIDTH)]
        nodes.append(helper.make_node("GRU", inputs, [f"{y}_4d"], hidden_size=WIDTH))
        # [length, directions=1, batch=1, WIDTH] -> [length, 1, WIDTH]
        nodes.append(helper.make_node("Squeeze", [f"{y}_4d", "one"], [y]))

    weights.append(numpy_helper.from_array(np.array([1]), "one"))
    gru("sequence", "encoded")
    nodes.append(helper.make_node("Squeeze", ["encoded", "one"], ["states"]))  # [length, WIDTH]
    nodes.append(helper.make_node("Transpose", ["states"], ["keys"]))
    nodes.append(helper.make_node("MatMul", ["states", "keys"], ["scores"]))  # [length, length]
    nodes.append(helper.make_node("Softmax", ["scores"], ["attention"], axis=1))
    nodes.append(helper.make_node("MatMul", ["attention", "states"], ["context"]))
    nodes.append(helper.make_node("Unsqueeze", ["context", "one"], ["attended"]))
    gru("attended", "translated")
    shape = ["length", 1, WIDTH]
    graph = helper.make_graph(
        nodes,
        "sequence_to_sequence",
        [helper.make_tensor_value_info("sequence", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("translated", TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as file:
        file.write(make_model())
