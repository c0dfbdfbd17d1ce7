"""Services that run an MXNet or a Gluon network. They need mxnet in the worker's environment."""

from __future__ import annotations

import json
import os
from typing import Any

import mxnet as mx
from mms.model_service.model_service import SingleNodeService


def check_input_shape(inputs: Any, signature: Any) -> None:
    """ValueError, with what was expected. A 0 in the signature stands for any size, as the first dimension does."""
    specs = signature["inputs"]
    if not isinstance(inputs, list) or len(inputs) != len(specs):
        raise ValueError(f"{len(specs)} inputs were expected as a list, {len(inputs)} came")
    for array, spec in zip(inputs, specs):
        wanted = spec["data_shape"]
        fits = len(array.shape) == len(wanted) and all(
            not size or size == there for size, there in zip(wanted[1:], array.shape[1:])
        )
        if not fits:
            raise ValueError(f"input {spec['data_name']!r} has the shape {wanted}, {list(array.shape)} came")


class _Service(SingleNodeService):
    def __init__(self, model_name: Any, model_dir: Any, manifest: Any, gpu: Any = None) -> None:
        super().__init__(model_name, model_dir, manifest, gpu)
        self.model_name = model_name
        self.ctx = mx.cpu() if gpu is None else mx.gpu(int(gpu))
        self.param_filename = manifest["Model"].get("Parameters")
        with open(os.path.join(model_dir, manifest["Model"]["Signature"]), encoding="utf-8") as file:
            self._signature = json.load(file)
        synset = os.path.join(model_dir, "synset.txt")
        if os.path.isfile(synset):
            with open(synset, encoding="utf-8") as file:
                self.labels = [line.strip() for line in file]

    def _preprocess(self, data: Any) -> Any:
        return [mx.nd.array(each) for each in data]

    def _postprocess(self, data: Any) -> Any:
        return [str(each.asnumpy().tolist()) for each in data]

    def ping(self) -> Any:
        return mx.__version__


class MXNetBaseService(_Service):
    """`mx_model`: the network of a symbolic model. Of others, as the manifest's format says, there is none: services
    that make theirs of Gluon's blocks were derived from this one, too."""

    def __init__(self, model_name: Any, model_dir: Any, manifest: Any, gpu: Any = None) -> None:
        super().__init__(model_name, model_dir, manifest, gpu)
        shapes = []
        for each in self._signature["inputs"]:
            each["data_shape"][0] = 1
            shapes.append((each["data_name"], tuple(size or 1 for size in each["data_shape"])))
        symbol = manifest["Model"].get("Symbol")
        if symbol is None or "symbolic" not in str(manifest["Model"].get("Model-Format", "symbolic")).lower():
            return
        prefix = symbol[: -len("-symbol.json")]
        digits = str(self.param_filename or "")[len(prefix) + 1 : -len(".params")]
        network, arguments, states = mx.model.load_checkpoint(
            os.path.join(model_dir, prefix), int(digits) if digits.isdigit() else 0
        )
        self.mx_model = mx.mod.Module(
            symbol=network, context=self.ctx, data_names=[name for name, _ in shapes], label_names=None
        )
        self.mx_model.bind(for_training=False, data_shapes=shapes)
        self.mx_model.set_params(arguments, states, allow_missing=True, allow_extra=True)

    def _inference(self, data: Any) -> Any:
        check_input_shape(data, self.signature)
        batch = mx.io.DataBatch([each.as_in_context(self.ctx) for each in data])
        self.mx_model.forward(batch, is_train=False)
        return self.mx_model.get_outputs()


class GluonImperativeBaseService(_Service):
    """`net`: the network, whose parameters are loaded where the archive has some."""

    def __init__(self, model_name: Any, model_dir: Any, manifest: Any, net: Any = None, gpu: Any = None) -> None:
        super().__init__(model_name, model_dir, manifest, gpu)
        self.net = net
        if net is not None and self.param_filename:
            net.load_parameters(os.path.join(model_dir, self.param_filename), ctx=self.ctx)

    def _inference(self, data: Any) -> Any:
        check_input_shape(data, self.signature)
        return self.net(*[each.as_in_context(self.ctx) for each in data])
