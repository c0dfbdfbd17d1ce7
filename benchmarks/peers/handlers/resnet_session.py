"""What every peer serves ResNet-18 with: the same file, as many threads as said, none of them spinning."""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the runtime is imported: no thread that sends usage data

import numpy as np
import onnxruntime

SHAPE = (1, 3, 128, 128)


def session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["THREADS"])
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(os.environ["ONNX"], options, providers=["CPUExecutionProvider"])


def answer(run: onnxruntime.InferenceSession, body: bytes) -> list[float]:
    x = np.frombuffer(body, np.float32).reshape(SHAPE)
    return run.run(None, {"x": x})[0].tolist()
