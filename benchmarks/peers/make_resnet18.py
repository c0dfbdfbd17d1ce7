"""Write ResNet-18 as ONNX: random weights, batch norm folded, dynamic batch. Needs only onnx and NumPy.

    python benchmarks/peers/make_resnet18.py OUT [SIZE]

Input x: float32 [n, 3, SIZE, SIZE] (128 if not said). Output y: float32 [n, 1000]. The same file every time.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Network:
    """Nodes and weights so far. Each method adds a layer after `x` and returns the name of its output."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        output = output or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def weight(self, *shape: int, scale: float) -> str:
        name = f"w{len(self.weights)}"
        values = self.rng.normal(0, scale, shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> str:
        return self.node(
            "Conv",
            x,
            self.weight(outputs, inputs, kernel, kernel, scale=(2 / (inputs * kernel * kernel)) ** 0.5),
            self.weight(outputs, scale=0.01),
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[kernel // 2] * 4,
        )

    def block(self, x: str, inputs: int, outputs: int, *, stride: int) -> str:
        within = self.node("Relu", self.conv(x, inputs, outputs, 3, stride=stride))
        within = self.conv(within, outputs, outputs, 3)
        past = x if stride == 1 and inputs == outputs else self.conv(x, inputs, outputs, 1, stride=stride)
        return self.node("Relu", self.node("Add", within, past))


def resnet18(size: int) -> onnx.ModelProto:
    net = Network()
    x = net.node("Relu", net.conv("x", 3, 64, 7, stride=2))
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        x = net.block(x, channels, outputs, stride=stride)
        x = net.block(x, outputs, outputs, stride=1)
        channels = outputs
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    net.node("Gemm", x, net.weight(1000, 512, scale=0.05), net.weight(1000, scale=0.0), output="y", transB=1)
    graph = helper.make_graph(
        net.nodes,
        "resnet18",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1000])],
        net.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    onnx.save(resnet18(int(sys.argv[2]) if len(sys.argv) > 2 else 128), sys.argv[1])
