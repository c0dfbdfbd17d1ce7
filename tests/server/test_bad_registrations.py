"""Every kind of bad input to the management API, as each server tells it: status, type and text; and afterwards all is
as it was, and nothing is left on disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.server.options import BUNDLED_DIGITS
from headrace.testing import RunningServer, run_server

PATIENCE = 30
BAD, INVALID, INTERNAL = "BadRequestException", "InvalidModelException", "InternalServerException"
NO_MODEL, NO_VERSION = "ModelNotFoundException", "ModelVersionNotFoundException"
MODULES = {
    "refuses": "raise RuntimeError('no such weights')\n",
    "hungry": "raise MemoryError('more than there is')\n",
    "stays": "import threading\nthreading.Event().wait()\n",
}
HANDLER = "def handle(data, context):\n    return None if data is None else ['x'] * len(data)\n"


def manifest(name: str, **changes: Any) -> str:
    """Of an archive that lacks nothing; None in `changes` takes an entry away."""
    model = {"modelName": name, "handler": "h.py", "modelVersion": "1.0"}
    whole = {"runtime": "python", "model": model}
    for key, value in changes.items():
        owner: dict[str, Any] = whole if key in ("runtime", "model") else model
        if value is None:
            del owner[key]
        else:
            owner[key] = value
    return json.dumps(whole)


ARCHIVES: dict[str, dict[str, str]] = {
    "no_json": {"MAR-INF/MANIFEST.json": "{nope"},
    "no_signature": {"MAR-INF/MANIFEST.json": manifest("no_signature"), "signature.json": "{nope"},
    "no_model": {"MAR-INF/MANIFEST.json": manifest("no_model", model=None)},
    "no_name": {"MAR-INF/MANIFEST.json": manifest("no_name", modelName=None)},
    "no_version": {"MAR-INF/MANIFEST.json": manifest("no_version", modelVersion=None)},
    "no_runtime": {"MAR-INF/MANIFEST.json": manifest("no_runtime", runtime=None)},
    "odd_runtime": {"MAR-INF/MANIFEST.json": manifest("odd_runtime", runtime="ruby")},
    "no_handler": {"MAR-INF/MANIFEST.json": manifest("no_handler", handler=None)},
    "no_manifest": {},
    "bad_labels": {
        "MAR-INF/MANIFEST.json": manifest("bad_labels", handler="image_classifier", serializedFile="net.onnx"),
        "net.onnx": "",
        "index_to_name.json": "[]",
    },
    "lost_file": {"MAR-INF/MANIFEST.json": manifest("lost_file", serializedFile="lost.pt")},
    "fails": {"MAR-INF/MANIFEST.json": manifest("fails"), "h.py": MODULES["refuses"]},
    "hungry": {"MAR-INF/MANIFEST.json": manifest("hungry"), "h.py": MODULES["hungry"]},
    "stays": {"MAR-INF/MANIFEST.json": manifest("stays"), "h.py": MODULES["stays"]},
}


class Server:
    def __init__(self, running: RunningServer, folder: Path, compat: str) -> None:
        self.running, self.folder, self.compat = running, folder, compat
        self.client = httpx.Client(timeout=PATIENCE)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.client.request(method, self.running.management + path, **options)

    def predict(self, path: str, body: bytes = b"1") -> httpx.Response:
        return self.client.post(self.running.url + path, content=body)

    def state(self) -> tuple[object, list[str]]:
        """All it knows, and every file there is."""
        listed = self.ask("GET", "/models").json()
        shown = {each["modelName"]: self.ask("GET", f"/models/{each['modelName']}").json() for each in listed["models"]}
        for told in shown.values():
            for one in told if isinstance(told, list) else [told]:
                for worker in one["workers"]:
                    worker.pop("memoryUsage")
        files = [str(path) for path in self.folder.rglob("*") if "__pycache__" not in path.parts]
        return (listed, shown), sorted(files)


@pytest.fixture(scope="module", params=["headrace", "torchserve", "mms"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(request.param)
    store = folder / "store"
    store.mkdir()
    shutil.copytree(BUNDLED_DIGITS, store / "digits")
    shutil.copy(Path(BUNDLED_DIGITS, "digits.onnx"), store / "net.onnx")
    (store / "corrupt.onnx").write_bytes(b"this is no model")
    (store / "notes.txt").write_text("no model")
    (store / "no_zip.mar").write_text("no archive")
    for name, files in ARCHIVES.items():
        files = {"h.py": HANDLER, **files}
        with zipfile.ZipFile(store / f"{name}.mar", "w") as archive:
            for path, text in files.items():
                (store / name / path).parent.mkdir(parents=True, exist_ok=True)
                (store / name / path).write_text(text)
                archive.writestr(path, text)
    (store / "cat").symlink_to("/usr")
    (folder / "cache").mkdir(mode=0o700)
    flags = ("--model-store=store", "--models=digits", "--cache-dir=cache", f"--compat={request.param}")
    flags += (f"--allowed-urls={NOBODY}/.*",)
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    with run_server("--management-address=127.0.0.1:0", *flags, env=environment, cwd=folder) as running:
        server = Server(running, folder, request.param)
        with server.client:
            yield server
        assert running.process.poll() is None


def of(name: str, **more: Any) -> dict[str, Any]:
    return {"url": f"{name}.mar", "initial_workers": 1, **more}


Told = tuple[int, str, str]
NOBODY = "http://127.0.0.1:1"
"""Nothing answers there."""
NOT_STARTED = "Failed to start workers"


def failed(name: str, version: str = "1.0") -> dict[str, Told]:
    said = f"Failed to start workers for model {name} version: {version}"
    return {
        "headrace": (500, INTERNAL, said + ": ..."),
        "torchserve": (500, INTERNAL, said),
        "mms": (500, INTERNAL, NOT_STARTED),
    }


def everywhere(code: int, kind: str, said: str) -> dict[str, Told]:
    """A text that ends with `...` may go on."""
    return dict.fromkeys(("headrace", "torchserve", "mms"), (code, kind, said))


def there(url: str) -> dict[str, Told]:
    return {
        "headrace": (404, NO_MODEL, f"Model not found at: {url} ..."),
        "torchserve": (404, NO_MODEL, f"Model not found at: {url}"),
        "mms": (404, NO_MODEL, f"Model not found in model store: {url}"),
    }


NOT_PARSED = (400, INVALID, "Failed to parse signature.json.")
MEMORY: dict[str, Told] = {
    "headrace": (507, INTERNAL, "System out of memory: ..."),
    "torchserve": (507, INTERNAL, "System out of memory"),
    "mms": (507, INTERNAL, "System out of memory"),
}


def counted(said: str) -> dict[str, Told]:
    """The old servers' 500 for numbers below 0."""
    old = (500, INTERNAL, said)
    return {"headrace": (400, BAD, said), "torchserve": old, "mms": old}


