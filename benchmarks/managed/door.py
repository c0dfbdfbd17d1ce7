"""What all the figures of `management.py` ask a server through, and the models it may have."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

from headrace.server.options import BUNDLED_DIGITS
from headrace.testing import RunningServer, make_archive, run_server

CODE = "def handle(data, context):\n    return None if data is None else ['VERSION'] * len(data)\n"
RAW = {"content-type": "application/octet-stream"}


class Client:
    """One keep-alive connection."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def predict(self, model: str, body: bytes, kind: str = "application/octet-stream") -> tuple[int, bytes]:
        return self.ask("POST", f"/predictions/{model}", body, **{"content-type": kind})

    def register(self, url: str, **parameters: object) -> tuple[int, bytes]:
        return self.ask("POST", f"/models?{urlencode({'url': url, **parameters})}")

    def scale(self, model: str, workers: int) -> tuple[int, bytes]:
        return self.ask("PUT", f"/models/{model}?min_worker={workers}&synchronous=true")


class Clients:
    """A connection for each thread that asks."""

    def __init__(self, url: str) -> None:
        self._url, self._own = url, threading.local()

    def mine(self) -> Client:
        if not hasattr(self._own, "client"):
            self._own.client = Client(self._url)
        client: Client = self._own.client
        return client


@contextlib.contextmanager
def managed(folder: Path, *arguments: str) -> Iterator[RunningServer]:
    doors = ("--management-address=127.0.0.1:0", "--model-store=store", "--manage-callables=yes")
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    with run_server(*doors, *arguments, cwd=folder, env=environment) as server:
        yield server


def good(answer: tuple[int, bytes]) -> bytes:
    status, body = answer
    if status != 200:
        raise RuntimeError(f"{status}: {body.decode(errors='replace'):.300}")
    return body


def make_store(folder: Path) -> Path:
    store = folder / "store"
    store.mkdir()
    shutil.copy(Path(BUNDLED_DIGITS, "digits.onnx"), store / "onnx.onnx")
    files = {path.name: path for path in Path(BUNDLED_DIGITS).iterdir() if path.is_file()}
    manifest = json.loads(Path(BUNDLED_DIGITS, "MAR-INF", "MANIFEST.json").read_text())["model"]
    make_archive(
        store, "archive", files=files, handler=manifest["handler"], serialized_file=manifest["serializedFile"],
        config_file=manifest.get("configFile"),
    )  # fmt: skip
    make_archive(store, "code", files={"service.py": CODE.replace("VERSION", "ok")})
    return store
