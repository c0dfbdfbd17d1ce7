"""Models that come, change and go while others are asked; and a server that is killed meanwhile. The long form, with
times, is benchmarks/management.py."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from headrace.server.options import BUNDLED_DIGITS
from headrace.testing import RunningServer, make_archive, run_server

PATIENCE = 60.0
CODE = "def handle(data, context):\n    return None if data is None else ['VERSION'] * len(data)\n"
SLOW = (
    "import os, time\nopen('REACHED', 'w').close()\nwhile not os.path.exists('OPENED'):\n    time.sleep(0.01)\n" + CODE
)
PIXELS = np.zeros(64, np.float32).tobytes()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    store.mkdir()
    shutil.copy(Path(BUNDLED_DIGITS, "digits.onnx"), store / "net.onnx")
    shutil.copytree(BUNDLED_DIGITS, store / "digits")
    make_archive(store, "code", files={"service.py": CODE.replace("VERSION", "ok")})
    return store


@contextmanager
def managed(store: Path, *arguments: str) -> Iterator[RunningServer]:
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    doors = ("--management-address=127.0.0.1:0", f"--model-store={store}", "--models=net.onnx")
    with run_server(*doors, *arguments, env=environment, cwd=store.parent) as server:
        yield server


def done(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


class Asking:
    """Asks a model again and again, on some connections, until its end; raises then what went wrong."""

    def __init__(self, url: str, ask: Callable[[httpx.Client], int], connections: int = 2) -> None:
        """`ask`: gives the version that has answered."""
        self._url, self._ask, self._connections = url, ask, connections
        self._over, self._answered = threading.Event(), threading.Semaphore(0)
        self.default = 0
        """What a manager has been told is the default."""

    def __enter__(self) -> Asking:
        self._pool = ThreadPoolExecutor(self._connections)
        self._running: list[Future[int]] = [self._pool.submit(self._run) for _ in range(self._connections)]
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()
        assert all(running.result() for running in self._running)

    def wait(self, answers: int) -> None:
        """For so many answers more."""
        for _ in range(answers):
            assert self._answered.acquire(timeout=PATIENCE)

    def _run(self) -> int:
        before = 0
        with httpx.Client(base_url=self._url, timeout=PATIENCE) as client:
            for answers in count():
                if self._over.is_set():
                    return answers
                default = self.default
                version = self._ask(client)
                assert version >= before, "an older version than before, on one connection"
                assert version >= default, "an older version than the default one"
                before = version
                self._answered.release()
        raise AssertionError


def test_models_come_and_go_while_another_one_serves(store: Path) -> None:
    picture = next((Path(__file__).resolve().parents[2] / "examples" / "digits" / "held_out").glob("*.png"))

    def ask(client: httpx.Client) -> int:
        assert client.post("/predictions/net", content=PIXELS).status_code == 200
        return 1

    with (
        managed(store) as server,
        httpx.Client(base_url=server.management, timeout=PATIENCE) as manager,
        httpx.Client(base_url=server.url, timeout=PATIENCE) as client,
        Asking(server.url, ask) as asking,
    ):
        for i, (url, body, kind) in enumerate(
            [
                ("net.onnx", PIXELS, "application/octet-stream"),
                ("digits", picture.read_bytes(), "image/png"),
                ("code.mar", b"1", "application/json"),
            ]
            * 2
        ):
            done(manager.post("/models", params={"url": url, "model_name": f"m{i}"}))
            done(manager.put(f"/models/m{i}", params={"min_worker": 1, "synchronous": "true"}))
            answer = client.post(f"/predictions/m{i}", content=body, headers={"content-type": kind})
            assert answer.status_code == 200, answer.text
            done(manager.delete(f"/models/m{i}"))
            asking.wait(2)
        assert [each["modelName"] for each in done(manager.get("/models"))["models"]] == ["net"]


EIGHT = {"inputs": [{"name": "x", "shape": [8, 1], "datatype": "FP32", "data": [0] * 8}]}


def ask_tensors(client: httpx.Client) -> int:
    """It adds its version to eight zeros, and the reply names its version."""
    told = done(client.post("/v2/models/swapped/infer", json=EIGHT))
    (version,) = {int(told["model_version"]), *map(int, told["outputs"][0]["data"])}
    return version


def ask_code(client: httpx.Client) -> int:
    answer = client.post("/predictions/swapped", content=b"1", headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    return int(answer.text)


def adding(path: Path, version: int) -> None:
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n", 1]) for end in "xy"]
    more = helper.make_tensor("more", TensorProto.FLOAT, [1], [float(version)])
    graph = helper.make_graph([helper.make_node("Add", ["x", "more"], ["y"])], "g", ends[:1], ends[1:], [more])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


@pytest.mark.parametrize("ask", [ask_tensors, ask_code])
def test_a_version_that_is_exchanged_under_load_loses_no_request_and_mixes_no_answer(
    store: Path, ask: Callable[[httpx.Client], int]
) -> None:
    with managed(store) as server, httpx.Client(base_url=server.management, timeout=PATIENCE) as manager:

        def register(version: int) -> None:
            if ask is ask_tensors:
                adding(store / f"v{version}.onnx", version)
                url = f"v{version}.onnx"
            else:
                make_archive(store, f"v{version}", files={"service.py": CODE.replace("VERSION", str(version))})
                url = f"v{version}.mar"
            names = {"model_name": "swapped", "model_version": version}
            done(manager.post("/models", params={"url": url, "initial_workers": 1, **names}))

        register(1)
        with Asking(server.url, ask) as asking:
            for version in range(2, 6):
                register(version)
                done(manager.put(f"/models/swapped/{version}/set-default"))
                asking.default = version
                done(manager.delete(f"/models/swapped/{version - 1}"))
                asking.wait(4)
        assert [each["modelVersion"] for each in done(manager.get("/models/swapped/all"))] == ["5"]


def test_a_server_that_is_killed_while_it_registers_comes_back_with_the_last_complete_state(store: Path) -> None:
    snapshot = store.parent / "models.json"
    make_archive(
        store,
        "slow",
        files={
            "service.py": SLOW.replace("VERSION", "slow")
            .replace("REACHED", str(store.parent / "reached"))
            .replace("OPENED", str(store.parent / "opened"))
        },
    )
    complete: dict[str, list[str]] = {"net": ["1"]}
    for turn in range(3):
        with managed(store, f"--snapshot={snapshot}") as server:
            with (
                httpx.Client(base_url=server.management, timeout=PATIENCE) as manager,
                httpx.Client(base_url=server.url, timeout=PATIENCE) as client,
                ThreadPoolExecutor(1) as pool,
            ):
                assert state_of(manager) == complete
                for name, versions in complete.items():
                    for version in versions if not name.startswith("known") else ():
                        answer = client.post(f"/predictions/{name}/{version}", content=PIXELS)
                        assert answer.status_code == 200, answer.text
                assert not list(store.parent.glob(".models.json.*"))
                name = ("code", "net", "code")[turn]  # one more model, or one more version of it
                file = {"code": "code.mar", "net": "net.onnx"}[name]
                version = str(turn + 2)
                names = {"model_name": name, "model_version": version}
                done(manager.post("/models", params={"url": file, "initial_workers": 1, **names}))
                complete[name] = [*complete.get(name, []), version]
                half = pool.submit(
                    manager.post,
                    "/models",
                    params={"url": "slow.mar", "model_name": f"half{turn}", "initial_workers": 1},
                )
                wait_until_there(store.parent / "reached", server)
                # What is written meanwhile is to have nothing of the half.
                known = {"url": "net.onnx", "model_name": f"known{turn}"}
                done(manager.post("/models", params=known))
                complete[f"known{turn}"] = ["1"]
                server.signal(signal.SIGKILL)
                server.process.wait(PATIENCE)
                with pytest.raises(httpx.TransportError):
                    half.result(PATIENCE)
                (store.parent / "reached").unlink()
                (store.parent / f".models.json.{turn}.half").write_text("half of one")
    with managed(store, f"--snapshot={snapshot}") as server:
        with httpx.Client(base_url=server.management, timeout=PATIENCE) as manager:
            assert state_of(manager) == complete


def state_of(manager: httpx.Client) -> dict[str, list[str]]:
    names = [each["modelName"] for each in done(manager.get("/models"))["models"]]
    return {name: sorted(each["modelVersion"] for each in done(manager.get(f"/models/{name}/all"))) for name in names}


def wait_until_there(path: Path, server: RunningServer) -> None:
    """Made by a worker process: there is nothing to wait on."""
    over = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if path.exists():
            return
        assert server.process.poll() is None, server.log()
        over.wait(0.01)
    raise AssertionError(f"{path.name} was not made:\n{server.log()}")