REGISTERING: list[tuple[dict[str, Any], dict[str, Told]]] = [
    # a bad url, and one that is not allowed
    ({}, everywhere(400, BAD, "Parameter url is required.")),
    ({"url": ""}, everywhere(400, BAD, "Parameter url is required.") | {"torchserve": (404, NO_MODEL, "empty url")}),
    ({"url": "nowhere.mar"}, there("nowhere.mar")),
    ({"url": "/nowhere/a.mar"}, there("/nowhere/a.mar")),
    ({"url": "n" * 300}, there("n" * 200)),
    ({"url": "http://[bad"}, {
        "headrace": (404, NO_MODEL, "Invalid model url: http://[bad: ..."),
        "torchserve": (400, "DownloadArchiveException", "Failed to download archive from: http://[bad"),
        "mms": (404, NO_MODEL, "Invalid model url: http://[bad"),
    }),
    ({"url": "http://h/a.mar"},
     everywhere(404, NO_MODEL, "Given URL http://h/a.mar does not match any allowed URL(s)")),
    ({"url": "file:///etc/passwd"},
     everywhere(404, NO_MODEL, "Given URL file:///etc/passwd does not match any allowed URL(s)")),
    ({"url": f"{NOBODY}/a.mar"}, {
        "headrace": (400, "DownloadArchiveException", f"Failed to download archive from: {NOBODY}/a.mar (Conn..."),
        "torchserve": (400, "DownloadArchiveException", f"Failed to download archive from: {NOBODY}/a.mar"),
        "mms": (400, "DownloadModelException", f"Failed to download model from: {NOBODY}/a.mar"),
    }),
    # a path that escapes
    ({"url": "../net.onnx"}, everywhere(404, NO_MODEL, "Relative path is not allowed in url: ../net.onnx")),
    ({"url": "a/../../b"}, everywhere(404, NO_MODEL, "Relative path is not allowed in url: a/../../b")),
    ({"url": "cat/bin"}, everywhere(404, NO_MODEL, "Relative path is not allowed in url: cat/bin...")),
    # what is no archive, or lacks something
    (of("no_manifest"), {
        "headrace": (400, INVALID, "... has no MAR-INF/MANIFEST.json: its handler must then be given when ..."),
        "torchserve": (400, INVALID, "Missing Model entry in manifest file."),
        "mms": (400, INVALID, "Model handler is not defined."),
    }),
    ({"url": "no_manifest", "initial_workers": 1}, {
        "headrace": (400, INVALID, "no_manifest is a folder without a manifest: an archive, or one of ..."),
        "torchserve": (400, INVALID, "Missing Model entry in manifest file."),
        "mms": (400, INVALID, "Model handler is not defined."),
    }),
    (of("no_json"), {
        "headrace": (400, INVALID, "no_json.mar: MAR-INF/MANIFEST.json is not JSON: ..."),
        "torchserve": NOT_PARSED,
        "mms": NOT_PARSED,
    }),
    (of("no_model"), everywhere(400, INVALID, "Missing Model entry in manifest file.")),
    (of("no_name"), everywhere(400, INVALID, "Model name is not defined.")),
    (of("odd_runtime"), everywhere(400, INVALID, "Runtime is not defined or invalid.")),
    (of("lost_file"), everywhere(400, INVALID, "the manifest names 'lost.pt', but there is no such file in ...")),
    (of("bad_labels"), everywhere(400, INVALID, "index_to_name.json must be a JSON object of class ...")),
    (of("no_zip"), everywhere(400, INVALID, "... is neither a zip file nor a gzipped tar file; archives are made ...")),
    ({"url": "notes.txt"}, everywhere(400, INVALID, "notes.txt is a file of no kind that is loaded: ...")),
    # a name or a version that exists, or cannot be
    ({"url": "digits"}, {
        "headrace": (409, "ConflictStatusException", "Model version 1.0 is already registered for model digits"),
        "torchserve": (409, "ConflictStatusException", "Model version 1.0 is already registered for model digits"),
        "mms": (409, "ConflictStatusException", "Model digits is already registered."),
    }),
    ({"url": "net.onnx", "model_name": "a/b"},
     everywhere(400, BAD, "'a/b' cannot be the name of a model: letters, digits, '_', '.' and '-', the first a letter "
                "or a digit; give another (model_name)")),
    ({"url": "net.onnx", "model_version": "a/b"}, everywhere(400, BAD, "'a/b' cannot be a version: ...")),
    ({"url": "net.onnx", "runtime": "java"}, everywhere(400, BAD, "Invalid RuntimeType value: java")),
    # numbers
    ({"url": "net.onnx", "initial_workers": 2, "max_workers": 1},
     everywhere(400, BAD, "max_worker cannot be less than min_worker.")),
    ({"url": "net.onnx", "initial_workers": -1}, counted("initial_workers is counted from 0 up, not -1")),
    ({"url": "net.onnx", "max_workers": -1}, counted("max_workers is counted from 0 up, not -1")),
    ({"url": "net.onnx", "batch_size": -2}, everywhere(400, BAD, "batch_size is at least 1, not -2")),
    ({"url": "net.onnx", "max_batch_delay": -2}, everywhere(400, BAD, "max_batch_delay is at least 0, not -2")),
    ({"url": "net.onnx", "response_timeout": -2}, everywhere(400, BAD, "response_timeout is at least 1, not -2")),
    ({"url": "net.onnx", "startup_timeout": -2}, everywhere(400, BAD, "startup_timeout is at least 0, not -2")),
    ({"url": "net.onnx", "initial_workers": 900}, everywhere(400, BAD, "900 workers were asked for; ...")),
    (of("fails", initial_workers=900),
     everywhere(400, BAD, "900 workers were asked for; fails runs in worker processes, of which...")),
    # a load that fails, takes too long, or needs too much
    (of("fails"), failed("fails")),
    ({"url": "corrupt.onnx", "initial_workers": 1}, failed("corrupt", "1")),
    (of("stays", startup_timeout=1), failed("stays")),
    ({"url": "net.onnx", "initial_workers": 1, "startup_timeout": 0}, failed("net", "1")),
    (of("hungry"), MEMORY),
]  # fmt: skip
MANAGING: list[tuple[str, str, dict[str, Any], dict[str, Told]]] = [
    ("PUT", "/models/nobody", {}, everywhere(404, NO_MODEL, "Model not found: nobody")),
    ("GET", "/models/nobody", {}, everywhere(404, NO_MODEL, "Model not found: nobody")),
    ("DELETE", "/models/nobody", {}, everywhere(404, NO_MODEL, "Model not found: nobody")),
    ("PUT", "/models/nobody/1/set-default", {}, everywhere(404, NO_MODEL, "Model not found: nobody")),
    ("DELETE", "/models/digits/9", {}, {
        "headrace": (404, NO_VERSION, "Model version: 9 does not exist for model: digits"),
        "torchserve": (404, NO_VERSION, "Model version: 9 does not exist for model: digits"),
        "mms": (404, NO_MODEL, "Model not found: digits"),
    }),
    ("GET", "/models/digits/1.0/x", {}, {
        "headrace": (404, "ResourceNotFoundException",
                     "there is no '/models/digits/1.0/x'; there are /models, /models/{model}, /models/{model}/{ver..."),
        "torchserve": (404, "ResourceNotFoundException",
                       "Requested resource is not found, please refer to API document."),
        "mms": (404, "ResourceNotFoundException", "Requested resource is not found, please refer to API document."),
    }),
    ("PUT", "/models/digits", {"min_worker": 3, "max_worker": 2},
     everywhere(400, BAD, "max_worker cannot be less than min_worker.")),
    ("PUT", "/models/digits", {"min_worker": -1}, counted("min_worker is counted from 0 up, not -1")),
    ("PUT", "/models/digits", {"max_worker": -1}, counted("max_worker is counted from 0 up, not -1")),
    ("PUT", "/models/digits", {"min_worker": 900}, everywhere(400, BAD, "900 workers were asked for; ...")),
]  # fmt: skip


