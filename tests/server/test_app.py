"""The inference API over HTTP: the same questions to the app in this process, and to a real server."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import httpx
import numpy as np
import orjson
import pytest

import headrace as hr
from headrace.log import TextFormatter
from headrace.server.app import App
from headrace.server.options import BUNDLED_DIGITS
from headrace.serving.compile_options import CompileOptions
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.registry import State
from headrace.serving.served import Served
from headrace.serving.service import Service
from headrace.serving.wanted import Wanted
from headrace.testing import Gate, RunningServer, run_command, run_server
from headrace.version import __version__

PICTURES = Path(__file__).resolve().parents[2] / "examples" / "digits" / "held_out"
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LIMIT = 200_000
SECRET = "the password is swordfish"
MODULE = f"""
import numpy as np

def show(x):
    return {{"type": type(x).__name__, "value": x if not isinstance(x, bytes) else len(x)}}

def same(x):
    return x

def kinds(x):
    return {{name: "bytes" if isinstance(value, bytes) else value for name, value in x.items()}}

def fail(x):
    raise ValueError({SECRET!r})

def unsendable(x):
    return {{"secret": object()}}

def add(a, b):
    return {{"sum": a + b, "difference": a - b}}

def nan(x):
    return [float("nan"), 1.0]

def batched(xs):
    return [x + 1 for x in xs]
