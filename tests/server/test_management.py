"""The management API of a real server: every row of the old servers' tables, and every kind of bad input."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.server.options import BUNDLED_DIGITS
from headrace.testing import RunningServer, run_server

PICTURE = Path(__file__).resolve().parents[2] / "examples" / "digits" / "held_out"
PATIENCE = 30
MODULES = {
    "good": "def f(x):\n    return x\n",
    "broken": "raise RuntimeError('no such weights')\n",
    "hungry": "raise MemoryError('more than there is')\n",
    "slow": "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\ndef f(x):\n    return 'slow'\n",
    "waits": (
        "import os, time\ndef f(x):\n    open('inside', 'w').close()\n    while not os.path.exists('out'):\n"
        "        time.sleep(0.01)\n    return 'out'\n"
    ),
}
ZERO = 'Model "{}" Version: {} registered with 0 initial workers. Use scale workers API to add workers for the model.'


class Manager:
    """Asks a server's management API."""

    def __init__(self, server: RunningServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.client = httpx.Client(base_url=server.management, timeout=PATIENCE)

    def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """(status, JSON)."""
        answer = self.client.request(method, path, **options)
        return answer.status_code, answer.json() if answer.content else None

    def register(self, url: str, **parameters: Any) -> tuple[int, Any]:
        return self.ask("POST", "/models", params={"url": url, **parameters})

    def scale(self, path: str, **parameters: Any) -> tuple[int, Any]:
        return self.ask("PUT", f"/models/{path}", params={"synchronous": "true", **parameters})

    def models(self) -> list[str]:
        return [each["modelName"] for each in self.ask("GET", "/models")[1]["models"]]

    def only(self, path: str) -> dict[str, Any]:
        status, told = self.ask("GET", f"/models/{path}")
        assert status == 200, told
        assert len(told) == 1
        return dict(told[0])

    def clean(self) -> None:
        for name in self.models():
            if name != "digits":
                _, versions = self.ask("GET", f"/models/{name}/all")
                default = self.ask("GET", f"/models/{name}")[1][0]["modelVersion"]
                numbers = [each["modelVersion"] for each in versions]
                for version in sorted(numbers, key=lambda each: each == default):
                    assert self.ask("DELETE", f"/models/{name}/{version}")[0] == 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("managed")
    for name, text in MODULES.items():
        (folder / f"managed_{name}.py").write_text(text)
    store = folder / "store"
    store.mkdir()
    shutil.copytree(BUNDLED_DIGITS, store / "digits")
    shutil.copy(Path(BUNDLED_DIGITS, "digits.onnx"), store / "net.onnx")
    shutil.copy(Path(BUNDLED_DIGITS, "digits.onnx"), folder / "outside.onnx")
    (store / "corrupt.onnx").write_bytes(b"this is no model")
    nothing = store / "no_manifest.mar"
    nothing.mkdir()
    bad = store / "bad" / "MAR-INF"
    bad.mkdir(parents=True)
    (bad / "MANIFEST.json").write_text(json.dumps({"runtime": "python"}))
    return folder


@contextmanager
def managed(folder: Path, *arguments: str) -> Iterator[Manager]:
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    doors = ("--management-address=127.0.0.1:0", "--model-store=store", "--models=digits", "--manage-callables=yes")
    with run_server(*doors, *arguments, env=environment, cwd=folder) as server:
        manager = Manager(server, folder)
        with manager.client:
            yield manager


@pytest.fixture(scope="module")
def headrace(folder: Path) -> Iterator[Manager]:
    with managed(folder) as manager:
        yield manager


@pytest.fixture
def manager(headrace: Manager) -> Iterator[Manager]:
    yield headrace
    headrace.clean()


@pytest.fixture(scope="module")
def torchserve(folder: Path) -> Iterator[Manager]:
    with managed(folder, "--compat=torchserve") as manager:
        yield manager


@pytest.fixture(scope="module")
def mms(folder: Path) -> Iterator[Manager]:
    with managed(folder, "--compat=mms") as manager:
        yield manager


def message(answer: tuple[int, Any]) -> str:
    status, told = answer
    assert told["code"] == status
    assert set(told) == {"code", "type", "message"}
    return str(told["message"])


# ---- register


def test_without_workers_it_is_known_and_not_loaded(manager: Manager) -> None:
    assert manager.register("net.onnx") == (200, {"status": ZERO.format("net", "1")})
    told = manager.only("net")
    assert (told["modelUrl"], told["workers"], told["state"]) == ("net.onnx", [], "REGISTERED")
    assert (told["minWorkers"], told["maxWorkers"], told["loadedAtStartup"]) == (0, 0, False)
    answer = httpx.post(f"{manager.server.url}/predictions/net", json=[[[[0.0] * 8] * 8]])
    assert answer.status_code == 503
    assert manager.ask("GET", "/v1/models/net") == (200, {"name": "net", "ready": False})


def test_with_workers_it_serves_when_it_is_told_so(manager: Manager) -> None:
    status = 'Model "net" Version: 1 registered with 1 initial workers'
    assert manager.register("net.onnx", initial_workers=1) == (200, {"status": status})
    assert httpx.post(f"{manager.server.url}/predictions/net", json=[[[[0.0] * 8] * 8]]).status_code == 200
    assert manager.ask("GET", "/v1/models/net") == (200, {"name": "net", "ready": True})
    (worker,) = manager.only("net")["workers"]
    assert worker["status"] == "READY"
    assert worker["memoryUsage"] > 0


def test_every_parameter_is_taken_from_query_and_body(manager: Manager, folder: Path) -> None:
    given = {
        "url": "managed_good:f", "model_name": "call", "model_version": "7", "runtime": "python3", "batch_size": 4,
        "max_batch_delay": 20, "initial_workers": 2, "response_timeout": 30, "startup_timeout": 60,
        "synchronous": "true",
    }  # fmt: skip
    for i, options in enumerate(({"params": given}, {"json": {**given, "synchronous": True}})):
        status, told = manager.ask("POST", "/models", **options)
        assert (status, told) == (200, {"status": 'Model "call" Version: 7 registered with 2 initial workers'})
        shown = manager.only("call/7")
        assert (shown["batchSize"], shown["maxBatchDelay"]) == (4, 20)
        assert (shown["responseTimeout"], shown["startupTimeout"]) == (30, 60)
        assert len({each["pid"] for each in shown["workers"]}) == 2, i
        assert manager.ask("DELETE", "/models/call") == (200, {"status": 'Model "call" unregistered'})


def test_numbers_that_are_none_are_as_if_not_given(manager: Manager) -> None:
    odd = {"batch_size": "dd", "max_batch_delay": "x", "initial_workers": "many", "response_timeout": "1.5", "zzz": "1"}
    assert manager.register("net.onnx", **odd)[0] == 200
    shown = manager.only("net")
    assert (shown["batchSize"], shown["maxBatchDelay"], shown["minWorkers"]) == (1, 0, 0)
    assert manager.scale("net", min_worker="two", synchronous="Nan")[0] == 202
    assert manager.scale("net", min_worker="1") == (200, {"status": "Workers scaled to 1 for model: net"})


def test_a_handler_takes_the_place_of_the_archives(manager: Manager) -> None:
    assert manager.register("digits", model_name="other", handler="image_classifier", initial_workers=1)[0] == 200
    refused = manager.register("digits", model_name="third", handler="mine", initial_workers=1)
    assert refused[0] == 500
    assert "mine" in message(refused)
    assert manager.register("net.onnx", handler="mine")[0] == 400


@pytest.mark.parametrize(
    ("parameters", "code", "kind", "says"),
    [
        ({"url": "outside.onnx"}, 404, "ModelNotFoundException", "Model not found at: outside.onnx"),
        ({"url": "a\0b"}, 404, "ModelNotFoundException", "Model not found at: a"),
        ({"url": "net.onnx", "batch_size": "0"}, 400, "BadRequestException", "batch_size is at least 1, not 0"),
        ({"url": "net.onnx", "response_timeout": "0"}, 400, "BadRequestException", "response_timeout is at least 1"),
        ({"url": "managed_good:f", "initial_workers": "900"}, 400, "BadRequestException",
         "900 workers were asked for; f runs in worker processes, of which a model has at most 256"),
        ({"url": "managed_broken:f", "model_name": "broken", "initial_workers": "1"}, 500, "InternalServerException",
         "Failed to start workers for model broken version: 1: "),
        ({"url": "managed_hungry:f", "model_name": "hungry", "initial_workers": "1"}, 507, "InternalServerException",
         "System out of memory: "),
        ({"url": "managed_slow:f", "model_name": "slow", "initial_workers": "1", "startup_timeout": "1"}, 500,
         "InternalServerException", "Failed to start workers for model slow version: 1: "),
    ],
)  # fmt: skip
def test_what_cannot_be_registered_is_told_why_and_changes_nothing(  # more of it: test_bad_registrations.py
    manager: Manager, parameters: dict[str, str], code: int, kind: str, says: str
) -> None:
    before = sorted(path.name for path in manager.folder.rglob("*") if "__pycache__" not in path.parts)
    answer = manager.ask("POST", "/models", params=parameters)
    assert (answer[0], answer[1]["type"]) == (code, kind), answer
    assert message(answer).startswith(says)
    if parameters.get("model_name") == "slow":
        assert "did not load its model within 1 s (startup_timeout)" in message(answer)  # so its process was ended, too
    assert manager.models() == ["digits"]
    assert httpx.get(f"{manager.server.url}/ping").status_code == 200
    assert sorted(path.name for path in manager.folder.rglob("*") if "__pycache__" not in path.parts) == before
    assert manager.server.process.poll() is None


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"url": 5}', b'{"url": "net.onnx", "batch_size": "dd"}', b'{"url": "net.onnx", "batch_size": "4"}'],
)
def test_a_body_that_is_wrong_is_told_so(manager: Manager, body: bytes) -> None:
    status, told = manager.ask("POST", "/models", content=body, headers={"content-type": "application/json"})
    assert (status, told["type"]) == (400, "BadRequestException")
    assert manager.models() == ["digits"]