def agrees(said: str, wanted: str) -> bool:
    begin, dots, end = wanted.partition("...")
    if not dots:
        return said == wanted
    if begin:
        return said.startswith(begin)
    return end.removesuffix("...").strip() in said


def check(server: Server, answer: httpx.Response, wanted: Told) -> None:
    told = answer.json()
    assert set(told) == {"code", "type", "message"}
    assert (answer.status_code, told["code"], told["type"]) == (wanted[0], wanted[0], wanted[1]), told
    assert agrees(told["message"], wanted[2]), told["message"]
    if server.compat != "headrace":
        assert str(server.folder) not in told["message"]
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(("parameters", "told"), REGISTERING)
def test_what_cannot_be_registered(server: Server, parameters: dict[str, Any], told: dict[str, Told]) -> None:
    before = server.state()
    check(server, server.ask("POST", "/models", params=parameters), told[server.compat])
    assert server.state() == before
    assert server.client.get(f"{server.running.url}/ping").json() == {"status": "Healthy"}


@pytest.mark.parametrize(("method", "path", "parameters", "told"), MANAGING)
def test_what_cannot_be_managed(
    server: Server, method: str, path: str, parameters: dict[str, Any], told: dict[str, Told]
) -> None:
    before = server.state()
    check(server, server.ask(method, path, params={**parameters, "synchronous": "true"}), told[server.compat])
    assert server.state() == before


