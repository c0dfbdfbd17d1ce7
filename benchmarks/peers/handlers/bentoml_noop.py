"""bentoml, one worker: a thread-pool endpoint, an async one and a batching one. QUIET: no access log, no metrics."""

from __future__ import annotations

import os

import bentoml

QUIET = bool(os.environ.get("QUIET"))


@bentoml.service(
    workers=1,
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}} if QUIET else {},
    metrics={"enabled": not QUIET},
)
class Noop:
    @bentoml.api
    def predict(self, id: str, inputs: list[float], parameters: dict) -> dict:
        return {"prediction": "ok!"}

    @bentoml.api
    async def predict_async(self, id: str, inputs: list[float], parameters: dict) -> dict:
        return {"prediction": "ok!"}

    # The latency is a budget here and not a delay: with a small one it refuses requests.
    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=60000)
    def predict_batch(self, items: list[dict]) -> list[dict]:
        return [{"prediction": "ok!"}] * len(items)