def test_a_version_that_exists_is_a_conflict_and_another_is_not(manager: Manager) -> None:
    manager.register("net.onnx", initial_workers=1)
    again = manager.register("net.onnx")
    assert (again[0], again[1]["type"]) == (409, "ConflictStatusException")
    assert message(again) == "Model version 1 is already registered for model net"
    assert manager.register("net.onnx", model_version="2") == (200, {"status": ZERO.format("net", "2")})
    assert [each["modelVersion"] for each in manager.ask("GET", "/models/net/all")[1]] == ["1", "2"]


def test_a_load_that_fails_leaves_the_version_that_was_there(manager: Manager) -> None:
    manager.register("net.onnx", initial_workers=1)
    assert manager.register("corrupt.onnx", model_name="net", model_version="2", initial_workers=1)[0] == 500
    assert [each["modelVersion"] for each in manager.ask("GET", "/models/net/all")[1]] == ["1"]
    assert httpx.post(f"{manager.server.url}/predictions/net", json=[[[[0.0] * 8] * 8]]).status_code == 200


def test_no_callables_unless_whoever_started_the_server_allows_it(folder: Path) -> None:
    with managed(folder, "--manage-callables=no") as manager:
        refused = manager.register("os:system", initial_workers=1)
        assert refused[0] == 404
        assert "--manage-callables yes" in message(refused)


