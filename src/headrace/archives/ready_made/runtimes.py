"""Which runtime a model's files are for.

Rule 1: the manifest decides, then the names of the files. What cannot be told is an error that says what was sought.
Rule 2: one file for each runtime, with `open(files, context)`; it gives something that has `inputs` (a list of Specs),
        `outputs` (names, or None) and `run` (arrays by name -> arrays).
"""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple


class Files(NamedTuple):
    """`model`: the weights, or the whole model; `code`: the file of an eager module; `runtime`: which one opens it."""

    runtime: str
    folder: str
    model: str | None
    code: str | None = None
    form: str = ""


neighbours: Any = None
PACKAGES = {"with_torch": "torch", "with_onnxruntime": "onnxruntime", "with_mxnet": "mxnet"}
_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt")


def config_of(context: Any) -> dict[str, Any]:
    """The `handler:` section of the model's YAML."""
    config = (getattr(context, "model_yaml_config", None) or {}).get("handler") or {}
    if not isinstance(config, dict):
        raise ValueError(f"handler: in the model's YAML is a mapping, not a {type(config).__name__}")
    # `profile` is TorchServe's, whose own handlers measure their steps then: no option of ours, and no mistake.
    return {key: value for key, value in config.items() if key != "profile"}


def open_model(context: Any) -> Any:
    """Raises what says which file or package is missing."""
    folder = context.system_properties["model_dir"]
    manifest = context.manifest or {}
    files = choose(folder, os.listdir(folder), (manifest.get("model") or {}))
    try:
        return neighbours.load(files.runtime).open_model(files, context)
    except ImportError as error:
        package = PACKAGES[files.runtime]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise needed(package, f"the model {files.model or files.code}") from None


def needed(package: str, what: str) -> Exception:
    return RuntimeError(
        f"{what} needs {package}, which is not in the environment of {sys.executable}: install it there, name an "
        f"environment that has it (--python NAME=PATH), or put {package} into the archive's requirements"
    )


def choose(folder: str, names: list[str], model: dict[str, Any]) -> Files:
    """`names`: the files in the archive. `model`: of its manifest."""
    serialized, code = model.get("serializedFile"), model.get("modelFile")
    if code:
        if serialized and not serialized.endswith(_WEIGHTS):
            raise ValueError(f"modelFile {code} goes with weights ({', '.join(_WEIGHTS)}), not with {serialized}")
        return Files("with_torch", folder, serialized, code, "eager")
    if serialized is None:
        serialized = _only(names)
    if serialized.endswith(("-symbol.json", ".params")):
        return Files("with_mxnet", folder, serialized)
    if serialized.endswith(".onnx"):
        return Files("with_onnxruntime", folder, serialized)
    if serialized.endswith(".pt2"):
        return Files("with_torch", folder, serialized, form="exported")
    if serialized.endswith(_WEIGHTS):
        return Files("with_torch", folder, serialized, form="script")
    raise ValueError(
        f"no runtime is known for {serialized}: it is told by the ending, .onnx, .pt (TorchScript), .pt2 "
        "(torch.export), -symbol.json and .params (MXNet), or weights with a modelFile (an eager torch module)"
    )


def _only(names: list[str]) -> str:
    """The one model among the files; of several `.onnx`, `.pt`, ... nobody knows which."""
    endings = ("-symbol.json", ".onnx", ".pt2", ".pt", ".pth")
    found = sorted(name for name in names if name.endswith(endings))
    if len(found) != 1:
        what = "none" if not found else ", ".join(found)
        raise ValueError(f"the manifest names no serializedFile, and one file that ends in {', '.join(endings)} is "
                         f"expected in the archive: {what} found")  # fmt: skip
    return found[0]
