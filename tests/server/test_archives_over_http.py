"""Archives of every maker through a real server: what handlers were written against holds from client to reply."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnxruntime import InferenceSession
from tritonclient.utils import InferenceServerException

from headrace.server.options import BUNDLED_DIGITS
from headrace.testing import RunningServer, run_server

PATIENCE = 60.0
PICTURE = sorted(Path(__file__).resolve().parents[2].joinpath("examples/digits/held_out").glob("*-6.png"))[0]

SHOWS = """
import gzip
import os

class Shows:
    def initialize(self, context):
        self.labels = os.path.exists("index_to_name.json")

    def handle(self, data, context):
        answers = []
        for index, row in enumerate(data):
            context.metrics.add_counter("Asked", 1, idx=index)
            context.metrics.add_time("Thinking", 2.5, idx=index)
            headers = context.get_all_request_header(index)
            context.set_response_content_type(index, "application/json")
            context.set_response_header(index, "X-Shown", "yes")
            body = row.get("body")
            if isinstance(body, dict) and "status" in body:
                context.set_response_status(code=body["status"], phrase="As asked", idx=index)
            answers.append({
                "id": context.get_request_id(index), "keys": sorted(row), "kind": type(body).__name__,
                "url_path": headers.get("url_path"), "explain": headers.get("explain"), "labels": self.labels,
                "yaml": context.model_yaml_config.get("mine"), "server": context.system_properties["server_name"],
                "batch": context.system_properties["batch_size"], "mine": context.get_request_header(index, "X-Mine"),
                "files": {name: headers[name] for name in row if name in headers},
            })
        return answers

    def describe_handle(self):
        return {"describes": "itself"}
"""
SERVICE = """
from mms.service import PredictionException

class Service:
    def handle(self, data, context):
        processor = context.request_processor[0]
        row = data[0]
        text = bytes(row.get("data") or row.get("body")).decode()
        if text == "bad":
            raise PredictionException("no such picture", 513)
        processor.add_response_property("X-Agent", processor.get_request_property("User-Agent"))
        processor.report_status(202, "Taken")
        top = bytes(row["top_k"]).decode() if "top_k" in row else None
        return [[text, top, context.manifest["model"]["modelName"]]]

_service = Service()

def handle(data, context):
    return None if data is None else _service.handle(data, context)
"""
PARTS = """
from ts.handler_utils.utils import send_intermediate_predict_response

async def handle(data, context):
    if data is None:
        return None
    for number in range(3):
        said = "Intermediate Prediction success"
        send_intermediate_predict_response([f"part {number}, "], context.request_ids, said, 200, context)
    return ["the last"]
"""


def archiver(which: str, name: str, *arguments: object, cwd: Path) -> None:
    home = Path(sys.prefix, "archivers", which)
    if not home.is_dir():
        pytest.skip(f"{name} is not in {home}; `make test` installs it")
    command = [sys.executable, str(home / "bin" / name), *map(str, arguments)]
    subprocess.run(command, cwd=cwd, env={**os.environ, "PYTHONPATH": str(home)}, check=True, timeout=60)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One archive by each tool, and one that needs no code."""
    work = tmp_path_factory.mktemp("work")
    store = work / "store"
    store.mkdir()
    for name, text in {
        "shows.py": SHOWS, "config.yaml": "minWorkers: 1\nbatchSize: 4\nmine: 7\n", "service/agents.py": SERVICE,
        "parts.py": PARTS, "index_to_name.json": '{"0": "cat"}',
    }.items():  # fmt: skip
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text(text)
    exports = ("--export-path", store)
    torch = ("torch", "torch-model-archiver")
    shows = ("--model-name", "shows", "--version", "2.0", "--handler", "shows.py", "--config-file", "config.yaml")
    archiver(*torch, *shows, "--extra-files", "index_to_name.json", *exports, cwd=work)
    digits = Path(BUNDLED_DIGITS)
    archiver(
        *(*torch, "--model-name", "digits", "--version", "1.0", "--handler", "image_classifier", *exports),
        *("--serialized-file", digits / "digits.onnx", "--extra-files", digits / "index_to_name.json"),
        *("--config-file", digits / "model-config.yaml"),
        cwd=work,
    )
    agents = ("--model-name", "agents", "--model-path", "service", "--handler", "agents:handle")
    archiver("mms", "model-archiver", *agents, *exports, cwd=work)
    ours = ("--model-name", "parts", "--version", "1.0", "--handler", "parts.py:handle", "--export-path", str(store))
    subprocess.run([sys.executable, "-m", "headrace", "archive", *ours], cwd=work, check=True, timeout=60)
    return store


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    cache = tmp_path_factory.mktemp("cache")
    with run_server(
        f"--model-store={store}", "--models", "all", f"--cache-dir={cache}", "--metrics-address=127.0.0.1:0"
    ) as running:
        yield running
        assert running.stop() == 0, running.log()
    assert list(cache.iterdir()) == []


