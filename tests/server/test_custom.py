"""What goes to handlers of a model's own, and what of theirs goes into a reply. Pure, and through real servers."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from headrace.errors import BackendError, InvalidInput
from headrace.server.custom import is_heavy, reply_of, request_of
from headrace.server.head import Head
from headrace.server.reply import KEEP, bytes_of, request_id
from headrace.server.routes import route
from headrace.testing import RunningServer, run_command
from headrace.workers.told import BOUNDS

HERE = Path(__file__).parent
PATIENCE = 60.0


def asked(path: str, body: bytes = b"", query: bytes = b"", *headers: tuple[bytes, bytes]) -> Any:
    found = route(path, query)
    assert found is not None
    return request_of(body, Head("POST", path, list(headers)), found, 7)


# ---- requests


def test_a_request_is_its_id_its_headers_as_they_came_and_its_body_as_it_came() -> None:
    id, headers, body = asked(
        "/predictions/m", b"\xff{", b"", (b"X-My", b"a\xe9"), (b"Content-Type", b"application/json")
    )
    assert id == request_id(7)
    assert headers == (
        ("X-My", "aé"), ("Content-Type", "application/json"), ("url_path", ""), ("explain", "False"),
    )  # fmt: skip
    assert body == b"\xff{"


def test_a_packed_body_goes_as_it_came_but_for_a_form() -> None:
    packed = (b"Content-Encoding", b"gzip")
    assert asked("/predictions/m", b"\x1f\x8b", b"", packed)[2] == b"\x1f\x8b"
    with pytest.raises(InvalidInput, match="Content-Encoding 'gzip' is not read"):
        asked("/predictions/m", b"a=1", b"", packed, (b"Content-Type", b"application/x-www-form-urlencoded"))


def test_what_a_head_says_is_made_once() -> None:
    found, head = route("/predictions/m"), Head("POST", "/predictions/m", [(b"A", b"b")])
    assert found is not None
    assert request_of(b"1", head, found, 1)[1] is request_of(b"2", head, found, 2)[1]


@pytest.mark.parametrize(
    ("path", "name", "version", "url_path", "explain"),
    [
        ("/predictions/m", "m", None, "", "False"),
        ("/predictions/m/1.0", "m", "1.0", "", "False"),
        ("/predictions/m/1.0/", "m", "1.0", "", "False"),
        ("/predictions/m/1.0/a/b", "m", "1.0", "a/b", "False"),
        ("/explanations/m", "m", None, "", "True"),
        ("/explanations/m/2/x", "m", "2", "x", "True"),
        ("/models/m/invoke", "m", None, "", "False"),
        ("/m/predict", "m", None, "", "False"),
        ("/m/3/predict", "m", "3", "", "False"),
        ("/v1/models/m:predict", "m", None, "", "False"),
        ("/v1/models/m:explain", "m", None, "", "True"),
        ("/v2/models/m/infer", "m", None, "", "False"),
        ("/v2/models/m/explain", "m", None, "", "True"),
        ("/invocations", "", None, "", "False"),
    ],
)
def test_each_path_names_a_model_and_says_what_handlers_are_told(
    path: str, name: str, version: str | None, url_path: str, explain: str
) -> None:
    found = route(path)
    assert found is not None
    assert (found.name, found.version) == (name, version)
    assert dict(found.headers) == {"url_path": url_path, "explain": explain}


@pytest.mark.parametrize(
    "path", ["/predictions/predict", "/v2/predict", "/models/predict", "/v2/1/predict", "/ping/predict", "//predict"]
)
def test_the_old_form_hides_no_other_route(path: str) -> None:
    found = route(path)
    assert found is None or found.name != path.split("/")[1]


@pytest.mark.parametrize(
    "name", ["predictions", "explanations", "invocations", "models", "ping", "v1", "v2", "predict"]
)
def test_a_model_may_be_called_as_a_route_begins(name: str) -> None:
    """All but the old form find it."""
    for path in (f"/predictions/{name}", f"/models/{name}/invoke", f"/v2/models/{name}/infer"):
        found = route(path)
        assert found is not None
        assert found.name == name


def test_queries_are_fields_where_the_contract_has_them() -> None:
    assert asked("/predictions/m", b"raw", b"a=1")[2] == b"raw"
    kind = (b"Content-Type", b"text/x")
    for path in ("/models/m/invoke", "/m/predict", "/invocations"):
        assert asked(path, b"raw", b"a=1+2&b", kind)[2] == (
            ("a", None, b"1 2"), ("b", None, b""), ("body", "text/x", b"raw"),
        )  # fmt: skip
        assert asked(path, b"raw", b"", kind)[2] == b"raw"
    found = route("/invocations", b"model_name=m&x=1")
    assert found is not None
    assert found.name == "m"


def test_forms_are_fields_and_a_form_is_a_form_even_if_it_begins_as_json() -> None:
    form = (b"content-type", b"application/x-www-form-urlencoded")
    assert asked("/predictions/m", b"a=1&b=2&a=3", b"", form)[2] == (("a", None, b"3"), ("b", None, b"2"))
    assert asked("/predictions/m", b'{"a":1}', b"", form)[2] == (('{"a":1}', None, b""),)
    assert asked("/m/predict", b"a=1", b"q=2", form)[2] == (("q", None, b"2"), ("a", None, b"1"))
    with pytest.raises(InvalidInput):
        asked("/predictions/m", b"", b"", (b"content-type", b"multipart/form-data; boundary=x"))
    assert is_heavy(Head("POST", "/", [form]), 1 << 20)
    assert not is_heavy(Head("POST", "/", []), 1 << 30)


# ---- replies


def wire(answer: Any) -> bytes:
    reply = reply_of(answer)
    return bytes_of(reply, 1, KEEP, reply.body)


def test_bytes_are_a_reply_without_a_content_type() -> None:
    out = wire(b"abc")
    assert out.startswith(b"HTTP/1.1 200 OK\r\npragma")
    assert out.endswith(b"\r\ncontent-length: 3\r\n\r\nabc")
    assert b"content-type" not in out


def test_what_the_context_was_told_is_in_the_reply() -> None:
    headers = (("X-A", "é"), ("Content-Length", "99"), ("transfer-encoding", "x"), ("Connection", "close"),
               ("X-Request-Id", "x"), ("Pragma", "x"), ("x-b", "2"))  # fmt: skip
    out = wire((b"abc", "text/x", 299, "Quite so", headers))
    assert out.startswith(b"HTTP/1.1 299 Quite so\r\ncontent-type: text/x\r\n")
    assert b"\r\nX-A: \xe9\r\nx-b: 2\r\ncontent-length: 3\r\n\r\nabc" in out
    for ours in (b"content-length", b"transfer-encoding", b"x-request-id", b"pragma", b"connection"):
        assert out.lower().count(ours) == (0 if ours in (b"transfer-encoding", b"connection") else 1)
    assert b"content-type: a/b\r\n" in wire((b"", None, 200, None, (("Content-Type", "a/b"),)))


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(status: int) -> None:
    out = wire((b"abc", None, status, None, ()))
    assert out.endswith(b"\r\n\r\n")
    assert b"content-length" not in out


def test_a_refusal_has_the_form_of_its_api() -> None:
    reply = reply_of((513, "InternalServerException", "no"))
    assert (reply.status, json.loads(reply.body)) == (
        513, {"code": 513, "type": "InternalServerException", "message": "no"},
    )  # fmt: skip
    assert json.loads(reply_of((400, "X", "no"), v2=True).body) == {"error": "no"}


@pytest.mark.parametrize(
    "answer",
    [
        None, {}, "text", 1, (b"a",), (b"a", "b"), ("a", None, 200, None, ()), (b"", None, 100, None, ()),
        (b"", None, 1000, None, ()), (b"", None, "200", None, ()), (b"", None, True, None, ()), (99, "a", "b"),
        (b"", None, 200, None, (("a b", "c"),)), (b"", None, 200, None, (("a", "b\r\nc: d"),)),
        (b"", None, 200, None, (("a", "☃"),)), (b"", None, 200, None, (("", "b"),)),
        (b"", "a\r\nb", 200, None, ()), (b"", "a\r\nb", 200, None, (("a", "b"),)), (b"", "☃", 200, None, ()),
        (b"", None, 200, None, (("a", "b" * 8192),)), (b"", "a" * 8193, 200, None, ()),
        (b"", None, 200, None, (("Content-Type", "a" * 8193),)), (b"", None, 200, "b" * 1025, ()),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_the_models_failure(answer: Any) -> None:
    with pytest.raises(BackendError):
        reply_of(answer)


def test_a_header_of_8_kib_and_a_phrase_of_1_kib_are_sent() -> None:
    reply = reply_of((b"", "k" * 8192, 200, "r" * 1024, (("a", "b" * 8191),)))
    assert (reply.content_type, reply.reason) == (b"k" * 8192, b"r" * 1024)
    assert reply.headers == ((b"a", b"b" * 8191),)
    assert reply_of((b"", "k" * 8192, 200, None, ())).content_type == b"k" * 8192


def test_headers_of_64_kib_together_are_sent_and_no_more() -> None:
    eight = tuple((f"{i:03}", "b" * (8192 - 3 - len(": \r\n"))) for i in range(8))
    assert len(reply_of((b"", None, 200, None, eight)).headers) == 8
    with pytest.raises(BackendError, match="9 headers, of more than 65,536 bytes together"):
        reply_of((b"", None, 200, None, (*eight, ("a", ""))))
    with pytest.raises(BackendError, match="100,000 headers"):
        reply_of((b"", None, 200, None, (("a", ""),) * 100_000))


@given(st.text(), st.text(), st.integers(200, 999), st.text(max_size=5), st.text(max_size=5))
def test_nothing_breaks_out_of_its_place(kind: str, reason: str, status: int, name: str, value: str) -> None:
    try:
        out = wire((b"body", kind, status, reason, ((name, value),)))
    except BackendError:
        return
    head, blank, rest = out.partition(b"\r\n\r\n")
    assert blank
    assert rest == (b"" if status in (204, 304) else b"body")
    assert not set(b"\r\n\0") & set(head.replace(b"\r\n", b""))
    assert all(b":" in line for line in head.split(b"\r\n")[1:])


# ---- through real servers and workers

MODELS = "show=show*4 told=told parts=parts endless=endless counts=counts"


@pytest.fixture(scope="module", params=["own protocol", "uvicorn"])
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    command = [sys.executable, str(HERE / "custom_server.py")]
    if request.param == "uvicorn":
        command.append("--under=uvicorn")
    else:
        closed = [f"--{door}-address=off" for door in ("management", "grpc")]
        command += [*closed, "--inference-address=127.0.0.1:0", "--metrics-address=127.0.0.1:0"]
    path = os.pathsep.join([str(HERE), *sys.path])
    with run_command(command, env={"CUSTOM": MODELS, "PYTHONPATH": path}) as running:
        yield running


def ask(server: RunningServer, method: str, path: str, **options: Any) -> httpx.Response:
    return httpx.request(method, f"{server.url}{path}", timeout=PATIENCE, trust_env=False, **options)


def test_a_handler_is_told_what_the_client_was(server: RunningServer) -> None:
    answer = ask(server, "PATCH", "/predictions/show/1/a/b", content=b"raw", headers={"X-My": "Value"})
    said, headers = answer.json(), {name.lower(): value for name, value in answer.json()["headers"]}
    assert said["id"] == answer.headers["x-request-id"]
    assert (said["kind"], said["body"]) == ("bytes", "raw")
    assert (headers["x-my"], headers["url_path"], headers["explain"]) == ("Value", "a/b", "False")
    assert "content-type" not in answer.headers


def test_forms_reach_it_as_fields(server: RunningServer) -> None:
    files = {"data": ("a.png", b"\x89PNG", "image/png")}
    said = ask(server, "POST", "/predictions/show", files=files, data={"note": "x"}).json()
    assert said["body"] == [["note", None, "x"], ["data", "image/png", "\x89PNG"]]
    large = ask(server, "POST", "/predictions/show", files={"data": b"x" * 200_000}).json()
    assert len(large["body"][0][2]) == 200_000
    refused = ask(server, "POST", "/predictions/show", content=b"", headers={"content-type": "multipart/form-data"})
    assert (refused.status_code, refused.json()["type"]) == (400, "BadRequestException")


def test_invocations_find_their_model_in_the_query_or_the_form(server: RunningServer) -> None:
    said = ask(server, "POST", "/invocations?model_name=show&x=1", content=b"raw").json()
    assert said["body"] == [["model_name", None, "show"], ["x", None, "1"], ["body", None, "raw"]]
    assert ask(server, "POST", "/invocations", data={"model_name": "show"}).json()["kind"] == "fields"
    large = {"model_name": (None, b"show"), "data": b"x" * 200_000}
    assert ask(server, "POST", "/invocations", files=large).json()["kind"] == "fields"
    assert ask(server, "POST", "/invocations", content=b"raw").status_code == 400
    assert ask(server, "POST", "/v1/models/show:explain").json()["headers"][-1] == ["explain", "True"]


def test_v2_hands_the_body_to_the_handler(server: RunningServer) -> None:
    assert ask(server, "POST", "/v2/models/show/infer", json={"inputs": []}).json()["body"] == '{"inputs":[]}'
    refused = ask(server, "POST", "/v2/models/told/infer", json=[400, "BadRequestException", "no"])
    assert (refused.status_code, refused.json()) == (400, {"error": "no"})


def test_its_status_headers_and_refusals_are_sent(server: RunningServer) -> None:
    told = ask(server, "POST", "/predictions/told", json=["body", "text/x", 418, "Tea", [["X-A", "b"]]])
    assert (told.status_code, told.headers["content-type"], told.headers["x-a"], told.text) == (
        418,
        "text/x",
        "b",
        "body",
    )
    refused = ask(server, "POST", "/predictions/told", json=[513, "InternalServerException", "no"])
    assert (refused.status_code, refused.json()["message"]) == (513, "no")
    bug = ask(server, "POST", "/predictions/told", json={"a": 1})
    assert bug.status_code == 500
    empty = ask(server, "POST", "/predictions/told", json=["gone", None, 204, None, []])
    assert (empty.status_code, empty.content) == (204, b"")


def test_an_answer_in_parts_is_chunks(server: RunningServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    for method in ("POST", "HEAD", "POST"):  # the connection goes on
        connection.request(method, "/predictions/parts", b"[3, 4]")
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("ts_stream_next"), answer.getheader("x-of")) == (201, "true", "us")
        assert answer.getheader("transfer-encoding") == "chunked" or method == "HEAD"
        assert answer.read() == (b"" if method == "HEAD" else b"aaaabbbbccccthe end")
    connection.close()


def test_a_part_comes_before_the_next_is_made(server: RunningServer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with httpx.stream(
        "POST", f"{server.url}/predictions/parts", json=[2, 3, "wait", str(gate)], timeout=PATIENCE
    ) as answer:
        parts, came = answer.iter_raw(), b""
        while came != b"aaabbb":
            came += next(parts)
        gate.touch()
        assert b"".join(parts) == b"the end"


def test_large_parts_come_whole_and_in_order(server: RunningServer) -> None:
    answer = ask(server, "POST", "/predictions/parts", json=[40, 300_000])
    assert answer.content == b"".join(bytes([97 + i % 26]) * 300_000 for i in range(40)) + b"the end"


@pytest.mark.parametrize("then", ["raise", "die"])
def test_a_reply_that_will_not_be_whole_has_no_end(server: RunningServer, then: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        ask(server, "POST", "/predictions/parts", json=[2, 10, then])
    until = time.monotonic() + PATIENCE
    while ask(server, "POST", "/predictions/parts", json=[1, 1]).status_code != 201:  # its next process
        assert time.monotonic() < until


def test_http_1_0_has_no_chunks_and_ends_with_the_connection(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
        client.sendall(b"POST /predictions/parts HTTP/1.0\r\nHost: x\r\nContent-Length: 6\r\n\r\n[2, 3]")
        came = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = came.partition(b"\r\n\r\n")
    assert b"201" in head.split(b"\r\n")[0]
    if "metrics" in server.ready:  # uvicorn chunks all the same
        assert body == b"aaabbbthe end"


@pytest.mark.parametrize("reads", [True, False])
def test_a_client_that_leaves_ends_the_run(server: RunningServer, tmp_path: Path, reads: bool) -> None:
    """Also one that has not read for so long that its model waits."""
    told = tmp_path / "told"
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
        name = str(told).encode()
        client.sendall(
            b"POST /predictions/endless HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name)
        )
        for _ in range(200 if reads else 1):  # it has begun
            assert client.recv(65536)
        assert not told.exists()
    until = time.monotonic() + PATIENCE
    while not told.exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    assert ask(server, "POST", "/predictions/parts", json=[1, 1]).status_code == 201


def test_metrics_a_handler_tells_are_exported(server: RunningServer) -> None:
    if "metrics" not in server.ready:
        pytest.skip("the plain app has no metrics door")
    metrics = [
        ["HandlerTime", "gauge", "ms", 1.5, {"ModelName": "counts", "Level": "Model"}],
        ["calls", "counter", "count", 2, {}],
        ["CPUUtilization", "gauge", "percent", 3, {}],
        ["size", "histogram", "bytes", 4, {}],
    ]
    for _ in range(2):
        assert ask(server, "POST", "/predictions/counts", json=metrics).text == "told"
    page = httpx.get(f"{server.ready['metrics']}/metrics").text
    host = socket.gethostname()
    labels = f'Hostname="{host}",Level="Model",ModelName="counts",ModelVersion="1"'
    for name, value in (
        ("HandlerTime", 1.5),
        ("calls_total", 4.0),
        ("handler_CPUUtilization", 3.0),
        ("size_count", 2.0),
    ):
        assert f"{name}{{{labels}}} {value}" in page
    assert page.count("# TYPE CPUUtilization") == 1


def test_dimensions_that_clash_with_our_labels_neither_break_the_page_nor_are_lost(server: RunningServer) -> None:
    if "metrics" not in server.ready:
        pytest.skip("the plain app has no metrics door")
    clashing = {"ModelName": "other", "ModelVersion": "0", "Hostname": "x", "le": "y"}
    metrics = [[name, kind, "", 1, dimensions] for name, kind in (("clash", "counter"), ("width", "histogram"))
               for dimensions in (clashing, {}, {"ModelName": "counts"})]  # fmt: skip
    assert ask(server, "POST", "/predictions/counts", json=metrics).text == "told"
    page = httpx.get(f"{server.ready['metrics']}/metrics").text
    found = [
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    ]
    assert len({sample[:2] for sample in found}) == len(found), "no sample is there twice"
    counted = {labels: value for name, labels, value in found if name == "clash_total"}
    ours = (("Hostname", socket.gethostname()), ("Level", "Model"), ("ModelName", "counts"), ("ModelVersion", "1"))
    theirs = tuple((f"handler_{name}", value) for name, value in sorted(clashing.items()))
    assert counted == {ours: 2.0, (*ours, *theirs): 1.0}
    assert sum(name == "width_bucket" for name, *_ in found) == 2 * len((*BOUNDS, "+Inf"))