"""
SERVED = ["show", "same", "kinds", "fail", "unsendable", "add", "nan"]


class Door(Protocol):
    """A way in. `ask` sends one request; `log` is what the server has logged."""

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response: ...

    def log(self) -> str: ...


class InProcess:
    def __init__(self, app: App, records: logging.Handler) -> None:
        self.app, self._records = app, records

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def log(self) -> str:
        return "".join(f"{line}\n" for line in self._records.lines)  # type: ignore[attr-defined]


class OverTheWire:
    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.client = httpx.Client(base_url=server.url, timeout=30, trust_env=False)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.client.request(method, path, **options)

    def log(self) -> str:
        return self.server.log()


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(TextFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    (folder / "served_by_the_app.py").write_text(MODULE)
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    service = Service(max_requests=100, max_bytes=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        lifecycle = Lifecycle(service, CompileOptions())
        models = [f"served_by_the_app:{name}" for name in SERVED]
        lifecycle.load_all(
            map(Wanted.parse, [f"digits={BUNDLED_DIGITS}", f"raw={BUNDLED_DIGITS}/digits.onnx", *models])
        )
        options = CompileOptions(max_batch_size=4)
        Lifecycle(service, options).load(Wanted.parse("served_by_the_app:batched"))
    yield service
    assert service.statistics().inside == 0
    assert service.stop(30)
    del sys.modules["served_by_the_app"]


@pytest.fixture(scope="module")
def app(service: Service) -> Iterator[App]:
    app = App(service, max_body_size=LIMIT)
    yield app
    app.close()


def arguments() -> list[str]:
    models = [f"served_by_the_app:{name}" for name in SERVED]
    return [
        f"digits={BUNDLED_DIGITS}",
        f"raw={BUNDLED_DIGITS}/digits.onnx",
        *models,
        f"--max-body-size={LIMIT}",
    ]


@pytest.fixture(scope="module")
def own(folder: Path) -> Iterator[RunningServer]:
    with run_server(*arguments(), cwd=folder) as server:
        yield server
        assert server.stop() == 0, server.log()


@pytest.fixture(scope="module")
def under_uvicorn(folder: Path) -> Iterator[RunningServer]:
    """The plain app serves all routes under any ASGI server."""
    command = [sys.executable, str(Path(__file__).parent / "uvicorn_server.py"), *arguments()]
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    with run_command(command, cwd=folder, env={"PYTHONPATH": path}) as server:
        yield server


@pytest.fixture(scope="module", params=["own", "under_uvicorn"])
def server(request: pytest.FixtureRequest) -> RunningServer:
    found: RunningServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module", params=["in process", "own", "under_uvicorn"])
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    if request.param != "in process":
        over_the_wire = OverTheWire(request.getfixturevalue(request.param))
        with over_the_wire.client:
            yield over_the_wire
        return
    lines = Lines()
    logger = logging.getLogger("headrace.server")
    logger.addHandler(lines)
    yield InProcess(request.getfixturevalue("app"), lines)
    logger.removeHandler(lines)


def picture(label: int = 7) -> bytes:
    return next(path for path in sorted(PICTURES.iterdir()) if path.stem.endswith(f"-{label}")).read_bytes()


def pixels(rows: int = 1) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.linspace(0, 1, rows * 64, dtype=np.float32).reshape(rows, 1, 8, 8)


def is_an_error(answer: httpx.Response, code: int, type: str) -> str:
    """Its message."""
    assert answer.status_code == code, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["code", "type", "message"]
    assert (body["code"], body["type"]) == (code, type)
    return str(body["message"])


def is_a_v2_error(answer: httpx.Response, code: int) -> str:
    assert answer.status_code == code, answer.text
    assert list(answer.json()) == ["error"]
    return str(answer.json()["error"])


# ---- what only tells something


def test_ping(door: Door) -> None:
    answer = door.ask("GET", "/ping")
    assert (answer.status_code, answer.json()) == (200, {"status": "Healthy"})
    assert answer.text.endswith("\n")


def test_v2_says_who_it_is(door: Door) -> None:
    assert door.ask("GET", "/v2").json() == {"name": "headrace", "version": __version__, "extensions": []}
    assert door.ask("GET", "/v2/").status_code == 200


def test_v2_health_answers_both_to_those_who_read_the_status_and_the_key(door: Door) -> None:
    live, ready = door.ask("GET", "/v2/health/live"), door.ask("GET", "/v2/health/ready")
    assert (live.status_code, live.json()) == (200, {"live": True})
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "live": True})


@pytest.mark.parametrize("path", ["/v2/models/digits/ready", "/v2/models/digits/versions/1.0/ready"])
def test_v2_says_that_a_model_is_ready(door: Door, path: str) -> None:
    answer = door.ask("GET", path)
    assert (answer.status_code, answer.json()) == (200, {"name": "digits", "ready": True})


def test_v2_describes_a_model(door: Door) -> None:
    found = door.ask("GET", "/v2/models/digits").json()
    assert (found["name"], found["versions"]) == ("digits", ["1.0"])
    assert found["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    assert door.ask("GET", "/v2/models/digits/versions/1.0").json() == found
    assert door.ask("GET", "/v2/models/same").json()["inputs"] == []


GET = [
    "/ping",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/same",
    "/v2/models/same/ready",
    "/v2/models/same/versions/1",
    "/v2/models/same/versions/1/ready",
]


@pytest.mark.parametrize("path", GET)
def test_head_is_get_without_the_body(door: Door, path: str) -> None:
    get, head = door.ask("GET", path), door.ask("HEAD", path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("path", GET)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_what_only_tells_something_takes_get_alone(door: Door, method: str, path: str) -> None:
    answer = door.ask(method, path)
    if path.startswith("/v2"):
        assert "takes GET" in is_a_v2_error(answer, 405)
    else:
        assert "takes GET" in is_an_error(answer, 405, "MethodNotAllowedException")
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/v2/models/same/infer", "/v2/models/same/versions/1/infer"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
def test_v2_inference_takes_post_alone(door: Door, method: str, path: str) -> None:
    answer = door.ask(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH", "PUT"])
def test_predictions_take_any_verb(door: Door, method: str) -> None:
    assert door.ask(method, "/predictions/show").json() == {"type": "bytes", "value": 0}


def test_options_of_predictions_is_the_document_of_that_model(door: Door) -> None:
    answer = door.ask("OPTIONS", "/predictions/digits")
    assert answer.status_code == 200
    assert set(answer.json()["paths"]) == {
        "/predictions/digits", "/models/digits/invoke", "/v1/models/digits:predict", "/v2/models/digits/infer",
        "/digits/predict",
    }  # fmt: skip
    of_version = door.ask("OPTIONS", "/predictions/digits/1.0")
    assert "/predictions/digits/1.0" in of_version.json()["paths"]
    is_an_error(door.ask("OPTIONS", "/predictions/nobody"), 404, "ModelNotFoundException")
    is_an_error(door.ask("OPTIONS", "/predictions/digits/9"), 404, "ModelNotFoundException")


@pytest.mark.parametrize("path", ["/v2/models/same/infer", "/invocations", "/models/same/invoke", "/same/predict"])
def test_other_doors_say_which_verbs_they_take(door: Door, path: str) -> None:
    answer = door.ask("OPTIONS", path)
    assert (answer.status_code, answer.headers["allow"][:4]) == (405, "POST")


OTHER_NAMES = [
    "/predictions/show/1", "/predictions/show/1/and/more", "/invocations?model_name=show", "/models/show/invoke",
    "/show/predict", "/show/1/predict", "/v1/models/show:predict",
]  # fmt: skip


@pytest.mark.parametrize("path", OTHER_NAMES)
def test_a_model_answers_under_all_names_the_old_servers_had_for_it(door: Door, path: str) -> None:
    assert door.ask("POST", path, json={"a": 1}).json() == {"type": "dict", "value": {"a": 1}}


def test_what_is_invoked_among_several_is_named(door: Door) -> None:
    said = is_an_error(door.ask("POST", "/invocations", json=1), 400, "BadRequestException")
    assert said.startswith("Parameter model_name is required")
    in_a_form = door.ask("POST", "/invocations", data={"model_name": "show", "x": "1"})
    assert in_a_form.json() == {"type": "dict", "value": {"model_name": "show", "x": "1"}}
    is_an_error(door.ask("POST", "/invocations", data={"x": "1"}), 400, "BadRequestException")
    is_an_error(door.ask("POST", "/invocations", data={"model_name": "nobody"}), 404, "ModelNotFoundException")


@pytest.mark.parametrize("path", ["/explanations/show", "/explanations/show/1", "/v1/models/show:explain"])
def test_what_has_no_handler_of_its_own_has_no_explanations(door: Door, path: str) -> None:
    assert "no explanations" in is_an_error(door.ask("POST", path, json=1), 404, "ResourceNotFoundException")


def test_kserve_is_told_whether_a_model_is_ready(door: Door) -> None:
    assert door.ask("GET", "/v1/models/show").json() == {"name": "show", "ready": True}
    is_an_error(door.ask("GET", "/v1/models/nobody"), 404, "ModelNotFoundException")


def test_a_query_is_what_a_callable_is_asked_with_in_the_old_form(door: Door) -> None:
    assert door.ask("GET", "/show/predict?x=1&y=a+b%21").json()["value"] == {"x": "1", "y": "a b!"}
    assert door.ask("POST", "/show/predict?x=1", json=[2]).json()["value"] == [2]


@pytest.mark.parametrize(
    "path", ["/nothing", "/predictions", "/predictions/", "/PING", "/ping/more", "/predictions//same"]
)
def test_an_unknown_route_is_404(door: Door, path: str) -> None:
    is_an_error(door.ask("GET", path), 404, "ResourceNotFoundException")


@pytest.mark.parametrize("path", ["/v2/", "/v2/models/same/", "/ping/"])
def test_a_slash_at_the_end_changes_nothing(door: Door, path: str) -> None:
    assert door.ask("GET", path).status_code == 200


@pytest.mark.parametrize("path", ["/predictions/show/", "/predictions/show//", "/show/predict/"])
def test_a_slash_behind_a_model_changes_nothing(door: Door, path: str) -> None:
    assert door.ask("POST", path, json=[2]).json()["value"] == [2]
    assert door.ask("POST", path.replace("show", "nobody"), json=[2]).status_code == 404


@pytest.mark.parametrize("path", ["/v2/nothing", "/v2/models", "/v2/health", "/v2/models/same/nothing"])
def test_an_unknown_v2_route_is_404_in_v2s_form(door: Door, path: str) -> None:
    is_a_v2_error(door.ask("GET", path), 404)


# ---- headers


def test_every_answer_has_an_id_of_its_own_and_the_headers_the_old_servers_sent(door: Door) -> None:
    paths = ["/ping", "/nothing", "/v2/nothing", "/predictions/nobody", "/predictions/fail", "/v2/models/digits"] * 3
    answers = [door.ask("GET", path) for path in paths]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    for answer in answers:
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", answer.headers["x-request-id"])
        assert answer.headers["pragma"] == "no-cache"
        assert answer.headers["cache-control"] == "no-cache; no-store, must-revalidate, private"
        assert answer.headers["expires"] == "Thu, 01 Jan 1970 00:00:00 UTC"
        assert int(answer.headers["content-length"]) == len(answer.content)


def test_a_clients_own_request_id_is_not_taken_over(door: Door) -> None:
    answer = door.ask("GET", "/ping", headers={"x-request-id": "mine"})
    assert answer.headers.get_list("x-request-id") != ["mine"]
    assert len(answer.headers.get_list("x-request-id")) == 1


# ---- who is asked for


@pytest.mark.parametrize("path", ["/predictions/nobody", "/predictions/same/9", "/predictions/nobody/1"])
def test_an_unknown_model_or_version_is_404(door: Door, path: str) -> None:
    message = is_an_error(door.ask("POST", path, content=b"x"), 404, "ModelNotFoundException")
    assert message.startswith("model not found: ")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/models/nobody/infer"),
        ("POST", "/v2/models/same/versions/9/infer"),
        ("GET", "/v2/models/nobody"),
        ("GET", "/v2/models/nobody/ready"),
        ("GET", "/v2/models/same/versions/9"),
        ("GET", "/v2/models/same/versions/9/ready"),
    ],
)
def test_an_unknown_model_or_version_is_404_in_v2s_form(door: Door, method: str, path: str) -> None:
    assert is_a_v2_error(door.ask(method, path), 404).startswith("model not found: ")


@pytest.mark.parametrize("path", ["/predictions/%73ame", "/%70redictions/same", "/predictions/same/%31"])
def test_percent_encoding_changes_nothing(door: Door, path: str) -> None:
    answer = door.ask("POST", path, content=b"hello")
    assert (answer.status_code, answer.content) == (200, b"hello")


@pytest.mark.parametrize("name", ["%00", "..%2f..%2fetc", "%ff", "a%0ab", "%F0%9F%90%88", "a%20b"])
def test_odd_names_are_unknown_names(door: Door, name: str) -> None:
    assert door.ask("POST", f"/predictions/{name}", content=b"x").status_code == 404
    assert "error" in door.ask("GET", f"/v2/models/{name}").json()


def test_a_query_is_ignored(door: Door) -> None:
    assert door.ask("POST", "/predictions/same?verbose=1&x", content=b"hello").content == b"hello"
    assert door.ask("GET", "/v2/models/digits?a=b").status_code == 200


# ---- callables


@pytest.mark.parametrize(
    ("body", "kind", "type", "value"),
    [
        (b'{"a": [1, null]}', "application/json", "dict", {"a": [1, None]}),
        (b" [1, 2] ", "application/json; charset=utf-8", "list", [1, 2]),
        (b'"x"', "Application/JSON", "str", "x"),
        (b"null", "application/json", "NoneType", None),
        ("grün".encode(), "text/plain", "str", "grün"),
        (b"", "text/plain", "str", ""),
        (b"\x00\xff", "application/octet-stream", "bytes", 2),
        (b"\x00\xff", None, "bytes", 2),
        (b"", None, "bytes", 0),
        (b"{1}", "image/png", "bytes", 3),
        (b'{"a": 1}', "application/x-www-form-urlencoded", "dict", {"a": 1}),
    ],
)
def test_a_callable_gets_what_the_content_type_says(
    door: Door, body: bytes, kind: str | None, type: str, value: object
) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = door.ask("POST", "/predictions/show", content=body, headers=headers)
    assert answer.json() == {"type": type, "value": value}


def test_bytes_and_text_come_back_as_they_are(door: Door) -> None:
    as_bytes = door.ask("PUT", "/predictions/same", content=b"\x00\x01\xff")
    assert (as_bytes.content, as_bytes.headers["content-type"]) == (b"\x00\x01\xff", "application/octet-stream")
    text = door.ask("POST", "/predictions/same", content="grün".encode(), headers={"content-type": "text/plain"})
    assert (text.text, text.headers["content-type"]) == ("grün", "text/plain; charset=utf-8")


def test_get_and_head_reach_the_model_too(door: Door) -> None:
    assert door.ask("GET", "/predictions/show").json() == {"type": "bytes", "value": 0}
    assert door.ask("HEAD", "/predictions/show").content == b""


def test_a_number_that_json_does_not_have_is_null(door: Door) -> None:
    assert door.ask("POST", "/predictions/nan", content=b"").json() == [None, 1.0]


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (b"{", "application/json", "not JSON"),
        (b"", "application/json", "empty"),
        (b"NaN", "application/json", "not JSON"),
        (b'"\xff"', "application/json", "not UTF-8 at byte 1"),
        (b"[" * 100_000, "application/json", "not JSON"),
        (b"\xff", "text/plain", "not UTF-8 at byte 0"),
        (b"--c--", "multipart/form-data; boundary=b", "not the form its boundary says"),
        (b"--b\r\n", "multipart/form-data; boundary=b", "cut off"),
        (b"--b--", "multipart/form-data", "boundary="),
    ],
)
def test_a_body_that_is_not_what_it_says_is_400(door: Door, body: bytes, kind: str, says: str) -> None:
    answer = door.ask("POST", "/predictions/same", content=body, headers={"content-type": kind})
    assert says in is_an_error(answer, 400, "BadRequestException")


@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP", "gzip, identity", "x\xe9"])
def test_an_unknown_content_encoding_is_400_and_not_taken_for_data(door: Door, coding: str) -> None:
    headers = {"content-encoding": coding.encode("latin-1")}
    answer = door.ask("POST", "/predictions/same", content=b"x", headers=headers)
    assert "Content-Encoding" in is_an_error(answer, 400, "BadRequestException")


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
def test_content_encoding_identity_is_none(door: Door, coding: str) -> None:
    assert door.ask("POST", "/predictions/same", content=b"x", headers={"content-encoding": coding}).content == b"x"


# ---- models that fail


def logged(door: Door, request_id: str) -> str:
    """What the log says from the line of that request on. A thread writes it: it may be there after the answer."""
    give_up = time.monotonic() + 30
    while f"[request id {request_id}]\n" not in (log := door.log()) or not log.endswith("\n"):
        assert time.monotonic() < give_up, log
    return log[log.index(request_id) :]


def test_a_model_that_raises_is_500_and_the_traceback_is_in_the_log_alone(door: Door) -> None:
    answer = door.ask("POST", "/predictions/fail", content=b"x")
    message = is_an_error(answer, 500, "InternalServerException")
    request_id = answer.headers["x-request-id"]
    assert request_id in message
    assert "ValueError" in message
    for secret in (SECRET, "Traceback", "served_by_the_app", "File "):
        assert secret not in answer.text
    after = logged(door, request_id)
    assert "Traceback" in after
    assert SECRET in after


def test_a_model_that_raises_says_as_little_on_v2(door: Door) -> None:
    body = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}]}
    answer = door.ask("POST", "/v2/models/fail/infer", json=body)
    message = is_a_v2_error(answer, 500)
    assert answer.headers["x-request-id"] in message
    assert SECRET not in answer.text


def test_an_answer_that_cannot_be_sent_is_500_and_in_the_log(door: Door) -> None:
    answer = door.ask("POST", "/predictions/unsendable", content=b"x")
    is_an_error(answer, 500, "InternalServerException")
    request_id = answer.headers["x-request-id"]
    assert "object" in logged(door, request_id)


def test_a_failure_costs_the_next_request_nothing(door: Door) -> None:
    for _ in range(3):
        assert door.ask("POST", "/predictions/fail", content=b"x").status_code == 500
        assert door.ask("POST", "/predictions/same", content=b"x").content == b"x"


# ---- pictures and tensors


@pytest.mark.parametrize("label", range(10))
def test_a_picture_is_classified(door: Door, label: int) -> None:
    answer = door.ask("PUT", "/predictions/digits", content=picture(label))
    assert answer.status_code == 200
    best = answer.json()
    assert next(iter(best)) == DIGITS[label]
    assert list(best.values()) == sorted(best.values(), reverse=True)


@pytest.mark.parametrize(
    "body", [b"", b"hello", b"GIF89a", picture()[:60], picture()[:-30], b"\x89PNG\r\n\x1a\n" + b"\0" * 40]
)
def test_a_picture_that_is_none_is_400(door: Door, body: bytes) -> None:
    is_an_error(door.ask("POST", "/predictions/digits", content=body), 400, "BadRequestException")


def test_raw_bytes_json_and_v2_say_the_same_of_one_tensor(door: Door) -> None:
    x = pixels(2)
    raw = door.ask("POST", "/predictions/raw", content=x.tobytes())
    as_list = door.ask("POST", "/predictions/raw", json=x.tolist())
    by_name = door.ask("POST", "/predictions/raw", json={"image": x.tolist()})
    v2_body = {"id": "7", "inputs": [{"name": "image", "datatype": "FP32", "shape": list(x.shape), "data": x.tolist()}]}
    v2 = door.ask("POST", "/v2/models/raw/infer", json=v2_body).json()
    assert raw.status_code == 200, raw.text
    assert np.shape(raw.json()) == (2, 10)
    assert raw.json() == as_list.json() == by_name.json()
    assert (v2["model_name"], v2["model_version"], v2["id"]) == ("raw", "1", "7")
    assert (v2["outputs"][0]["shape"], v2["outputs"][0]["datatype"]) == ([2, 10], "FP32")
    np.testing.assert_array_equal(np.reshape(v2["outputs"][0]["data"], (2, 10)), raw.json())


def test_v2_reaches_the_tensor_model_behind_a_handler(door: Door) -> None:
    x = pixels()
    body = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": x.ravel().tolist()}]}
    for path in ("/v2/models/digits/infer", "/v2/models/digits/versions/1.0/infer"):
        answer = door.ask("POST", path, json=body).json()
        assert (answer["model_name"], answer["model_version"]) == ("digits", "1.0")
        assert answer["outputs"][0]["shape"] == [1, 10]


@pytest.mark.parametrize("body", [b"", b"\0" * 255, b"\0" * 257])
def test_raw_bytes_of_the_wrong_length_are_400(door: Door, body: bytes) -> None:
    message = is_an_error(door.ask("POST", "/predictions/raw", content=body), 400, "BadRequestException")
    assert "256 bytes" in message


@pytest.mark.parametrize(
    "value", [[1.0], pixels()[0].tolist(), {}, {"x": 1}, None, "x", [[["a"] * 8] * 8], {"image": 1, "x": 2}]
)
def test_json_that_is_not_the_tensor_is_400(door: Door, value: object) -> None:
    is_an_error(door.ask("POST", "/predictions/raw", json=value), 400, "BadRequestException")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"inputs": []}',
        b'{"inputs": [{"name": "image"}]}',
        b'{"inputs": [{"name": "image", "datatype": "FP64", "shape": [1, 1, 8, 8], "data": []}]}',
        b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [1]}]}',
        b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8], "data": []}]}',
        b'{"inputs": [{"name": "nobody", "datatype": "FP32", "shape": [1], "data": [1]}]}',
    ],
)
def test_a_bad_v2_request_is_400_in_v2s_form(door: Door, body: bytes) -> None:
    is_a_v2_error(door.ask("POST", "/v2/models/raw/infer", content=body), 400)


def test_an_output_that_does_not_exist_is_400(door: Door) -> None:
    body = {
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": pixels().ravel().tolist()}],
        "outputs": [{"name": "nobody"}],
    }
    assert "'nobody'" in is_a_v2_error(door.ask("POST", "/v2/models/raw/infer", json=body), 400)
    body = {"inputs": [tensor("a", [1]), tensor("b", [2])], "outputs": [{"name": "nobody"}]}
    assert "'nobody'" in is_a_v2_error(door.ask("POST", "/v2/models/add/infer", json=body), 400)


def tensor(name: str, data: Sequence[int]) -> dict[str, Any]:
    return {"name": name, "datatype": "INT64", "shape": [len(data)], "data": list(data)}


def test_v2_calls_a_callable_by_parameter_name(door: Door) -> None:
    body = {"inputs": [tensor("b", [1, 2]), tensor("a", [10, 20])]}
    outputs = door.ask("POST", "/v2/models/add/infer", json=body).json()["outputs"]
    assert {output["name"]: output["data"] for output in outputs} == {"sum": [11, 22], "difference": [9, 18]}
    body["outputs"] = [{"name": "difference"}]
    outputs = door.ask("POST", "/v2/models/add/infer", json=body).json()["outputs"]
    assert [output["name"] for output in outputs] == ["difference"]


def test_v2_refuses_a_name_the_callable_does_not_take(door: Door) -> None:
    body = {"inputs": [tensor("a", [1]), tensor("c", [1])]}
    assert "it takes a, b" in is_a_v2_error(door.ask("POST", "/v2/models/add/infer", json=body), 400)


def test_v2_refuses_a_call_without_what_the_callable_needs(door: Door) -> None:
    body = {"inputs": [tensor("a", [1])]}
    said = is_a_v2_error(door.ask("POST", "/v2/models/add/infer", json=body), 400)
    assert said == "input 'b' is missing; the model takes a, b"


def test_a_picture_may_come_in_a_form(door: Door) -> None:
    alone = door.ask("POST", "/predictions/digits", content=picture(3))
    for name in ("data", "body", "anything"):
        answer = door.ask("POST", "/predictions/digits", files={name: picture(3)}, data={"note": "a three"})
        assert answer.json() == alone.json()
    two = door.ask("POST", "/predictions/digits", files={"a": picture(3), "b": picture(4)})
    assert "curl -F data=@FILE" in is_an_error(two, 400, "BadRequestException")


def test_a_callable_is_given_a_form_as_a_dict(door: Door) -> None:
    files = {"f": ("f.bin", b"\xff\0"), "j": ("j.json", b"[1]", "application/json"), "t": ("t", b"a", "text/plain")}
    answer = door.ask("POST", "/predictions/kinds", files=files, data={"a": "gr\u00fcn"})
    assert answer.json() == {"a": "gr\u00fcn", "f": "bytes", "j": [1], "t": "a"}


def test_a_tensor_model_is_given_its_inputs_in_fields(door: Door) -> None:
    array = pixels(2)
    expected = door.ask("POST", "/predictions/raw", content=array.tobytes()).json()
    assert door.ask("POST", "/predictions/raw", files={"any": array.tobytes()}).json() == expected
    as_json = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    assert door.ask("POST", "/predictions/raw", data={"any": as_json}).json() == expected
    two = door.ask("POST", "/predictions/raw", data={"a": "1", "b": "2"})
    assert "no input" in is_an_error(two, 400, "BadRequestException")


def test_v2_refuses_tensors_as_bytes_and_says_what_to_send(door: Door) -> None:
    header = orjson.dumps({"inputs": [{"name": "a", "datatype": "INT64", "shape": [1]}]})
    headers = {"inference-header-content-length": str(len(header))}
    answer = door.ask("POST", "/v2/models/add/infer", content=header + b"\1" * 8, headers=headers)
    assert "binary_data=False" in is_a_v2_error(answer, 400)


# ---- bodies that are too large


def test_a_body_over_the_limit_is_413_and_the_limit_is_told(door: Door) -> None:
    answer = door.ask("POST", "/predictions/same", content=b"x" * (LIMIT + 1))
    assert f"{LIMIT:,}" in is_an_error(answer, 413, "RequestEntityTooLargeException")
    assert f"{LIMIT:,}" in is_a_v2_error(door.ask("POST", "/v2/models/same/infer", content=b"x" * (LIMIT + 1)), 413)


def test_a_body_of_just_the_limit_is_taken(door: Door) -> None:
    assert len(door.ask("POST", "/predictions/same", content=b"x" * LIMIT).content) == LIMIT


def chunks(door: Door, size: int, count: int) -> Any:
    if isinstance(door, OverTheWire):
        return iter([b"x" * size] * count)

    async def chunks() -> Any:
        for _ in range(count):
            yield b"x" * size

    return chunks()


@pytest.mark.parametrize(("size", "count"), [(1, LIMIT // 100), (LIMIT // 10, 10), (LIMIT, 1), (0, 1)])
def test_a_chunked_body_up_to_the_limit_is_taken_whole(door: Door, size: int, count: int) -> None:
    answer = door.ask("POST", "/predictions/same", content=chunks(door, size, count))
    assert answer.content == b"x" * size * count


@pytest.mark.parametrize(("size", "count"), [(LIMIT + 1, 1), (LIMIT // 10, 11), (LIMIT // 10, 100)])
def test_a_chunked_body_over_the_limit_is_413_wherever_it_goes_over(door: Door, size: int, count: int) -> None:
    answer = door.ask("POST", "/predictions/same", content=chunks(door, size, count))
    assert f"{LIMIT:,}" in is_an_error(answer, 413, "RequestEntityTooLargeException")


# ---- in this process only: what needs a hand inside


def serve(function: Callable[..., Any], **limits: Any) -> tuple[Service, App, InProcess]:
    service = Service(max_requests=limits.pop("max_requests", 10), max_bytes=limits.pop("max_bytes", None))
    entry = service.registry.add("m", "1")
    entry.served, entry.state = Served("m", "1", hr.compile_model(function, name="m", **limits)), State.READY
    app = App(service, max_body_size=LIMIT)
    return service, app, InProcess(app, Lines())


def end(service: Service, app: App) -> None:
    assert service.stop(30), service.statistics()
    assert service.statistics().inside == 0
    app.close()


def test_a_full_server_is_429_with_retry_after_on_both_interfaces() -> None:
    gate = Gate()
    service, app, _ = serve(lambda x: (gate(), x)[1], max_requests=1)

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
            first = asyncio.create_task(client.post("/predictions/m", content=b"first"))
            await asyncio.to_thread(gate.wait)
            refused = await client.post("/predictions/m", content=b"x")
            is_an_error(refused, 429, "ServiceUnavailableException")
            assert int(refused.headers["retry-after"]) >= 1
            v2 = await client.post("/v2/models/m/infer", content=b"x")
            is_a_v2_error(v2, 429)
            assert int(v2.headers["retry-after"]) >= 1
            is_an_error(await client.post("/predictions/nobody"), 404, "ModelNotFoundException")
            assert (await client.get("/ping")).status_code == 200
            gate.open()
            assert (await first).content == b"first"
            assert (await client.post("/predictions/m", content=b"next")).content == b"next"

    asyncio.run(main())
    end(service, app)


def test_a_chunked_body_is_429_when_it_grows_over_what_may_be_inside() -> None:
    gate = Gate()
    service, app, _ = serve(lambda x: (gate(), len(x))[1], max_bytes=1000)

    async def body() -> Any:
        for _ in range(20):
            yield b"x" * 100

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
            first = asyncio.create_task(client.post("/predictions/m", content=b"x" * 500))
            await asyncio.to_thread(gate.wait)
            is_an_error(await client.post("/predictions/m", content=body()), 429, "ServiceUnavailableException")
            assert service.statistics().nbytes == 500
            gate.open()
            assert (await first).json() == 500
            assert (await client.post("/predictions/m", content=body())).json() == 2000  # alone it may be larger

    asyncio.run(main())
    end(service, app)


@pytest.mark.parametrize("state", [state for state in State if state is not State.READY])
def test_a_model_that_is_not_ready_is_503_and_the_reason_stays_inside(state: State) -> None:
    service, app, door = serve(lambda x: x)
    entry = service.registry.find("m")
    entry.state, entry.reason = state, "/secret/place is missing"
    answers = [
        door.ask("POST", "/predictions/m", content=b"x"),
        door.ask("POST", "/v2/models/m/infer", content=b"x"),
        door.ask("GET", "/v2/models/m"),
    ]
    message = is_an_error(answers[0], 503, "ServiceUnavailableException")
    assert state in message
    is_a_v2_error(answers[1], 503)
    is_a_v2_error(answers[2], 503)
    for answer in answers:
        assert int(answer.headers["retry-after"]) >= 1
        assert "secret" not in answer.text
    not_ready = door.ask("GET", "/v2/models/m/ready")
    assert (not_ready.status_code, not_ready.json()) == (503, {"name": "m", "ready": False})
    failed = state is State.FAILED  # all others are as somebody asked for it
    assert door.ask("GET", "/v2/health/ready").status_code == (503 if failed else 200)
    assert door.ask("GET", "/v2/health/live").status_code == 200
    ping = door.ask("GET", "/ping")
    assert (ping.status_code, ping.json()["status"]) == ((500, "Unhealthy") if failed else (200, "Healthy"))
    end(service, app)


def test_a_stopping_server_is_503() -> None:
    service, app, door = serve(lambda x: x)
    assert service.stop(0)
    answer = door.ask("POST", "/predictions/m", content=b"x")
    is_an_error(answer, 503, "ServiceUnavailableException")
    assert int(answer.headers["retry-after"]) >= 1
    end(service, app)


def test_requests_that_wait_together_are_one_batch() -> None:
    gate, sizes = Gate(), []

    def add_one(xs: list[int]) -> list[int]:
        gate()
        sizes.append(len(xs))
        return [x + 1 for x in xs]

    service, app, _ = serve(add_one, max_batch_size=4)
    model = service.registry.ready("m").model

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
            tasks = [asyncio.create_task(client.post("/predictions/m", json=0))]
            await asyncio.to_thread(gate.wait)
            tasks += [asyncio.create_task(client.post("/predictions/m", json=n)) for n in range(1, 5)]
            while model.statistics().waiting < 4:  # noqa: ASYNC110 - turns of the loop, no time
                await asyncio.sleep(0)
            gate.open()
            assert [(await task).json() for task in tasks] == [1, 2, 3, 4, 5]

    asyncio.run(main())
    end(service, app)
    assert sizes == [1, 4]


def test_v2_sends_those_who_ask_a_batched_callable_to_predictions(app: App) -> None:
    door = InProcess(app, Lines())
    body = {"inputs": [tensor("xs", [1])]}
    assert "/predictions" in is_a_v2_error(door.ask("POST", "/v2/models/batched/infer", json=body), 400)
    assert door.ask("POST", "/predictions/batched", json=1).json() == 2


Messages = list[dict[str, Any]]


def plain(app: App, headers: list[tuple[bytes, bytes]], messages: Messages, method: str = "POST") -> Messages:
    """What the app sends, in plain ASGI. After `messages` it hears nothing more."""

    async def main() -> Messages:
        sent: Messages = []
        coming = iter(messages)

        async def receive() -> Any:
            for message in coming:
                return message
            return await asyncio.get_running_loop().create_future()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": "/predictions/same", "headers": headers}
        async with asyncio.timeout(30):
            await app(scope, receive, send)
        return sent

    return asyncio.run(main())


def part(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


@pytest.mark.parametrize("length", [b"-1", b"1.5", b"x", b"", b"+5", b"9" * 5000, b"\xb2"])
def test_a_content_length_that_is_no_number_is_400(app: App, length: bytes) -> None:
    sent = plain(app, [(b"content-length", length)], [part(b"")])
    assert sent[0]["status"] == 400


@pytest.mark.parametrize("length", [b"4", b"6"])
def test_a_content_length_that_lies_is_400_and_ends_the_connection(app: App, length: bytes) -> None:
    sent = plain(app, [(b"content-length", length)], [part(b"hello")])
    assert sent[0]["status"] == 400
    assert (b"connection", b"close") in sent[0]["headers"]


@pytest.mark.parametrize("body", [b"hello", b""])
def test_the_app_itself_sends_no_body_after_head(app: App, body: bytes) -> None:
    """A client would take it for the beginning of the next answer; not every server leaves it out by itself."""
    sent = plain(app, [(b"content-length", b"%d" % len(body))], [part(body)], method="HEAD")
    assert (b"content-length", b"%d" % len(body)) in sent[0]["headers"]
    assert [message["body"] for message in sent[1:]] == [b""]


@pytest.mark.parametrize(
    "messages", [[GONE], [part(b"he", more=True), GONE], [part(b"he", more=True), part(b"llo", more=True), GONE]]
)
def test_a_client_that_leaves_in_mid_upload_is_told_nothing_and_holds_nothing(
    service: Service, app: App, messages: Messages
) -> None:
    assert plain(app, [(b"content-length", b"10")], messages) == []
    assert plain(app, [(b"transfer-encoding", b"chunked")], messages) == []
    assert service.statistics().inside == 0


def test_the_app_takes_a_lifespan_and_refuses_websockets(app: App) -> None:
    async def main() -> None:
        coming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        sent = []

        async def receive() -> Any:
            return coming.pop(0)

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await app({"type": "lifespan"}, receive, send)
        await app({"type": "websocket"}, receive, send)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]

    asyncio.run(main())


def test_a_client_that_leaves_while_it_waits_is_never_run() -> None:
    gate, ran = Gate(), []

    def model(x: bytes) -> None:
        ran.append(x)
        gate()

    service, app, _ = serve(model)

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
            first = asyncio.create_task(client.post("/predictions/m", content=b"first"))
            await asyncio.to_thread(gate.wait)
            coming = [part(b"left"), GONE]
            sent: Messages = []

            async def receive() -> Any:
                return coming.pop(0)

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {"type": "http", "method": "POST", "path": "/predictions/m", "headers": []}
            await app(scope, receive, send)
            assert sent == []
            assert service.statistics().inside == 1
            gate.open()
            await first

    asyncio.run(main())
    end(service, app)
    assert ran == [b"first"]


def test_a_request_that_is_cancelled_is_refused_with_503() -> None:
    gate = Gate()
    service, app, _ = serve(lambda x: gate())

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
            task = asyncio.create_task(client.post("/predictions/m", content=b"x"))
            await asyncio.to_thread(gate.wait)
            task.cancel()
            is_an_error(await task, 503, "ServiceUnavailableException")
            gate.open()

    asyncio.run(main())
    assert app.unanswered == 1
    end(service, app)


# ---- over the wire only: what a real server does with bytes


def converse(server: RunningServer, *sent: bytes) -> bytes:
    """Send these bytes, and read until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        for piece in sent:
            connection.sendall(piece)
        found = b""
        while data := connection.recv(65536):
            found += data
        return found