def ask(server: RunningServer, method: str, path: str, **options: Any) -> httpx.Response:
    return httpx.request(method, f"{server.url}{path}", timeout=PATIENCE, trust_env=False, **options)


def shown(server: RunningServer, method: str, path: str, **options: Any) -> Any:
    answer = ask(server, method, path, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_its_context_says_what_the_client_and_the_archive_say(server: RunningServer) -> None:
    answer = ask(server, "PUT", "/predictions/shows/2.0/a/b", json={"x": 1}, headers={"X-Mine": "Value"})
    said = answer.json()
    assert (answer.status_code, answer.headers["content-type"], answer.headers["x-shown"]) == (
        200, "application/json", "yes",
    )  # fmt: skip
    assert said["id"] == answer.headers["x-request-id"]
    assert (said["keys"], said["kind"], said["url_path"], said["explain"]) == (["body"], "dict", "a/b", "False")
    assert (said["yaml"], said["batch"], said["labels"], said["server"]) == (7, 4, True, "MMS")
    assert said["mine"] == "Value"


def test_the_body_is_decoded_as_its_content_type_says(server: RunningServer) -> None:
    for kind, name in (("text/plain", "str"), ("image/png", "bytearray"), ("application/json; charset=x", "bytearray")):
        assert (
            shown(server, "POST", "/predictions/shows", content=b"{}", headers={"content-type": kind})["kind"] == name
        )


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_a_packed_body_is_the_handlers_to_unpack(server: RunningServer, coding: str) -> None:
    headers = {"content-encoding": coding, "content-type": "application/json"}
    for _ in range(2):
        answer = shown(server, "POST", "/predictions/shows", content=gzip.compress(b"{}"), headers=headers)
        assert (answer["keys"], answer["kind"]) == (["body"], "bytearray")
    picture = ask(server, "POST", "/predictions/digits", content=gzip.compress(PICTURE.read_bytes()), headers=headers)
    assert picture.status_code == 400
    assert f"Content-Encoding '{coding}' is not read in this version" in picture.json()["message"]


def test_each_field_of_a_form_is_a_key(server: RunningServer) -> None:
    files = {"data": ("a.png", b"\x89PNG", "image/png"), "other": ("b.txt", b"b", "text/plain")}
    said = shown(server, "POST", "/predictions/shows", files=files)
    assert said["keys"] == ["data", "other"]
    assert said["files"] == {"data": {"content-type": "image/png"}, "other": {"content-type": "text/plain"}}
    assert shown(server, "POST", "/predictions/shows", data={"a": "1", "b": "2"})["keys"] == ["a", "b"]


def test_the_routes_of_sagemaker_and_of_0_4_add_their_query(server: RunningServer) -> None:
    for path in ("/models/shows/invoke?q=1", "/shows/predict?q=1", "/shows/2.0/predict?q=1"):
        assert shown(server, "POST", path, content=b"raw")["keys"] == ["body", "q"]
    assert shown(server, "POST", "/invocations?model_name=shows", content=b"raw")["keys"] == ["body", "model_name"]
    assert shown(server, "POST", "/predictions/shows?q=1", content=b"raw")["keys"] == ["body"]


def test_explanations_are_asked_for_by_a_header(server: RunningServer) -> None:
    for path in ("/explanations/shows", "/explanations/shows/2.0", "/v1/models/shows:explain"):
        assert shown(server, "POST", path, content=b"raw")["explain"] == "True"
    assert ask(server, "POST", "/explanations/digits", content=PICTURE.read_bytes()).status_code == 404


def test_a_status_of_its_own_has_its_phrase(server: RunningServer) -> None:
    answer = ask(server, "POST", "/predictions/shows", json={"status": 418})
    assert (answer.status_code, answer.reason_phrase) == (418, "As asked")


def test_it_describes_itself(server: RunningServer) -> None:
    assert shown(server, "GET", "/predictions/shows", headers={"describe": "True"}) == {"describes": "itself"}


def test_what_it_measures_is_on_the_metrics_door(server: RunningServer) -> None:
    shown(server, "POST", "/predictions/shows", content=b"")
    page = httpx.get(f"{server.ready['metrics']}/metrics", trust_env=False).text
    lines = [line for line in page.splitlines() if line.startswith(("Asked_total{", "Thinking{"))]
    assert len(lines) == 2, page
    assert all('ModelName="shows"' in line and 'ModelVersion="2.0"' in line for line in lines)
    assert float(next(line for line in lines if line.startswith("Thinking")).rpartition(" ")[2]) == 2.5


def test_a_service_of_multi_model_server(server: RunningServer) -> None:
    answer = ask(server, "POST", "/agents/predict?top_k=3", content=b"x", headers={"User-Agent": "curl/8"})
    assert (answer.status_code, answer.reason_phrase, answer.headers["x-agent"]) == (202, "Taken", "curl/8")
    assert answer.json() == ["x", "3", "agents"]
    refused = ask(server, "POST", "/predictions/agents", content=b"bad")
    assert refused.json() == {"code": 513, "type": "InternalServerException", "message": "no such picture"}
    assert refused.status_code == 513


def test_an_answer_in_parts_of_a_coroutine(server: RunningServer) -> None:
    with httpx.stream("POST", f"{server.url}/predictions/parts", timeout=PATIENCE, trust_env=False) as answer:
        assert answer.headers["ts_stream_next"] == "true"
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.read() == b"part 0, part 1, part 2, the last"


def test_labels_are_those_of_the_archive(server: RunningServer) -> None:
    scores = shown(server, "PUT", "/predictions/digits", content=PICTURE.read_bytes())
    assert max(scores, key=scores.__getitem__) == "six"


def test_one_of_the_store_by_a_name_of_its_own_in_an_envelope(store: Path, tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(
        "def handle(data, context):\n    return None if data is None else [[type(row).__name__, row] for row in data]\n"
    )
    ours = ("--model-name", "echo", "--version", "1.0", "--handler", "echo.py:handle", "--export-path", str(tmp_path))
    subprocess.run([sys.executable, "-m", "headrace", "archive", *ours], cwd=tmp_path, check=True, timeout=60)
    with run_server(
        *(f"--model-store={tmp_path}", "--models", "other=echo.mar", f"--cache-dir={tmp_path / 'cache'}"),
        *("--service-envelope", "kserve"),
    ) as server:
        said = shown(server, "POST", "/v1/models/other:predict", json={"instances": [1, {"a": 2}]})
        assert said == {"predictions": [["int", 1], ["dict", {"a": 2}]]}
        refused = ask(server, "POST", "/v1/models/other:predict", json={"inputs": []})
        assert (refused.status_code, refused.json()["type"]) == (400, "BadRequestException")


def test_a_v2_client_asks_a_model_that_needs_no_code_in_its_envelope(store: Path, tmp_path: Path) -> None:
    digits = Path(BUNDLED_DIGITS, "digits.onnx")
    ours = ("--model-name", "digits", "--version", "1.0", "--handler", "tensor", "--export-path", str(tmp_path))
    command = [sys.executable, "-m", "headrace", "archive", *ours, "--serialized-file", str(digits)]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    with run_server(
        *(f"--model-store={tmp_path}", "--models", "digits.mar", f"--cache-dir={tmp_path / 'cache'}"),
        *("--service-envelope", "kservev2"),
    ) as server:
        import tritonclient.http

        client = tritonclient.http.InferenceServerClient(server.url.removeprefix("http://"))
        session = InferenceSession(str(digits))
        spec, output = session.get_inputs()[0], session.get_outputs()[0].name
        pictures = np.random.default_rng(0).random((2, *spec.shape[1:]), np.float32)
        wanted = session.run(None, {spec.name: pictures})[0]
        sent = tritonclient.http.InferInput(spec.name, list(pictures.shape), "FP32")
        sent.set_data_from_numpy(pictures, binary_data=False)
        asked = [tritonclient.http.InferRequestedOutput(output, binary_data=False)]
        answer = client.infer("digits", [sent], outputs=asked, request_id="mine")
        np.testing.assert_allclose(answer.as_numpy(output), wanted, rtol=1e-5)
        assert (answer.get_response()["id"], answer.get_response()["model_version"]) == ("mine", "1.0")
        wrong = tritonclient.http.InferInput("nobody", [1], "FP32")
        wrong.set_data_from_numpy(np.zeros(1, np.float32), binary_data=False)
        with pytest.raises(InferenceServerException, match="the model has no input 'nobody'; its inputs are"):
            client.infer("digits", [wrong])


def test_bodies_are_left_alone_where_the_operator_says_so(store: Path, tmp_path: Path) -> None:
    with run_server(
        *(f"--model-store={store}", "--models", "shows.mar", f"--cache-dir={tmp_path / 'cache'}"),
        *("--decode-input-request", "no"),
    ) as server:
        assert shown(server, "POST", "/predictions/shows", json={"x": 1})["kind"] == "bytearray"


def test_an_archive_that_would_write_elsewhere_is_not_served(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", '{"model": {"modelName": "evil", "handler": "evil"}}')
        archive.writestr("../evil.py", "")
    with (
        pytest.raises(RuntimeError, match=r"\.\./evil\.py"),
        run_server(f"--model-store={tmp_path}", "--models", "evil.mar", f"--cache-dir={tmp_path / 'cache'}"),
    ):
        pass
    assert not (tmp_path / "evil.py").exists()


def test_a_broken_archive_keeps_the_server_from_starting_but_where_it_is_to_be_as_the_old_ones(
    store: Path, tmp_path: Path
) -> None:
    shutil.copy(store / "parts.mar", tmp_path)
    (tmp_path / "junk.mar").write_text("no archive")
    (tmp_path / "raises.py").write_text("raise RuntimeError('not today')")
    ours = ("--model-name", "raises", "--version", "1.0", "--handler", "raises.py", "--export-path", str(tmp_path))
    subprocess.run([sys.executable, "-m", "headrace", "archive", *ours], cwd=tmp_path, check=True, timeout=60)
    options = (f"--model-store={tmp_path}", "--models", "all", f"--cache-dir={tmp_path / 'cache'}")
    with pytest.raises(RuntimeError, match=r"junk\.mar is neither a zip"), run_server(*options):
        pass
    with run_server(*options, "--compat", "torchserve", "--models", "gone.mar") as server:
        assert ask(server, "POST", "/predictions/parts").text.endswith("the last")
        assert ask(server, "POST", "/predictions/raises").status_code == 503  # known, without a worker
        assert server.stop() == 0
        for name, why in (("junk", "neither a zip"), ("raises", "not today"), ("gone", "does not exist")):
            assert re.search(rf"Failed to load model: \S*{name}\.mar \(.*{why}", server.log())
    assert not list((tmp_path / "cache").iterdir())