LACKS = {
    "no_version": {"torchserve": (400, INVALID, "Model version is not defined.")},
    "no_runtime": {"torchserve": (400, INVALID, "Runtime is not defined or invalid.")},
    "no_signature": {"torchserve": NOT_PARSED, "mms": NOT_PARSED},
    "no_handler": {"mms": (400, INVALID, "Model handler is not defined.")},
}


@pytest.mark.parametrize("name", LACKS)
def test_what_only_an_old_server_wants_an_archive_to_say(server: Server, name: str) -> None:
    before = server.state()
    answer = server.ask("POST", "/models", params={"url": f"{name}.mar"})
    told = LACKS[name].get(server.compat)
    if told is not None:
        check(server, answer, told)
    else:
        assert answer.status_code == 200, answer.text
        assert server.ask("DELETE", f"/models/{name}").status_code == 200
    assert server.state() == before
    given = {"model_version": "3", "runtime": "python", "handler": "h.py"}
    if name != "no_signature":
        assert server.ask("POST", "/models", params={"url": f"{name}.mar", **given}).status_code == 200
        assert server.ask("DELETE", f"/models/{name}").status_code == 200
        assert server.state() == before


@pytest.mark.parametrize("url", ["no_manifest", "no_manifest.mar"])
def test_without_a_manifest_the_registration_says_it_all(server: Server, url: str) -> None:
    before = server.state()
    given = {"url": url, "model_name": "own", "handler": "h.py", "initial_workers": 1}
    assert server.ask("POST", "/models", params=given).status_code == 200
    assert server.predict("/predictions/own").text == "x"
    assert server.ask("DELETE", "/models/own").status_code == 200
    assert server.state() == before


