"""Torch: a state dict with the class in `modelFile`, TorchScript, or what `torch.export` saved.

A worker is trusted as little as the archive it runs, and an archive's model file is code anyway: weights that need
unpickling are unpickled here, where the plain way of loading them fails.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import sys
from typing import Any

import torch

neighbours: Any = None
_DTYPES = {
    torch.float32: "float32", torch.float64: "float64", torch.float16: "float16", torch.int64: "int64",
    torch.int32: "int32", torch.int16: "int16", torch.int8: "int8", torch.uint8: "uint8", torch.bool: "bool",
}  # fmt: skip
IMAGENET = {"resize": 256, "size": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
"""What TorchServe's image_classifier does to a picture."""


class Model:
    pictures = IMAGENET

    def __init__(self, module: Any, inputs: list[Any], device: Any) -> None:
        self.module, self.inputs, self.device = module, inputs, device
        self.outputs: list[str] | None = None  # known when it has answered by name

    def run(self, inputs: dict[str, Any]) -> list[Any]:
        tensors = [torch.from_numpy(_owned(inputs[spec.name])).to(self.device) for spec in self.inputs]
        with torch.inference_mode():
            answer = self.module(*tensors)
        if isinstance(answer, dict):
            self.outputs = [str(name) for name in answer]
            answer = list(answer.values())
        if not isinstance(answer, (list, tuple)):
            answer = [answer]
        return [_array(one) for one in answer]


def _owned(array: Any) -> Any:
    return array if array.flags.writeable and array.flags.c_contiguous else array.copy()


def _array(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"the model gives a {type(value).__name__} where a tensor was expected")
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def open_model(files: Any, context: Any) -> Model:
    gpu = context.system_properties.get("gpu_id")
    device = torch.device("cuda", int(gpu)) if gpu is not None and torch.cuda.is_available() else torch.device("cpu")
    path = None if files.model is None else os.path.join(files.folder, files.model)
    spec = neighbours.load("arrays").Spec
    if files.form == "exported":
        program = torch.export.load(path)
        return Model(program.module(), _exported(program, spec), device)
    if files.form == "script":
        module = _script(path, files.model, device)
        arguments = [one for one in module.forward.schema.arguments[1:] if not one.has_default_value()]
        return Model(module.eval(), [spec(one.name) for one in arguments], device)
    module = _eager(files, path, device)
    parameters = list(inspect.signature(module.forward).parameters.values())
    names = [one.name for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    return Model(module.to(device).eval(), [spec(name) for name in names], device)


def _script(path: Any, name: str, device: Any) -> Any:
    try:
        return torch.jit.load(path, map_location=device)
    except RuntimeError as error:
        raise ValueError(
            f"{name} is no TorchScript file; if it is a state dict, its class belongs into the archive as well "
            f"(--model-file model.py); torch says: {str(error).splitlines()[0]:.300}"
        ) from error


def _eager(files: Any, path: Any, device: Any) -> Any:
    if files.folder not in sys.path:
        sys.path.insert(0, files.folder)
    name = os.path.splitext(os.path.basename(files.code))[0]
    source = importlib.import_module(name)
    found = [
        value
        for value in vars(source).values()
        if isinstance(value, type) and issubclass(value, torch.nn.Module) and value.__module__ == name
    ]
    if len(found) != 1:
        names = ", ".join(one.__name__ for one in found) or "none"
        raise ValueError(f"modelFile {files.code} defines one torch.nn.Module; found: {names}")
    module = found[0]()
    if path is None:
        return module
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError:
        state = torch.load(path, map_location=device, weights_only=False)
    if isinstance(state, torch.nn.Module):
        return state
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    module.load_state_dict(state)
    return module


def _exported(program: Any, Spec: Any) -> list[Any]:
    wanted = list(program.graph_signature.user_inputs)
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    specs = []
    for name in wanted:
        value = values.get(name)
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"input {name!r} of the exported program is no tensor")
        shape = tuple(size if isinstance(size, int) else None for size in value.shape)
        specs.append(Spec(name, _DTYPES.get(value.dtype), shape))
    return specs
