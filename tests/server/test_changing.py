"""Settings changed by PATCH, priorities, and what handlers say of themselves, at a real server."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.server.options import BUNDLED_DIGITS
from headrace.testing import RunningServer, run_server

PATIENCE = 30
HANDLER = """
import os, time

class Service:
    def initialize(self, context):
        self.told = context.system_properties["batch_size"]
        self.order = []
        if os.path.exists("slow-start"):
            open("starts", "w").close()
            while os.path.exists("slow-start"):
                time.sleep(0.01)

    def handle(self, data, context):
        gate = context.get_request_header(0, "gate")
        if gate:
            open(gate + "-reached", "w").close()
            while not os.path.exists(gate):
                time.sleep(0.005)
        if context.get_request_header(0, "fails"):
            raise RuntimeError("it fails")
        if context.get_request_header(0, "short"):
            return []
        self.order += [context.get_request_header(i, "who") for i in range(len(data))]
        return [{"together": len(data), "told": self.told, "order": self.order}] * len(data)

    def describe_handle(self):
        return {"answers": len(self.order)}
"""
CALLABLES = {
    "patched_echo": "def f(x):\n    return x\n",
    "patched_lists": "def f(xs):\n    return xs\n",
    "patched_broken": "raise RuntimeError('no such weights')\n",
    "patched_order": (
        "import os, time\norder = []\ndef f(x):\n    if 'gate' in x:\n        open('v2-reached', 'w').close()\n"
        "        while not os.path.exists('v2'):\n            time.sleep(0.005)\n    order.append(int(x[0]))\n"
        "    return order\n"
    ),
}


class Manager:
    def __init__(self, server: RunningServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.client = httpx.Client(timeout=PATIENCE)

    def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        answer = self.client.request(method, f"{self.server.management}{path}", **options)
        return answer.status_code, answer.json() if answer.content else None

    def patch(self, model: str, query: str = "", **settings: Any) -> tuple[int, Any]:
        return self.ask("PATCH", f"/models/{model}{query}", json=settings)

    def described(self, model: str) -> dict[str, Any]:
        told = self.ask("GET", f"/models/{model}")[1]
        return dict(told[0] if isinstance(told, list) else told)

    def predict(self, model: str, **headers: str) -> httpx.Response:
        return httpx.post(f"{self.server.url}/predictions/{model}", content=b"x", headers=headers, timeout=PATIENCE)

    def inside(self, model: str, count: int) -> None:
        """Wait until so many wait for a worker."""
        until(lambda: self.described(model)["jobQueueStatus"]["pendingRequests"] == count)


def until(is_so: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("changed")
    for name, text in CALLABLES.items():
        (folder / f"{name}.py").write_text(text)
    archive = folder / "store" / "own"
    (archive / "MAR-INF").mkdir(parents=True)
    (archive / "service.py").write_text(HANDLER)
    about = {"modelName": "own", "modelVersion": "1.0", "handler": "service.py", "configFile": "config.yaml"}
    (archive / "config.yaml").write_text("responseTimeout: 77\nstartupTimeout: 66\n")
    (archive / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"runtime": "python", "model": about}))
    shutil.copy(Path(BUNDLED_DIGITS, "digits.onnx"), folder / "store" / "net.onnx")
    return folder


@contextmanager
def managed(folder: Path, *arguments: str) -> Iterator[Manager]:
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    doors = ("--management-address=127.0.0.1:0", "--model-store=store", "--models=own", "--manage-callables=yes")
    with run_server(*doors, *arguments, env=environment, cwd=folder) as server:
        manager = Manager(server, folder)
        with manager.client:
            yield manager


@pytest.fixture(scope="module")
def manager(folder: Path) -> Iterator[Manager]:
    with managed(folder) as manager:
        yield manager


@pytest.fixture
def own(manager: Manager, tmp_path: Path) -> Iterator[str]:
    """A model of its own handlers, in a fresh worker."""
    status, told = manager.ask("POST", "/models", params={"url": "own", "model_name": "mine", "initial_workers": 1})
    assert status == 200, told
    yield "mine"
    assert manager.ask("DELETE", "/models/mine")[0] == 200


def test_a_handlers_batch_size_changes_while_requests_wait(manager: Manager, own: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(manager.predict, own, gate=str(gate), who="0")
        until(Path(f"{gate}-reached").exists)
        waiting = [pool.submit(manager.predict, own, who=str(i)) for i in range(1, 5)]
        manager.inside(own, 4)
        status, told = manager.patch(own, batch_size=4, max_batch_delay=0)
        assert (status, told["changed"]) == (200, {"batch_size": {"from": 1, "to": 4}})
        assert told["status"] == 'Settings of model "mine" Version: 1.0 changed'
        gate.touch()
        assert first.result().json()["together"] == 1
        assert [each.result().json()["together"] for each in waiting] == [4] * 4, "one batch of all that waited"
    answer = manager.predict(own).json()
    assert (answer["together"], answer["told"]) == (1, 1), "what a worker was told at its start it keeps"
    assert manager.patch(own, batch_size=1)[0] == 200, "a handler is always given lists: back is possible, too"
    assert manager.patch(own, batch_size=3)[0] == 200
    assert manager.ask("PUT", f"/models/{own}", params={"min_worker": 0, "synchronous": "true"})[0] == 200
    assert manager.ask("PUT", f"/models/{own}", params={"min_worker": 1, "synchronous": "true"})[0] == 200
    assert manager.predict(own).json()["told"] == 3, "a new one is told the new number"


def test_several_settings_and_workers_in_one_with_a_line_that_says_who(manager: Manager, own: str) -> None:
    status, told = manager.patch(own, queue=7, response_timeout=33, min_workers=1, max_workers=2, max_batch_delay=0)
    assert status == 200
    assert told["changed"] == {
        "queue": {"from": None, "to": 7},
        "response_timeout": {"from": 77, "to": 33},
        "max_workers": {"from": 1, "to": 2},
    }
    seen = manager.described(own)
    assert (seen["responseTimeout"], seen["minWorkers"], seen["maxWorkers"]) == (33, 1, 2)
    assert seen["settings"] == {"priority_levels": 0, "queue": 7}
    assert seen["jobQueueStatus"]["remainingCapacity"] == 7
    until(lambda: "change mine:1.0 (queue" in manager.server.log())  # it is written by a thread of its own
    line = next(line for line in manager.server.log().splitlines() if "change mine:1.0 (queue" in line)
    for part in ("queue none -> 7", "response_timeout 77 -> 33", "max_workers 1 -> 2", "by 127.0.0.1:", "request "):
        assert part in line
    assert manager.patch(own, queue=7) == (200, {"status": told["status"], "changed": {}})
    manager.ask("PUT", f"/models/{own}", params={"min_worker": 0, "synchronous": "true"})
    manager.ask("PUT", f"/models/{own}", params={"min_worker": 1, "synchronous": "true"})
    assert manager.described(own)["responseTimeout"] == 33, "over what its YAML says, also when it comes back"


def test_a_registrations_time_for_the_load_goes_over_what_the_yaml_says(manager: Manager, own: str) -> None:
    assert manager.described(own)["startupTimeout"] == 66
    about: dict[str, Any] = {"url": "own", "model_name": "hurried", "startup_timeout": 50}
    assert manager.ask("POST", "/models", params=about)[0] == 200
    assert manager.described("hurried")["startupTimeout"] == 50
    assert manager.ask("DELETE", "/models/hurried")[0] == 200


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "the body is not JSON"),
        (b"[1]", "the body is an object of settings, not list"),
        (b'{"queue": 1, "queue": 2}', "'queue' came twice"),
        (b'{"max_batch_delay": NaN}', "NaN is no number of JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"{}", "nothing is to be changed"),
        (b'{"queue": 5, "colour": 1}', "there is no setting 'colour'; there are batch_size, max_batch_delay"),
        (b'{"queue": 5, "batch_size": "2"}', "batch_size is a whole number (rows joined into one run); '2' came"),
        (b'{"queue": 5, "min_workers": 3, "max_workers": 2}', "max_worker cannot be less than min_worker."),
        (b'{"queue": 5, "default_priority_level": 2}', "default_priority_level is only there with priority_levels"),
        (
            b'{"queue": 5, "min_workers": 500}',
            "500 workers were asked for; own runs in worker processes, of which a model",
        ),
    ],
)
def test_what_is_not_a_setting_is_told_and_changes_nothing(manager: Manager, body: bytes, why: str) -> None:
    status, told = manager.ask("PATCH", "/models/own", content=body)
    assert (status, told["type"]) == (400, "BadRequestException")
    assert why in told["message"]
    assert manager.described("own")["settings"] == {"priority_levels": 0}


def test_null_is_as_if_it_had_never_been_set(manager: Manager, own: str) -> None:
    assert manager.patch(own, queue=1, priority_levels=4, default_priority_level=1)[0] == 200
    assert manager.patch(own, priority=None)[1]["changed"] == {"default_priority_level": {"from": 1, "to": 2}}
    status, told = manager.patch(own, queue=None, priorities=None)
    assert (status, told["changed"]) == (
        200,
        {
            "queue": {"from": 1, "to": None},
            "priority_levels": {"from": 4, "to": 0},
            "default_priority_level": {"from": 2, "to": None},
        },
    )
    seen = manager.described(own)
    assert seen["settings"] == {"priority_levels": 0}
    assert seen["jobQueueStatus"]["remainingCapacity"] > 7, "the server's own bound"
    for name in ("batch_size", "max_batch_delay", "response_timeout", "min_workers", "max_workers"):
        status, told = manager.patch(own, **{"queue": 3, name: None})
        assert (status, "null came" in told["message"]) == (400, True)
    assert manager.described(own)["settings"] == {"priority_levels": 0}


def test_its_query_is_strict_too(manager: Manager) -> None:
    for query in ("?synchronous=yes", "?timeout=no", "?batch_size=3"):
        assert manager.patch("own", query, queue=5)[0] == 400, query
    assert manager.patch("nobody", queue=5)[0] == 404
    assert manager.patch("own/9", queue=5)[0] == 404
    assert manager.described("own")["settings"] == {"priority_levels": 0}


def test_a_callable_is_not_called_in_another_way(manager: Manager) -> None:
    for name, size in (("patched_echo", 1), ("patched_lists", 4)):
        url = {"url": f"{name}:f", "model_name": "m", "initial_workers": 1, "batch_size": size}
        assert manager.ask("POST", "/models", params=url)[0] == 200
        status, told = manager.patch("m", queue=5, batch_size=5 - size)
        assert status == 400
        assert "load it with another max_batch_size" in told["message"]
        assert manager.described("m")["settings"] == {"priority_levels": 0}
        assert manager.patch("m", min_workers=0, max_workers=0)[0] == 200, "parked"
        status, told = manager.patch("m", batch_size=5 - size, min_workers=1)
        assert status == 200, "loaded anew it may be"
        assert told["changed"]["max_workers"] == {"from": 0, "to": 1}
        assert manager.described("m")["batchSize"] == 5 - size
        assert manager.ask("DELETE", "/models/m")[0] == 200


def test_a_load_that_fails_leaves_the_other_settings(manager: Manager) -> None:
    assert manager.ask("POST", "/models", params={"url": "patched_broken:f", "model_name": "m"})[0] == 200
    status, told = manager.patch("m", queue=5, min_workers=1)
    assert status == 500
    assert "no such weights" in told["message"]
    seen = manager.described("m")
    assert (seen["settings"], seen["minWorkers"], seen["maxWorkers"]) == ({"priority_levels": 0}, 0, 0)
    assert manager.ask("DELETE", "/models/m")[0] == 200


def test_it_can_be_followed(manager: Manager, own: str) -> None:
    answer = manager.client.patch(
        f"{manager.server.management}/models/{own}?synchronous=false", json={"queue": 4, "min_workers": 2}
    )
    assert answer.status_code == 202
    where = answer.headers["location"]
    until(lambda: manager.ask("GET", where)[1]["state"] != "running")
    told = manager.ask("GET", where)[1]
    assert (told["state"], told["kind"], told["model"]) == ("done", "change", own)
    changed = {"queue": {"from": None, "to": 4}, "min_workers": {"from": 1, "to": 2}}
    changed["max_workers"] = changed["min_workers"]
    assert told["changed"] == changed
    assert len(manager.described(own)["workers"]) == 2


# ---- priorities


def test_higher_levels_come_first(manager: Manager, own: str, tmp_path: Path) -> None:
    status, told = manager.patch(own, priority_levels=3)
    assert (status, told["changed"]) == (
        200,
        {"priority_levels": {"from": 0, "to": 3}, "default_priority_level": {"from": None, "to": 2}},
    )
    gate, said = tmp_path / "gate", ("3", None, "1", "0", "2", "1")
    with ThreadPoolExecutor(7) as pool:
        pool.submit(manager.predict, own, gate=str(gate), who="gate")
        until(Path(f"{gate}-reached").exists)
        sent: list[Future[httpx.Response]] = []
        for i, level in enumerate(said):
            headers = {} if level is None else {"x-headrace-priority": level}
            sent.append(pool.submit(manager.predict, own, who=str(i), **headers))
            manager.inside(own, i + 1)
        gate.touch()
        order = max((each.result().json()["order"] for each in sent), key=len)
    assert order[order.index("gate") + 1 :] == ["2", "5", "1", "3", "4", "0"]
    wrong = manager.predict(own, **{"x-headrace-priority": "high"})
    assert wrong.status_code == 400
    assert "x-headrace-priority is a whole number: 1 is the highest level" in wrong.json()["message"]
    assert manager.predict(own, **{"x-headrace-priority": "9"}).status_code == 200, "as Triton: the default"
    assert manager.patch(own, priorities=0)[1]["changed"]["default_priority_level"] == {"from": 2, "to": None}
    assert manager.predict(own, **{"x-headrace-priority": "high"}).status_code == 200, "nobody looks"


def infer(manager: Manager, number: int, *, gate: bool = False, **parameters: Any) -> httpx.Response:
    data = [str(number), "gate"] if gate else [str(number)]
    body = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [len(data)], "data": data}]}
    url = f"{manager.server.url}/v2/models/order/infer"
    return httpx.post(url, json={**body, "parameters": parameters}, timeout=PATIENCE)


def test_v2_requests_say_it_in_their_parameters(manager: Manager) -> None:
    url = {"url": "patched_order:f", "model_name": "order", "initial_workers": 1}
    assert manager.ask("POST", "/models", params=url)[0] == 200
    assert manager.patch("order", priority_levels=2, default_priority_level=2)[0] == 200
    with ThreadPoolExecutor(4) as pool:
        pool.submit(infer, manager, 0, gate=True)
        until((manager.folder / "v2-reached").exists)
        sent = []
        for number, parameters in ((1, {}), (2, {"priority": 2}), (3, {"priority": 1})):
            sent.append(pool.submit(infer, manager, number, **parameters))
            manager.inside("order", number)
        (manager.folder / "v2").touch()
        orders = [each.result().json()["outputs"][0]["data"] for each in sent]
    assert max(orders, key=len) == [0, 3, 1, 2]
    for wrong in (-1, 1.5, "high", True):
        answer = infer(manager, 5, priority=wrong)
        assert answer.status_code == 400, wrong
        assert "parameters.priority is a whole number" in answer.json()["error"]
    assert manager.ask("DELETE", "/models/order")[0] == 200


# ---- customized


def test_a_handler_is_asked_what_it_says_of_itself(manager: Manager, own: str, tmp_path: Path) -> None:
    manager.patch(own, batch_size=4)
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(4) as pool:
        pool.submit(manager.predict, own, gate=str(gate))
        until(Path(f"{gate}-reached").exists)
        sent = [pool.submit(manager.predict, own)]
        manager.inside(own, 1)
        asked = pool.submit(httpx.get, f"{manager.server.management}/models/{own}?customized=true", timeout=PATIENCE)
        manager.inside(own, 2)
        sent.append(pool.submit(manager.predict, own))
        manager.inside(own, 3)
        gate.touch()
        assert json.loads(asked.result().json()[0]["customizedMetadata"]) == {"answers": 3}
        assert [each.result().json()["together"] for each in sent] == [2, 2], "they go together, it goes alone"
    assert "customizedMetadata" not in manager.described(own)


def test_nobody_to_ask(manager: Manager) -> None:
    assert manager.ask("POST", "/models", params={"url": "own", "model_name": "parked"})[0] == 200
    status, told = manager.ask("GET", "/models/parked?customized=true")
    assert (status, told["type"]) == (503, "ServiceUnavailableException")
    assert told["message"] == (
        'Model "parked" has no worker to serve describe request. Please use scale workers API to add workers. '
        "It is REGISTERED."
    )
    assert manager.ask("DELETE", "/models/parked")[0] == 200


# ---- workers


def test_a_model_may_be_registered_with_bounds(manager: Manager) -> None:
    about = {"url": "own", "model_name": "m", "initial_workers": 1, "max_workers": 3}
    status, told = manager.ask("POST", "/models", params=about)
    assert (status, told["status"]) == (200, 'Model "m" Version: 1.0 registered with 1 initial workers')
    seen = manager.described("m")
    assert (seen["minWorkers"], seen["maxWorkers"], len(seen["workers"])) == (1, 3, 1)
    assert manager.ask("DELETE", "/models/m")[0] == 200
    assert manager.ask("POST", "/models", params={**about, "initial_workers": 4})[0] == 400


def test_when_the_time_is_up_before_all_workers_are(manager: Manager, own: str) -> None:
    (folder_of(manager, own) / "slow-start").touch()
    try:
        answer = manager.ask("PUT", f"/models/{own}?min_worker=2&synchronous=true&timeout=1")
        assert answer == (206, {"status": "Workers scaling in progress..."})
        status, told = manager.patch(own, "?timeout=0.1", min_workers=3)
        assert (status, told["status"]) == (206, "Workers scaling in progress...")
        assert manager.predict(own).status_code == 200, "the one that is up answers"
    finally:
        (folder_of(manager, own) / "slow-start").unlink()
    until(lambda: [each["status"] for each in manager.described(own)["workers"]] == ["READY"] * 3)


def folder_of(manager: Manager, name: str) -> Path:
    """Where its workers run."""
    pid = manager.described(name)["workers"][0]["pid"]
    return Path(os.readlink(f"/proc/{pid}/cwd"))


# ---- the old servers' words at the inference API

WORDS = {
    "torchserve": (
        'Model "own" has no worker to serve inference request. Please use scale workers API to add workers. If this is '
        "a sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
    ),
    "mms": "No worker is available to serve request for model: own. Consider increasing job queue size.",
}


@pytest.mark.parametrize("compat", ["torchserve", "mms"])
def test_the_old_servers_words(folder: Path, tmp_path: Path, compat: str) -> None:
    with managed(folder, f"--compat={compat}", "--max-body-size=1000") as manager:
        url = manager.server.url

        def told(answer: httpx.Response) -> tuple[int, str, str]:
            about = answer.json()
            assert set(about) == {"code", "type", "message"}
            assert about["code"] == answer.status_code
            return about["code"], about["type"], about["message"]

        failed = (503, "InternalServerException", "Prediction failed")
        assert told(manager.predict("own", fails="1")) == failed
        assert told(httpx.post(f"{url}/v2/models/own/infer", content=b"x", headers={"fails": "1"})) == failed
        short = (503, "InternalServerException", "number of batch response mismatched")
        assert told(manager.predict("own", short="1")) == short
        assert told(manager.predict("nobody")) == (404, "ModelNotFoundException", "Model not found: nobody")
        nowhere = "Requested resource is not found, please refer to API document."
        assert told(httpx.get(f"{url}/no/such/thing")) == (404, "ResourceNotFoundException", nowhere)
        method = "Requested method is not allowed, please refer to API document."
        assert told(httpx.delete(f"{url}/ping")) == (405, "MethodNotAllowedException", method)
        large = httpx.post(f"{url}/predictions/own", content=b"x" * 1001)
        assert (large.status_code, large.content) == (413, b"")
        busy = (503, "ServiceUnavailableException", WORDS[compat])
        assert manager.patch("own", queue=1)[0] == 200
        gate = tmp_path / "gate"
        with ThreadPoolExecutor(1) as pool:
            pool.submit(manager.predict, "own", gate=str(gate))
            until(Path(f"{gate}-reached").exists)
            assert told(manager.predict("own")) == busy
            gate.touch()
        assert httpx.get(f"{url}/ping").json() == {"status": "Healthy"}
        assert manager.patch("own", min_workers=0, max_workers=0)[0] == 200
        assert told(manager.predict("own")) == busy
        for base in (url, manager.server.management):
            ping = httpx.get(f"{base}/ping")
            assert (ping.status_code, ping.json()) == (200, {"status": "Healthy"}), "none are wanted"
        with_version = told(manager.predict("own/1.0"))[2]
        assert with_version.startswith('Model "own" Version 1.0" has no') == (compat == "torchserve")
