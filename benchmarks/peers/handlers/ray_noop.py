"""ray serve, one replica. PORT, BATCH, TUNED, RAY_TMP."""

from __future__ import annotations

import os
import time
from typing import Any

import ray
from ray import serve

BATCH = int(os.environ.get("BATCH", "1"))
QUIET = {"logging_config": {"enable_access_log": False, "log_level": "WARNING"}} if os.environ.get("TUNED") else {}
# The default of 5 ongoing requests collapses under concurrency.
LIMITS = {"max_ongoing_requests": 2000} if os.environ.get("TUNED") else {}


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 1}, **LIMITS, **QUIET)
class Noop:
    async def __call__(self, request: Any) -> dict[str, str]:
        await request.body()
        return await self.together(request) if BATCH > 1 else {"prediction": "ok!"}

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.001)
    async def together(self, requests: list[Any]) -> list[dict[str, str]]:
        return [{"prediction": "ok!"}] * len(requests)


if __name__ == "__main__":
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        _temp_dir=os.environ["RAY_TMP"],
        log_to_driver=False,
        object_store_memory=200 * 2**20,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])}, **QUIET)
    serve.run(Noop.bind(), name="noop", route_prefix="/predictions/noop")
    while True:
        time.sleep(60)
