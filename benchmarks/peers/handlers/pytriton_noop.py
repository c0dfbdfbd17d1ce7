"""pytriton: Triton with a Python callable. PORT, GRPC_PORT, METRICS_PORT, BATCH."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

BATCH = int(os.environ.get("BATCH", "1"))
ZEROS = np.zeros((4096, 1), dtype=np.float32)


@batch
def noop_batch(x: np.ndarray) -> dict[str, np.ndarray]:
    return {"y": ZEROS[: x.shape[0]]}


def noop(requests: list[Any]) -> list[dict[str, np.ndarray]]:
    return [{"y": ZEROS[0]} for _ in requests]


if __name__ == "__main__":
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=int(os.environ["PORT"]),
        grpc_address="127.0.0.1",
        grpc_port=int(os.environ["GRPC_PORT"]),
        metrics_port=int(os.environ["METRICS_PORT"]),
        log_verbose=0,
        cache_config=None,
    )
    if BATCH > 1:
        batcher = DynamicBatcher(max_queue_delay_microseconds=1000)
        model_config = ModelConfig(batching=True, max_batch_size=BATCH, batcher=batcher)
    else:
        model_config = ModelConfig(batching=False)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="noop",
            infer_func=noop_batch if BATCH > 1 else noop,
            inputs=[Tensor(name="x", shape=(8,), dtype=np.float32)],
            outputs=[Tensor(name="y", shape=(1,), dtype=np.float32)],
            config=model_config,
        )
        triton.serve()
