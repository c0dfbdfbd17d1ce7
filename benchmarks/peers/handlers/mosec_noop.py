"""mosec, one worker. BATCH: requests per call."""

from __future__ import annotations

import os

from mosec import Server, Worker

BATCH = int(os.environ.get("BATCH", "1"))
ANSWER = {"prediction": "ok!"}


class Noop(Worker):
    def forward(self, data: dict) -> dict:
        return ANSWER


class NoopBatch(Worker):
    def forward(self, data: list[dict]) -> list[dict]:
        return [ANSWER] * len(data)


if __name__ == "__main__":
    server = Server()
    if BATCH > 1:
        server.append_worker(NoopBatch, num=1, max_batch_size=BATCH, max_wait_time=1)
    else:
        server.append_worker(Noop, num=1)
    server.run()
