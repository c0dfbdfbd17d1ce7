"""Runtimes. Each is one file, imported when it is asked for; only `onnxruntime` needs a package of its own."""

from __future__ import annotations

import importlib
import os
from typing import Any

from headrace.backends.base import Backend
from headrace.errors import InvalidModel, InvalidOption

NAMES = ("onnxruntime", "python", "null")


def backend_for(model: Any, name: str | None) -> Backend:
    """The backend called `name`; None: the one for this kind of model (a path: onnxruntime; a callable: python)."""
    if name is None:
        if isinstance(model, str) and not model:
            raise InvalidModel("the model's path is empty; give the path of an ONNX file")
        if isinstance(model, str | os.PathLike | bytes):
            name = "onnxruntime"
        elif callable(model):
            name = "python"
        else:
            raise InvalidModel(
                f"a model is a path to an ONNX file, the bytes of one, or a callable; this is a {type(model).__name__}"
                + (", which bytes(…) makes bytes of" if isinstance(model, bytearray | memoryview) else "")
            )
    if name not in NAMES:
        raise InvalidOption(
            f"unknown backend {name!r}; this version has: {', '.join(NAMES)}. Leave it out to have the model's own"
        )
    backend: Backend = importlib.import_module(f"headrace.backends._{name}").backend
    return backend