def test_packed_archives_and_urls_are_as_the_allow_list_says_and_leave_nothing(folder: Path) -> None:
    packed, cache = folder / "packed.mar", folder / "cache"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(Path(BUNDLED_DIGITS).rglob("*")):
            archive.write(path, path.relative_to(BUNDLED_DIGITS))
    url = packed.as_uri()
    with managed(folder, r"--allowed-urls=file://.*/packed\.mar", "--cache-dir=cache") as manager:
        for asked in (str(packed), url):
            assert manager.register(asked, model_name="p", initial_workers=1)[0] == 200
            assert manager.only("p")["modelUrl"] == asked
            picture = next(PICTURE.glob("*.png")).read_bytes()
            assert httpx.post(f"{manager.server.url}/predictions/p", content=picture).status_code == 200
            assert manager.ask("DELETE", "/models/p")[0] == 200
        refused = manager.register((folder / "outside.onnx").as_uri())
        assert (refused[0], refused[1]["type"]) == (404, "ModelNotFoundException")
        assert message(refused).endswith("does not match any allowed URL(s)")
        gone = manager.register(url + "#sha256=" + "0" * 64)
        assert (gone[0], gone[1]["type"]) == (400, "DownloadArchiveException")
        assert manager.models() == ["digits"]
    assert not cache.exists() or not any(path.is_file() and path.suffix == ".onnx" for path in cache.rglob("*"))
    packed.unlink()


# ---- 202, and following it


