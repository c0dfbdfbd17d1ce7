"""litserve, one worker and one API server. PORT, BATCH, FAST_QUEUE, LOG_LEVEL."""

from __future__ import annotations

import os
from typing import Any

import litserve

BATCH = int(os.environ.get("BATCH", "1"))


class Noop(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    # Without annotations: `request: Any` would be made a query parameter.
    def decode_request(self, request):
        return request

    def predict(self, x: Any) -> Any:
        return [0] * len(x) if BATCH > 1 else 0

    def encode_response(self, output: Any) -> dict[str, str]:
        return {"prediction": "ok!"}


if __name__ == "__main__":
    batching = {"max_batch_size": BATCH, "batch_timeout": 0.001} if BATCH > 1 else {}
    server = litserve.LitServer(
        Noop(**batching),
        accelerator="cpu",
        workers_per_device=1,
        timeout=60,
        fast_queue=bool(os.environ.get("FAST_QUEUE")),
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=1,
        generate_client_file=False,
        log_level=os.environ.get("LOG_LEVEL", "info"),
    )