def test_numbers_that_are_none_are_as_if_not_given(server: Server) -> None:
    before = server.state()
    odd = {"url": "net.onnx", "batch_size": "dd", "max_batch_delay": "x", "initial_workers": "many"}
    assert server.ask("POST", "/models", params=odd).status_code == 200
    assert server.ask("PUT", "/models/net", params={"min_worker": "x", "synchronous": "Nan"}).status_code == 202
    assert server.ask("DELETE", "/models/net").status_code == 200
    assert server.state() == before


def test_times_that_are_too_long_are_the_longest(server: Server) -> None:
    before = server.state()
    told = server.ask("POST", "/models", params={"url": "net.onnx", "max_batch_delay": 10**9, "initial_workers": 1})
    assert told.status_code == 200
    seen = server.ask("GET", "/models/net").json()
    assert (seen if server.compat == "mms" else seen[0])["maxBatchDelay"] == 3_600_000
    assert server.ask("DELETE", "/models/net").status_code == 200
    assert server.state() == before


def test_numbers_as_text_in_json_are_only_for_who_speaks_as_an_old_server(server: Server) -> None:
    before = server.state()
    answer = server.ask("POST", "/models", json={"url": "net.onnx", "batch_size": "4"})
    assert answer.status_code == (400 if server.compat == "headrace" else 200)
    flag = server.ask("POST", "/models", json={"url": "net.onnx", "model_name": "flag", "synchronous": "yes"})
    assert flag.status_code == (400 if server.compat == "headrace" else 200), "though there is nothing to wait for"
    if server.compat != "headrace":
        assert server.ask("DELETE", "/models/flag").status_code == 200
    if server.compat != "headrace":
        assert server.ask("DELETE", "/models/net").status_code == 200
    assert server.state() == before


def test_the_repositorys_index_names_no_folder_where_an_old_server_is_spoken(server: Server) -> None:
    server.ask("POST", "/models", params={"url": "lost_file"})
    told = {each["name"]: each for each in server.ask("POST", "/v2/repository/index").json()}
    assert told["lost_file"]["state"] == "UNAVAILABLE"
    assert (str(server.folder) in told["lost_file"]["reason"]) == (server.compat == "headrace")


def test_what_is_no_http_and_what_names_no_model(server: Server) -> None:
    url = httpx.URL(server.running.url)
    with socket.create_connection(("127.0.0.1", url.port), timeout=PATIENCE) as raw:
        raw.sendall(b"GET /ping HTTP/1.1\r\nno header\r\n\r\n")
        came = b""
        while part := raw.recv(65536):
            came += part
    told = json.loads(came.partition(b"\r\n\r\n")[2])
    assert (told["code"], told["type"]) == (400, BAD)
    assert (told["message"] == "Invalid HTTP message.") == (server.compat != "headrace")
    server.ask("POST", "/models", params={"url": "net.onnx"})
    told = server.predict("/invocations").json()
    assert (told["code"], told["type"]) == (400, BAD)
    assert told["message"].startswith("Parameter model_name is required")
    assert (told["message"] == "Parameter model_name is required.") == (server.compat != "headrace")
    assert server.ask("DELETE", "/models/net").status_code == 200


def test_an_old_servers_connection_ends_with_an_error_and_stays_without_one(server: Server) -> None:
    old = server.compat != "headrace"
    for port, good, bad in (
        (httpx.URL(server.running.management).port, b"/models/digits", b"/models/nobody"),
        (server.running.port, b"/api-description", b"/predictions/nobody"),
        (server.running.port, b"/ping", b"/nothing/at/all/there"),
    ):
        asked = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as raw:
            last = asked.replace(b"Host: x", b"Host: x\r\nConnection: close")
            raw.sendall(asked % good + asked % bad + last % good)
            came = b""
            while part := raw.recv(65536):
                came += part
        heads = [head.lower() for head in re.findall(rb"HTTP/1.1 (\d{3} .*?\r\n)\r\n", came, re.DOTALL)]
        assert [each[:3] for each in heads] == [b"200", b"404", *([] if old else [b"200"])]
        assert (b"connection: keep-alive" in heads[0]) == old
        assert (b"connection: close" in heads[1]) == old