def follow(manager: Manager, answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    assert answer.json() == {"status": "Processing worker updates..."}
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        told = manager.ask("GET", answer.headers["location"])[1]
        if told["state"] != "running":
            return dict(told)
        time.sleep(0.01)
    raise AssertionError("it did not end")


def test_what_has_begun_can_be_followed_to_its_end(manager: Manager) -> None:
    (manager.folder / "go").unlink(missing_ok=True)
    slow = {"url": "managed_slow:f", "model_name": "slow", "initial_workers": "1", "synchronous": "false"}
    answer = manager.client.post("/models", params=slow)
    running = manager.ask("GET", answer.headers["location"])[1]
    assert (running["kind"], running["model"], running["version"], running["state"]) == (
        "register", "slow", "1", "running",
    )  # fmt: skip
    assert "ended" not in running
    assert manager.only("slow")["state"] == "LOADING"
    index = manager.ask("POST", "/v2/repository/index")[1]
    assert {"name": "slow", "version": "1", "state": "LOADING", "reason": ""} in index
    (manager.folder / "go").touch()
    told = follow(manager, answer)
    assert told["state"] == "done"
    assert told["ended"] >= told["started"]
    assert httpx.post(f"{manager.server.url}/predictions/slow", json=1).text == "slow"
    listed = manager.ask("GET", "/operations")[1]["operations"]
    assert listed[0] == told
    (manager.folder / "go").unlink()


def test_what_is_wrong_with_the_request_is_told_at_once_and_what_fails_later_is_found_there(manager: Manager) -> None:
    later = {"synchronous": "false", "initial_workers": "1"}
    assert manager.register("nowhere", **later)[0] == 404
    manager.register("net.onnx")
    assert manager.register("net.onnx", **later)[0] == 409
    for url in "net.onnx", "managed_good:f":
        assert manager.register(url, model_name="many", synchronous="false", initial_workers=900)[0] == 400
    answer = manager.client.post("/models", params={"url": "corrupt.onnx", **later})
    told = follow(manager, answer)
    assert told["state"] == "failed"
    assert (told["error"]["code"], told["error"]["type"]) == (500, "InternalServerException")
    assert told["error"]["message"].startswith("Failed to start workers for model corrupt version: 1: ")
    assert "corrupt" not in manager.models()
    failed = [each for each in manager.ask("POST", "/v2/repository/index")[1] if each["name"] == "corrupt"]
    assert len(failed) == 1
    assert failed[0]["state"] == "UNAVAILABLE"
    assert failed[0]["reason"]


def test_an_operation_nobody_knows_is_not_found(manager: Manager) -> None:
    assert manager.ask("GET", "/operations/nobody")[0] == 404


# ---- scale


def test_scaling_is_told_as_torchserve_tells_it(manager: Manager) -> None:
    manager.register("managed_good:f", model_name="call")
    assert manager.scale("call", min_worker=2) == (200, {"status": "Workers scaled to 2 for model: call"})
    assert len(manager.only("call")["workers"]) == 2
    status, _ = manager.scale("call/1", min_workers=1)
    assert status == 200
    assert manager.scale("call", min_worker=1, model_version="1") == (
        200, {"status": "Workers scaled to 1 for model: call, version: 1"},
    )  # fmt: skip
    assert len(manager.only("call")["workers"]) == 1
    assert manager.scale("call", min_worker=0, timeout=5, number_gpu=3)[0] == 200
    assert manager.only("call")["workers"] == []
    answer = manager.client.put("/models/call")
    assert follow(manager, answer)["state"] == "done"
    shown = manager.only("call")
    assert (shown["minWorkers"], shown["maxWorkers"], len(shown["workers"])) == (1, 1, 1)


@pytest.mark.parametrize(
    ("path", "parameters", "code", "kind", "says"),
    [
        ("nobody", {}, 404, "ModelNotFoundException", "Model not found: nobody"),
        ("digits/9", {}, 404, "ModelVersionNotFoundException", "Model version: 9 does not exist for model: digits"),
        ("digits", {"model_version": "9"}, 404, "ModelVersionNotFoundException", "Model version: 9"),
        ("digits", {"min_worker": "3", "max_worker": "2"}, 400, "BadRequestException",
         "max_worker cannot be less than min_worker."),
        ("digits", {"min_worker": "-1"}, 400, "BadRequestException", "min_worker is counted from 0 up, not -1"),
        ("digits", {"max_worker": "-1", "min_worker": "-2"}, 400, "BadRequestException", "min_worker is counted"),
        ("digits", {"max_worker": "-1"}, 400, "BadRequestException", "max_worker is counted from 0 up, not -1"),
        ("digits", {"min_worker": "500"}, 400, "BadRequestException", "500 workers were asked for"),
    ],
)  # fmt: skip
def test_what_cannot_be_scaled_is_told_why_and_changes_nothing(
    manager: Manager, path: str, parameters: dict[str, str], code: int, kind: str, says: str
) -> None:
    before = manager.only("digits")
    for synchronous in ("true", "false"):
        answer = manager.scale(path, synchronous=synchronous, **parameters)
        assert (answer[0], answer[1]["type"]) == (code, kind), answer
        assert message(answer).startswith(says)
    now = manager.only("digits")
    assert (now["minWorkers"], now["maxWorkers"], now["state"]) == (1, 1, before["state"])


@pytest.mark.parametrize("url", ["net.onnx", "managed_good:f"])
def test_a_worker_starts_after_the_request_that_started_it(manager: Manager, url: str) -> None:
    def started() -> list[float]:
        return [datetime.fromisoformat(each["startTime"]).timestamp() for each in manager.only("own")["workers"]]

    begun = time.time()
    assert manager.register(url, model_name="own", initial_workers=1)[0] == 200
    first = started()
    grown = time.time()
    assert manager.scale("own", min_worker=2)[0] == 200
    assert begun - 0.001 <= first[0] <= grown <= max(started()) + 0.001  # they are told to the millisecond
    assert max(started()) <= time.time()


# ---- versions, describe, list


def test_the_default_version_goes_last(manager: Manager) -> None:
    manager.register("net.onnx")
    manager.register("net.onnx", model_version="2")
    for path in ("net", "net/1"):
        refused = manager.ask("DELETE", f"/models/{path}")
        assert (refused[0], refused[1]["type"]) == (403, "InvalidModelVersionException")
        assert message(refused).startswith("Cannot remove default version for model net")
    done = 'Default version successfully updated for model "net" to "2"'
    assert manager.ask("PUT", "/models/net/2/set-default") == (200, {"status": done})
    assert manager.only("net")["modelVersion"] == "2"
    assert manager.ask("DELETE", "/models/net/1") == (200, {"status": 'Model "net" unregistered'})
    assert manager.ask("DELETE", "/models/net")[0] == 200
    assert manager.models() == ["digits"]


@pytest.mark.parametrize(
    ("method", "path", "kind", "says"),
    [
        ("GET", "/models/nobody", "ModelNotFoundException", "Model not found: nobody"),
        ("GET", "/models/nobody/all", "ModelNotFoundException", "Model not found: nobody"),
        ("GET", "/models/digits/9", "ModelVersionNotFoundException",
         "Model version: 9 does not exist for model: digits"),
        ("DELETE", "/models/nobody", "ModelNotFoundException", "Model not found: nobody"),
        ("DELETE", "/models/digits/9", "ModelVersionNotFoundException",
         "Model version: 9 does not exist for model: digits"),
        ("PUT", "/models/nobody/1/set-default", "ModelVersionNotFoundException",
         "Model version 1 does not exist for model nobody"),
        ("PUT", "/models/digits/9/set-default", "ModelVersionNotFoundException",
         "Model version 9 does not exist for model digits"),
        ("OPTIONS", "/models/nobody", "ModelNotFoundException", "Model not found: nobody"),
        ("GET", "/v1/models/nobody", "ModelNotFoundException", "Model not found: nobody"),
        ("GET", "/token", "ResourceNotFoundException", "there are no tokens"),
        ("GET", "/nothing", "ResourceNotFoundException", "there is no '/nothing'"),
        ("DELETE", "/models/a/b/c/d", "ResourceNotFoundException", "there is no"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_not_found(manager: Manager, method: str, path: str, kind: str, says: str) -> None:
    answer = manager.ask(method, path)
    if path == "/models/nobody/1/set-default":
        kind, says = "ModelNotFoundException", "Model not found: nobody"
    assert (answer[0], answer[1]["type"]) == (404, kind), answer
    assert message(answer).startswith(says)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/", "OPTIONS"),
        ("DELETE", "/models", "POST, GET, HEAD"),
        ("POST", "/models/digits", "GET, PUT, PATCH, DELETE, OPTIONS, HEAD"),
        ("GET", "/v2/repository/index", "POST"),
        ("POST", "/ping", "GET, HEAD"),
    ],
)
def test_another_verb_is_told_which(manager: Manager, method: str, path: str, allow: str) -> None:
    answer = manager.client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    if not path.startswith("/v2"):
        assert answer.json()["type"] == "MethodNotAllowedException"


def test_a_head_has_no_body_and_an_ending_slash_does_not_matter(manager: Manager) -> None:
    answer = manager.client.head("/models")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 10
    assert manager.ask("GET", "/models/digits/")[0] == 200


def test_the_list_has_pages(manager: Manager) -> None:
    for name in ("a", "b", "c"):
        manager.register("net.onnx", model_name=name)
    status, first = manager.ask("GET", "/models", params={"limit": 2})
    assert (status, first["nextPageToken"]) == (200, "2")
    assert first["models"] == [{"modelName": name, "modelUrl": "net.onnx"} for name in ("a", "b")]
    second = manager.ask("GET", "/models", params={"limit": 2, "next_page_token": first["nextPageToken"]})[1]
    assert [each["modelName"] for each in second["models"]] == ["c", "digits"]
    assert "nextPageToken" not in second
    assert manager.ask("GET", "/models", params={"next_page_token": 99}) == (200, {"models": []})
    assert len(manager.ask("GET", "/models", params={"limit": "x", "next_page_token": "-5"})[1]["models"]) == 4


def test_customized_asks_a_worker_and_without_one_says_so(manager: Manager) -> None:
    manager.register("net.onnx")
    answer = manager.ask("GET", "/models/net", params={"customized": "true"})
    assert (answer[0], answer[1]["type"]) == (503, "ServiceUnavailableException")
    assert manager.ask("GET", "/models/digits", params={"customized": "true"})[0] == 200


def test_answers_are_written_as_the_old_servers_wrote_them(manager: Manager) -> None:
    answer = manager.client.get("/ping")
    assert answer.text == '{\n  "status": "Healthy"\n}\n'
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-cache; no-store, must-revalidate, private"
    assert answer.headers["x-request-id"]


# ---- nothing is lost


def test_unregistering_waits_for_what_is_inside_and_gives_up_where_it_is_told_to(manager: Manager) -> None:
    for name in ("inside", "out"):
        (manager.folder / name).unlink(missing_ok=True)
    manager.register("managed_waits:f", model_name="waits", initial_workers=1)
    with ThreadPoolExecutor(2) as pool:
        sent = pool.submit(httpx.post, f"{manager.server.url}/predictions/waits", json=1, timeout=PATIENCE)
        until = time.monotonic() + PATIENCE
        while not (manager.folder / "inside").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        refused = manager.ask("DELETE", "/models/waits", params={"timeout": "0.05"})
        assert (refused[0], refused[1]["type"]) == (408, "RequestTimeoutException")
        assert message(refused).startswith("Timed out while cleaning resources: waits")
        assert manager.only("waits")["state"] == "READY"
        gone = pool.submit(manager.ask, "DELETE", "/models/waits")
        (manager.folder / "out").touch()
        assert gone.result(PATIENCE) == (200, {"status": 'Model "waits" unregistered'})
        assert sent.result(PATIENCE).text == "out"
    assert manager.ask("DELETE", "/models/digits", params={"timeout": "soon"})[0] == 400


def test_two_managers_at_once_are_ordered(manager: Manager) -> None:
    """Each sees a whole change or none: of two that register the same, one is told that it is there."""
    start = threading.Barrier(8)

    def register(i: int) -> int:
        start.wait(PATIENCE)
        with httpx.Client(base_url=manager.server.management, timeout=PATIENCE) as client:
            return client.post("/models", params={"url": "net.onnx", "initial_workers": 1}).status_code

    def change(i: int) -> set[int]:
        with httpx.Client(base_url=manager.server.management, timeout=PATIENCE) as client:
            start.wait(PATIENCE)
            asked = {"min_worker": 1 + i % 2, "synchronous": "true"}
            return {client.put("/models/net", params=asked).status_code for _ in range(5)}

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(register, range(8))) == [200, *[409] * 7]
        assert set().union(*pool.map(change, range(8))) == {200}
    shown = manager.only("net")
    assert shown["state"] == "READY"
    assert len(shown["workers"]) == shown["minWorkers"] == shown["maxWorkers"]


def test_the_inference_api_answers_while_a_model_is_loaded(manager: Manager) -> None:
    (manager.folder / "go").unlink(missing_ok=True)
    asked = {"url": "managed_slow:f", "model_name": "slow", "initial_workers": 1}
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(manager.register, **asked)
        picture = next(PICTURE.glob("*.png")).read_bytes()
        for _ in range(20):
            assert httpx.post(f"{manager.server.url}/predictions/digits", content=picture).status_code == 200
        assert httpx.get(f"{manager.server.management}/ping").status_code == 200
        assert not loading.done()
        (manager.folder / "go").touch()
        assert loading.result(PATIENCE)[0] == 200
    (manager.folder / "go").unlink()


def test_a_page_of_another_origin_may_not_manage(manager: Manager) -> None:
    for origin, code in (("https://example.com", 403), ("null", 403), ("http://localhost:3000", 200)):
        status, _ = manager.ask("POST", "/models", params={"url": "net.onnx"}, headers={"origin": origin})
        assert status == code, origin
    assert "net" in manager.models()


# ---- the v2 repository


def test_the_v2_repository_lists_loads_and_unloads(manager: Manager) -> None:
    def index(**body: Any) -> dict[str, Any]:
        status, told = manager.ask("POST", "/v2/repository/index", json=body)
        assert status == 200
        return {each["name"]: each for each in told}

    assert index()["digits"]["state"] == "READY"
    assert index()["net"] == {"name": "net"}
    assert "net" not in index(ready=True)
    assert manager.ask("POST", "/v2/repository/models/net/load") == (200, None)
    assert index(ready=True)["net"] == {"name": "net", "version": "1", "state": "READY", "reason": ""}
    tensor = {"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.0] * 64}
    asked = {"inputs": [tensor]}
    assert httpx.post(f"{manager.server.url}/v2/models/net/infer", json=asked).status_code == 200
    assert manager.ask("POST", "/v2/repository/models/net/load")[0] == 200
    unload = {"parameters": {}}
    assert manager.ask("POST", "/v2/repository/models/net/unload", json=unload) == (200, None)
    assert index()["net"] == {"name": "net", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
    assert manager.ask("POST", "/v2/repository/models/net/load") == (200, None)
    assert index()["net"]["state"] == "READY"


def test_the_v2_repository_says_why_what_was_refused_is_not_there(manager: Manager) -> None:
    def index(name: str) -> list[dict[str, Any]]:
        return [each for each in manager.ask("POST", "/v2/repository/index")[1] if each["name"] == name]

    assert manager.ask("POST", "/v2/repository/models/bad/load")[0] == 400
    why = "Missing Model entry in manifest file."
    assert index("bad") == [{"name": "bad", "state": "UNAVAILABLE", "reason": why}]
    assert manager.register("bad", model_name="worse", model_version="3")[0] == 400
    assert index("worse") == [{"name": "worse", "version": "3", "state": "UNAVAILABLE", "reason": why}]
    assert manager.register("bad")[0] == 400
    assert len(index("bad")) == 1
    for _ in range(2):
        assert manager.register("net.onnx", model_name="many", initial_workers=900)[0] == 400
        (told,) = index("many")
        assert (told["version"], told["state"]) == ("1", "UNAVAILABLE")
        assert told["reason"].startswith("900 workers were asked for")
    for url, name in (("nowhere.mar", "lost"), ("net.onnx", "a b"), ("digits", "digits")):
        assert manager.register(url, model_name=name)[0] in (400, 404, 409)
    assert index("lost") == index("a b") == []
    assert [each["state"] for each in index("digits")] == ["READY"]
    assert manager.register("net.onnx", model_name="many", initial_workers=1)[0] == 200
    assert [each["state"] for each in index("many")] == ["READY"]
    assert manager.ask("DELETE", "/models/many")[0] == 200
    assert index("many") == [], "what has gone is not what failed before"


@pytest.mark.parametrize(
    ("path", "body", "code", "says"),
    [
        ("models/nobody/load", {}, 404, "Model not found in model store: nobody"),
        ("models/nobody/unload", {}, 404, "Model not found: nobody"),
        ("models/corrupt/load", {}, 500, "Failed to start workers for model corrupt version: 1"),
        ("models/net/load", {"parameters": {"config": "{}"}}, 400, "the parameter 'config' is not taken"),
        ("models/net/load", [], 400, "the body is an object of parameters, not list"),
        ("index", {"ready": "yes"}, 400, "ready is true or false, not 'yes'"),
    ],
)
def test_the_v2_repository_says_what_is_wrong(manager: Manager, path: str, body: Any, code: int, says: str) -> None:
    status, told = manager.ask("POST", f"/v2/repository/{path}", json=body)
    assert (status, set(told)) == (code, {"error"})
    assert told["error"].startswith(says)


# ---- to the letter


def test_torchserve_to_the_letter(torchserve: Manager) -> None:
    manager = torchserve
    assert manager.register("net.onnx") == (200, {"status": ZERO.format("net", "1")})
    assert "state" not in manager.only("net")
    assert manager.scale("net", min_worker="-1")[0] == 500
    for answer, said in (
        (manager.register("nowhere.mar"), "Model not found at: nowhere.mar"),
        (manager.register("corrupt.onnx", initial_workers=1), "Failed to start workers for model corrupt version: 1"),
        (manager.ask("GET", "/nothing"), "Requested resource is not found, please refer to API document."),
        (manager.ask("GET", "/"), "Requested method is not allowed, please refer to API document."),
    ):
        assert message(answer) == said
    assert manager.ask("DELETE", "/models/net") == (200, {"status": 'Model "net" unregistered'})


def test_mms_to_the_letter(mms: Manager) -> None:
    manager = mms
    assert manager.register("net.onnx") == (200, {"status": 'Model "net" registered'})
    assert message(manager.register("net.onnx")) == "Model net is already registered."
    assert manager.scale("net", min_worker=1) == (200, {"status": "Workers scaled"})
    status, told = manager.ask("GET", "/models/net")
    assert (status, told["modelName"], told["batchSize"]) == (200, "net", 32)
    assert set(told["workers"][0]) == {"id", "startTime", "status", "memoryUsage", "gpu"}
    assert message(manager.register("nowhere.mar")) == "Model not found in model store: nowhere.mar"
    assert message(manager.register("corrupt.onnx", initial_workers=1)) == "Failed to start workers"
    for options in ({"params": {"response_timeout": 2}}, {"json": {"response_timeout": 120}}):
        given = {key: {"url": "net.onnx", "model_name": "t", **value} for key, value in options.items()}
        assert manager.ask("POST", "/models", **given)[0] == 200
        operations = manager.ask("DELETE", "/models/t")
        assert operations[0] == 200
    assert manager.ask("DELETE", "/models/net") == (200, {"status": 'Model "net" unregistered'})


def test_of_a_model_store_the_old_servers_serve_nothing_until_they_are_told(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    shutil.copy(Path(BUNDLED_DIGITS, "digits.onnx"), store / "net.onnx")
    for compat, more, served in (
        ("headrace", (), ["net"]), ("triton", (), ["net"]), ("torchserve", (), []), ("mms", (), []),
        ("mms", ("--models=all",), ["net"]),
    ):  # fmt: skip
        flags = ("--management-address=127.0.0.1:0", "--model-store=store", f"--compat={compat}", *more)
        with run_server(*flags, cwd=tmp_path) as server:
            told = httpx.get(f"{server.management}/models").json()
            assert [each["modelName"] for each in told["models"]] == served
            assert httpx.get(f"{server.url}/ping").json() == {"status": "Healthy"}


# ---- switches, ports, the end


def test_registering_can_be_switched_off_and_torchserves_switch_is_taken(folder: Path) -> None:
    with managed(folder, "--enable-model-api", "--disable-token-auth", "--disable-model-api") as manager:
        refused = manager.register("net.onnx")
        assert (refused[0], refused[1]["type"]) == (405, "MethodNotAllowedException")
        assert manager.ask("DELETE", "/models/digits")[0] == 405
        assert manager.ask("POST", "/v2/repository/models/net/load")[0] == 404
        assert manager.scale("digits", min_worker=1)[0] == 200


def test_both_apis_are_on_one_port_where_their_addresses_are_equal(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    at = f"127.0.0.1:{port}"
    with managed(folder, f"--inference-address=http://{at}/", f"--management-address={at}") as manager:
        assert manager.server.management == manager.server.url
        assert manager.register("net.onnx", initial_workers=1)[0] == 200
        assert manager.client.post("/predictions/net", json=[[[[0.0] * 8] * 8]]).status_code == 200
        assert manager.ask("GET", "/ping") == (200, {"status": "Healthy"})
        paths = manager.ask("OPTIONS", "/")[1]["paths"]
        assert {"/models", "/predictions/net", "/v2/models/{model}/infer", "/v2/repository/index"} <= set(paths)
        assert manager.ask("GET", "/nothing")[0] == 404
        assert manager.ask("DELETE", "/models/net")[0] == 200


def test_tokens_guard_both_apis_and_are_renewed_with_a_key_of_their_own(folder: Path) -> None:
    keys = folder / "keys.json"

    def bearer(kind: str) -> dict[str, str]:
        return {"authorization": f"Bearer {json.loads(keys.read_text())[kind]['key']}"}

    refused = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
    with managed(folder, "--enable-token-auth", "--key-file=keys.json") as manager:
        assert keys.stat().st_mode & 0o777 == 0o600
        for headers in ({}, bearer("inference"), bearer("API"), {"authorization": "Bearer x"}):
            answer = manager.ask("GET", "/models", headers=headers)
            assert (answer[0], answer[1]["type"], message(answer)) == (400, "InvalidKeyException", refused)
        assert manager.ask("GET", "/models", headers=bearer("management"))[0] == 200
        for path in ("/ping", "/api-description"):
            assert manager.ask("GET", path)[0] == 200
            assert httpx.get(f"{manager.server.url}{path}").status_code == 200
        # More than twice: what a head says is remembered, and a token must not be.
        url, picture = f"{manager.server.url}/predictions/digits", next(PICTURE.glob("*.png")).read_bytes()
        good = bearer("inference")
        with httpx.Client() as client:
            for _ in range(5):
                assert client.post(url, content=picture, headers=good).status_code == 200
                assert client.post(url, content=picture).json()["type"] == "InvalidKeyException"
            with socket.create_connection(("127.0.0.1", manager.server.port)) as raw:
                head = f"POST /predictions/digits HTTP/1.1\r\nHost: x\r\nContent-Length: {len(picture)}\r\n"
                head += f"Authorization: {good['authorization']}\r\n\r\n"
                for code in (200, 200, 200, 400):
                    if code == 400:
                        assert manager.ask("GET", "/token?type=inference", headers=bearer("API"))[0] == 200
                    raw.sendall(head.encode() + picture)
                    assert raw.recv(65536).startswith(b"HTTP/1.1 %d " % code)
            good = bearer("inference")
            meta = f"{manager.server.url}/v2/models/digits"
            assert (client.get(meta).status_code, client.get(meta, headers=good).status_code) == (400, 200)
            assert manager.ask("GET", "/token?type=inference", headers=bearer("management"))[0] == 400
            assert manager.ask("GET", "/token?type=nothing", headers=bearer("API"))[0] == 400
            assert manager.ask("GET", "/token?type=inference", headers=bearer("API")) == (200, None)
            assert client.post(url, content=picture, headers=good).status_code == 400
            assert client.post(url, content=picture, headers=bearer("inference")).status_code == 200
        known = json.loads(keys.read_text())
        log = manager.server.log()
        assert not any(each["key"] in log for each in known.values())
        assert manager.server.stop() == 0
    assert not keys.exists()


def test_a_stop_refuses_what_has_not_begun_and_ends_what_has(folder: Path) -> None:
    (folder / "go").unlink(missing_ok=True)
    with managed(folder, "--drain-timeout=20") as manager, ThreadPoolExecutor(1) as pool:
        asked = {"url": "managed_slow:f", "model_name": "slow", "initial_workers": 1}
        loading = pool.submit(manager.register, **asked)
        until = time.monotonic() + PATIENCE
        with httpx.Client(base_url=manager.server.management) as other:
            while "slow" not in other.get("/models").text:
                assert time.monotonic() < until
                time.sleep(0.01)
        manager.server.signal(15)
        (folder / "go").touch()
        assert loading.result(PATIENCE)[0] == 200
        assert manager.server.process.wait(PATIENCE) == 0
    (folder / "go").unlink()


def test_a_taken_management_port_is_told_before_anything_is_loaded(folder: Path, headrace: Manager) -> None:
    at = headrace.server.management.removeprefix("http://")
    with pytest.raises(RuntimeError, match=rf"--management-address {at}: Address already in use"):
        with managed(folder, f"--management-address={at}"):
            pass
