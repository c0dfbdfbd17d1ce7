"""mosec: ResNet-18 by ONNX Runtime, the body is the tensor. WORKERS, THREADS, ONNX."""

from __future__ import annotations

import os

from mosec import Server, Worker
from resnet_session import answer, session


class Resnet(Worker):
    def __init__(self) -> None:
        self.run = session()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> list[float]:
        return answer(self.run, data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Resnet, num=int(os.environ["WORKERS"]))
    server.run()