def message(body: bytes, *headers: bytes, path: bytes = b"/predictions/same", last: bool = True) -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: x", *headers]
    if last:
        lines.append(b"Connection: close")
    return b"\r\n".join([*lines, b"", body])


def test_pipelined_requests_are_answered_in_their_order(server: RunningServer) -> None:
    sent = [message(b"%d" % n, b"Content-Length: 1", last=n == 9) for n in range(10)]
    found = converse(server, b"".join(sent))
    assert re.findall(rb"\r\n\r\n(\d)", found) == [b"%d" % n for n in range(10)]


def test_one_byte_at_a_time_is_a_request_too(server: RunningServer) -> None:
    sent = message(b"hello", b"Content-Length: 5")
    assert converse(server, *(sent[i : i + 1] for i in range(len(sent)))).endswith(b"\r\n\r\nhello")


def test_an_error_keeps_the_connection(server: RunningServer) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        for path in ("/nothing", "/predictions/nobody", "/predictions/fail", "/predictions/same"):
            answer = client.post(path, content=b"x")
            assert "close" not in answer.headers.get("connection", "")


UPGRADE = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
SMUGGLED = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
WITH_UPGRADE = [
    (message(SMUGGLED, *UPGRADE, b"Content-Length: %d" % len(SMUGGLED), last=False), SMUGGLED),
    (message(b"5\r\nhello\r\n0\r\n\r\n", *UPGRADE, b"Transfer-Encoding: chunked", last=False), b"hello"),
]


