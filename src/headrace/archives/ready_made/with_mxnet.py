"""MXNet: a symbol and its parameters, as Gluon's `export` and Module's `save_checkpoint` write them.

What a network is given and how large it is stands in `signature.json`, where the archive has one, as Multi Model Server
wrote it: {"inputs": [{"data_name": "data", "data_shape": [0, 3, 224, 224]}]}.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import mxnet
import numpy as np

neighbours: Any = None
_PARAMETERS = re.compile(r"-(\d{4})\.params\Z")


class Model:
    def __init__(self, symbol: Any, arguments: Any, auxiliary: Any, inputs: list[Any], context: Any) -> None:
        self.inputs, self.outputs = inputs, list(symbol.list_outputs())
        names = [spec.name for spec in inputs]
        known = {*names, *arguments, *auxiliary}
        labels = [name for name in symbol.list_inputs() if name not in known]  # of losses; nobody has them
        self.symbol, self.parameters, self.context = symbol, (arguments, auxiliary), context
        self.names, self.labels = names, labels
        self.module: Any = None  # made for the first shapes that come; other shapes share its memory

    def run(self, inputs: dict[str, Any]) -> list[Any]:
        arrays = [inputs[name] for name in self.names]
        shapes = [(name, array.shape) for name, array in zip(self.names, arrays)]
        labels = self.label_shapes(shapes)
        module, self.module = self.module or self.bound(shapes, labels), None
        data = [mxnet.nd.array(array, ctx=self.context, dtype=array.dtype) for array in arrays]
        nothing = [mxnet.nd.zeros(shape, ctx=self.context) for _, shape in labels]
        module.forward(mxnet.io.DataBatch(data=data, label=nothing), is_train=False)
        outputs = [output.asnumpy() for output in module.get_outputs()]
        self.module = module  # not one that has failed: it may be half of one shape, half of another
        return outputs

    def label_shapes(self, shapes: list[Any]) -> list[Any]:
        if not self.labels:
            return []
        found, _, _ = self.symbol.infer_shape(**dict(shapes))
        by_name = dict(zip(self.symbol.list_arguments(), found))
        return [(name, by_name[name]) for name in self.labels]

    def bound(self, shapes: list[Any], labels: list[Any]) -> Any:
        module = mxnet.mod.Module(
            self.symbol, data_names=self.names, label_names=self.labels or None, context=self.context
        )
        module.bind(for_training=False, data_shapes=shapes, label_shapes=labels or None)
        module.set_params(*self.parameters)
        return module


def open_model(files: Any, context: Any) -> Model:
    symbol_file, parameters_file = _pair(files.folder, files.model)
    symbol = mxnet.sym.load(os.path.join(files.folder, symbol_file))
    arguments: dict[str, Any] = {}
    auxiliary: dict[str, Any] = {}
    for name, value in mxnet.nd.load(os.path.join(files.folder, parameters_file)).items():
        kind, _, short = name.partition(":")
        (auxiliary if kind == "aux" else arguments)[short or name] = value
    gpu = context.system_properties.get("gpu_id")
    device = mxnet.gpu(int(gpu)) if gpu is not None and mxnet.context.num_gpus() else mxnet.cpu()
    return Model(symbol, arguments, auxiliary, _inputs(files.folder, symbol, arguments, auxiliary), device)


def _pair(folder: str, name: str) -> tuple[str, str]:
    """The symbol's file and the parameters', of which the last epoch is taken."""
    prefix = _PARAMETERS.sub("", name)[: -len("-symbol.json") if name.endswith("-symbol.json") else None]
    symbol = prefix + "-symbol.json"
    epochs = sorted(
        one for one in os.listdir(folder) if one.startswith(prefix + "-") and _PARAMETERS.search(one[len(prefix) :])
    )
    if not os.path.isfile(os.path.join(folder, symbol)) or not epochs:
        raise ValueError(f"an MXNet model is {symbol} and {prefix}-0000.params; one of them is not in the archive")
    return symbol, name if name in epochs else epochs[-1]


def _inputs(folder: str, symbol: Any, arguments: Any, auxiliary: Any) -> list[Any]:
    Spec = neighbours.load("arrays").Spec
    path = os.path.join(folder, "signature.json")
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            said = json.load(file)
        try:
            return [
                Spec(
                    str(one["data_name"]),
                    np.dtype(np.float32),
                    (None, *(size or None for size in one["data_shape"][1:])),
                )
                for one in said.get("inputs") or said["input"]
            ]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"signature.json has inputs, each with data_name and data_shape: {error!r} missing"
            ) from error
    known = {*arguments, *auxiliary}
    free = [name for name in symbol.list_inputs() if name not in known]
    data = [name for name in free if not name.endswith("label")] or free
    return [Spec(name, np.dtype(np.float32)) for name in data]
