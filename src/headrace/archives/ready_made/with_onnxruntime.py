"""ONNX files, by ONNX Runtime."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime

neighbours: Any = None
_DTYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(int16)": np.int16, "tensor(int8)": np.int8,
    "tensor(uint64)": np.uint64, "tensor(uint32)": np.uint32, "tensor(uint16)": np.uint16, "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}  # fmt: skip


class Model:
    def __init__(self, path: str, Spec: Any) -> None:
        options = onnxruntime.SessionOptions()
        threads = os.environ.get("OMP_NUM_THREADS", "")
        if threads.isdigit():  # the worker's share of the cores
            options.intra_op_num_threads = int(threads)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = []
        for one in self.session.get_inputs():
            if one.type not in _DTYPES:
                raise ValueError(f"input {one.name!r} is {one.type}, which is not taken from requests")
            shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in one.shape)
            self.inputs.append(Spec(one.name, np.dtype(_DTYPES[one.type]), shape))
        self.outputs = [one.name for one in self.session.get_outputs()]

    def run(self, inputs: dict[str, Any]) -> list[Any]:
        return list(self.session.run(None, inputs))


def open_model(files: Any, context: Any) -> Model:
    return Model(os.path.join(files.folder, files.model), neighbours.load("arrays").Spec)