@pytest.mark.parametrize(("sent", "body"), WITH_UPGRADE)
def test_a_request_that_offers_an_upgrade_is_an_ordinary_one(own: RunningServer, sent: bytes, body: bytes) -> None:
    """Java's client offers HTTP/2 so with its first request."""
    found = converse(own, sent + sent + message(b"next", b"Content-Length: 4"))
    assert found.count(b"HTTP/1.1 200 OK") == 3
    assert found.count(b"\r\n\r\n" + body) == 2
    assert found.endswith(b"\r\n\r\nnext")


@pytest.mark.parametrize(("sent", "body"), WITH_UPGRADE)
def test_a_body_that_uvicorn_loses_with_an_upgrade_is_refused_and_not_answered(
    under_uvicorn: RunningServer, sent: bytes, body: bytes
) -> None:
    found = converse(under_uvicorn, sent)
    assert found.startswith(b"HTTP/1.1 400")
    assert b"without `Upgrade`" in found
    assert found.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        message(b"", b"Content-Length: x"),
        message(b"", b"Content-Length: 5", b"Content-Length: 6"),
        message(b"", b"Content-Length: -1"),
        message(b"", b"Content-Length: " + b"9" * 40),
        message(b"", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        message(b"Z\r\nhello", b"Transfer-Encoding: chunked"),
        message(b"", b"bad header: x"),
    ],
)
def test_bytes_that_are_not_http_are_refused_and_cost_the_others_nothing(server: RunningServer, sent: bytes) -> None:
    found = converse(server, sent)
    assert b" 200 " not in found
    assert converse(server, b"GET /ping HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_expect_100_is_answered_before_the_body_comes(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(message(b"", b"Content-Length: 5", b"Expect: 100-continue"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(b"hello")
        found = b""
        while data := connection.recv(65536):
            found += data
        assert found.startswith(b"HTTP/1.1 200")
        assert found.endswith(b"hello")


def test_what_is_refused_by_its_headers_is_not_asked_for(server: RunningServer) -> None:
    for path, length, status in (
        (b"/predictions/same", LIMIT + 1, b"413"),
        (b"/predictions/nobody", 5, b"404"),
    ):
        lines = (b"Content-Length: %d" % length, b"Expect: 100-continue")
        found = converse(server, message(b"", *lines, path=path))
        assert found.startswith(b"HTTP/1.1 " + status)
