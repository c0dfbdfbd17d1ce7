"""Real server processes, looked at from outside: the metrics door, the log in both forms, the access log."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from headrace.errors import InvalidOption
from headrace.server.access import LONGEST, Access, access_log, as_json, as_text
from headrace.server.options import ServeOptions
from headrace.server.run import serve
from headrace.testing import RunningServer, run_server

PATIENCE = 30.0
METRICS = "--metrics-address=127.0.0.1:0"
MODULE = """
def same(x):
    return x

def fail(x):
    raise ValueError("swordfish")

def wait(x):
    with open("gate") as gate:
        gate.read()
    return x
"""
TEXT = re.compile(
    r'(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?P<client>\S+) "(?P<method>\S+) (?P<path>.*)" '
    r"(?P<status>\d{3}) (?P<bytes>\d+) (?P<milliseconds>\d+\.\d{3}) (?P<request_id>[0-9a-f-]{36})"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("observed")
    (folder / "served.py").write_text(MODULE)
    return folder


def until(met: Callable[[], bool], what: str) -> None:
    """Ask again and again: there is nothing in another process to wait on."""
    give_up = time.monotonic() + PATIENCE
    while not met():
        assert time.monotonic() < give_up, what


def ask(server: RunningServer, method: str, path: str, **options: Any) -> httpx.Response:
    return httpx.request(method, server.url + path, timeout=PATIENCE, trust_env=False, **options)


def scrape(server: RunningServer) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    page = httpx.get(f"{server.ready['metrics']}/metrics", timeout=PATIENCE, trust_env=False)
    assert page.status_code == 200
    families = parse(page.text)
    return {(one.name, frozenset(one.labels.items())): one.value for each in families for one in each.samples}


def total(samples: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str) -> float:
    return sum(value for (each, _), value in samples.items() if each == name)


# ---- the metrics door


def test_the_ready_file_says_where_the_metrics_are_and_they_are_true(folder: Path) -> None:
    with run_server("served:same", METRICS, cwd=folder) as server:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", str(server.ready["metrics"]))
        before = scrape(server)
        for _ in range(20):
            assert ask(server, "POST", "/predictions/same", content=b"x").status_code == 200
        after = scrape(server)
        for name in "headrace_requests_total", "headrace_queue_seconds_count", "headrace_run_seconds_count":
            assert total(after, name) - total(before, name) == 20
        until(lambda: total(scrape(server), "headrace_loop_lag_seconds_count") >= 2, "nobody looks at the loop")
        assert server.stop() == 0


def test_off_closes_the_door(folder: Path) -> None:
    with run_server("served:same", "--metrics-address=off", cwd=folder) as server:
        assert server.ready["metrics"] is None


def test_a_taken_port_is_told_and_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    threads = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        options = ServeOptions(
            models=("served:same",),
            inference_address="127.0.0.1:0",
            metrics_address=f"127.0.0.1:{port}",
            management_address="off",
            grpc_address="off",
        )
        with pytest.raises(Exception, match=rf"--metrics-address 127\.0\.0\.1:{port}: Address already in use"):
            serve(options)
    assert set(threading.enumerate()) == threads


def test_the_metrics_can_be_had_while_the_server_drains(folder: Path) -> None:
    with run_server("served:same", METRICS, cwd=folder) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as slow:
            slow.sendall(b"POST /predictions/same HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx")
            until(lambda: total(scrape(server), "headrace_in_flight") == 1, "it was not let in")
            server.signal(signal.SIGTERM)
            until(lambda: "stopping" in server.log(), "it does not stop")
            assert total(scrape(server), "headrace_in_flight") == 1
            slow.sendall(b"y")
            answer = slow.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(PATIENCE) == 0


def test_a_second_signal_does_not_lose_what_was_logged(folder: Path) -> None:
    with run_server("served:same", METRICS, "--access-log=last", cwd=folder) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as slow:
            slow.sendall(b"POST /predictions/same HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx")
            until(lambda: total(scrape(server), "headrace_in_flight") == 1, "it was not let in")
            assert ask(server, "GET", "/ping").status_code == 200
            server.signal(signal.SIGTERM)
            until(lambda: "stopping" in server.log(), "it does not stop")
            server.signal(signal.SIGTERM)
            assert server.process.wait(PATIENCE) == -signal.SIGTERM
        assert "a second signal: ending at once" in server.log()
        assert "GET /ping" in (folder / "last").read_text()


# ---- the log


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("level", ["info", "debug"])
def test_every_failing_requests_line_carries_its_id(folder: Path, form: str, level: str) -> None:
    """At info those that failed through us or the model; at debug also those that were refused."""
    with run_server("served:fail", f"--log-format={form}", f"--log-level={level}", cwd=folder) as server:
        answers = [ask(server, "POST", "/predictions/fail", content=b"x") for _ in range(5)]
        refused = [ask(server, "POST", f"/predictions/nobody%0Ahere{i}", content=b"x") for i in range(2)]
        assert [answer.status_code for answer in (*answers, *refused)] == [500] * 5 + [404] * 2
        assert server.stop() == 0
        log = server.log()
        assert "Model server started.\n" in log
        log = log.replace("Model server started.\n", "")
    expected = {answer.headers["x-request-id"]: "fail:1" for answer in answers}
    if level == "debug":
        expected |= dict.fromkeys((answer.headers["x-request-id"] for answer in refused), None)
    if form == "json":
        lines = [json.loads(line) for line in log.splitlines()]
        found = {line["request_id"]: line.get("model") for line in lines if "request_id" in line}
        failed = [line for line in lines if line.get("model") == "fail:1"]
        assert all("swordfish" in line["exception"] for line in failed)
        assert all(line["level"] == "error" for line in failed)
    else:
        of_requests = [line for line in log.splitlines() if "/predictions" in line and "File" not in line]
        ends = [re.search(r"(?: \[model (\S+)\])? \[request id (\S+)\]$", line) for line in of_requests]
        found = {end[2]: end[1] for end in ends if end is not None}
        assert len(of_requests) == len(expected), "a line of a request without its id"
    assert found == expected


# ---- the access log


@pytest.mark.parametrize("form", ["text", "json"])
def test_there_is_a_line_for_each_request_that_says_what_the_client_saw(folder: Path, form: str) -> None:
    name = f"access.{form}"
    with run_server("served:same", "served:fail", f"--access-log={name}", f"--log-format={form}", cwd=folder) as server:
        answers = [
            *(ask(server, "POST", f"/predictions/same?n={i}&q=%22", content=b"12345") for i in range(30)),
            ask(server, "POST", "/predictions/fail", content=b"x"),
            ask(server, "POST", "/predictions/nobody%0A", content=b"x"),
            ask(server, "HEAD", "/ping"),
            ask(server, "GET", "/"),
        ]
        assert server.stop() == 0
    text = (folder / name).read_text().splitlines()
    lines = [json.loads(line) for line in text] if form == "json" else [match(line) for line in text]
    assert [line["request_id"] for line in lines] == [answer.headers["x-request-id"] for answer in answers]
    assert [int(line["status"]) for line in lines] == [answer.status_code for answer in answers]
    assert [int(line["bytes"]) for line in lines] == [len(answer.content) for answer in answers]
    assert lines[1]["path"] == "/predictions/same?n=1&q=%22"
    assert [line["method"] for line in lines[-2:]] == ["HEAD", "GET"]
    assert all(line["client"].startswith("127.0.0.1:") for line in lines)
    assert all(0 < float(line["milliseconds"]) < PATIENCE * 1000 for line in lines)


def match(line: str) -> dict[str, str]:
    found = TEXT.fullmatch(line)
    assert found is not None, line
    return found.groupdict()


def test_on_is_stdout(folder: Path) -> None:
    with run_server("served:same", "--access-log=on", "--log-level=error", cwd=folder) as server:
        request_id = ask(server, "POST", "/predictions/same", content=b"x").headers["x-request-id"]
        assert server.stop() == 0
        assert len(server.log().splitlines()) == 2
        assert server.log().splitlines()[1].endswith(request_id)


def test_sighup_has_the_file_opened_again(folder: Path) -> None:
    path, moved = folder / "rotated", folder / "rotated.1"
    with run_server("served:same", "--access-log=rotated", METRICS, cwd=folder) as server:
        first = ask(server, "GET", "/ping").headers["x-request-id"]
        until(lambda: first in path.read_text(), "it is not written")
        path.rename(moved)
        server.signal(signal.SIGHUP)
        ids = []

        def opened() -> bool:
            ids.append(ask(server, "GET", "/ping").headers["x-request-id"])
            return path.exists()

        until(opened, "it was not opened again")
        assert server.stop() == 0
    lines = [line.split()[-1] for line in (moved.read_text() + path.read_text()).splitlines()]
    assert lines == [first, *ids]


@pytest.mark.parametrize("target", ["off", "on"])
def test_sighup_ends_no_server(folder: Path, target: str) -> None:
    with run_server("served:same", f"--access-log={target}", cwd=folder) as server:
        server.signal(signal.SIGHUP)
        assert ask(server, "GET", "/ping").status_code == 200
        assert server.stop() == 0


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_sighup_ends_no_server_that_is_still_loading(folder: Path, isolation: str) -> None:
    (folder / "hangs_up.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGHUP)\nfrom served import same\n"
    )
    with run_server("hangs_up:same", f"--isolation={isolation}", "--access-log=early", cwd=folder) as server:
        assert ask(server, "GET", "/ping").status_code == 200
        assert server.stop() == 0


def test_all_of_stderr_is_json_if_the_log_is(folder: Path) -> None:
    """What nobody asked for is not said, and what keeps the server from starting is an object, too."""
    command = [sys.executable, "-m", "headrace", "serve", "--inference-address=127.0.0.1:0", "--log-format=json"]
    command += ["--metrics-address=off", "--management-address=off"]
    for more, said in (
        (["nowhere:nothing", "--grpc-address=127.0.0.1:1"], ["--grpc-address: these doors", "nowhere"]),
        (["nowhere:nothing"], ["nowhere"]),
        (["--tls-key=nowhere"], ["--tls-key needs --tls-cert"]),
    ):
        ended = subprocess.run([*command, *more], cwd=folder, capture_output=True, timeout=60, check=False)
        lines = [json.loads(line) for line in ended.stderr.splitlines()]
        assert [word in line["message"] for line, word in zip(lines, said, strict=True)] == [True] * len(said)
        assert lines[-1]["level"] == "error"
        assert ended.returncode == (2 if "--tls-key=nowhere" in more else 1)


def test_a_file_that_nobody_reads_slows_no_request_and_its_losses_are_counted(folder: Path) -> None:
    os.mkfifo(folder / "stuck")
    with run_server("served:same", "--access-log=stuck", METRICS, cwd=folder) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
            request = b"GET /ping?%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"x" * LONGEST)

            def loses() -> bool:
                client.sendall(request * 100)
                answers = b""
                while answers.count(b"Healthy") < 100:
                    answers += client.recv(1 << 20)
                assert answers.count(b"HTTP/1.1 200 ") == 100
                return total(scrape(server), "headrace_access_log_lost_total") > 0

            until(loses, "nothing was lost")  # 64 KiB of the pipe, and what may wait
            assert total(scrape(server), "headrace_access_log_lines_total") < 100
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10
        assert "the access log is not whole" in server.log()


def test_stderr_that_nobody_reads_stops_nobody(folder: Path) -> None:
    """A model that fails each time writes 2 KiB of log a request: with a pipe full, the loop would stand still."""
    command = [sys.executable, "-m", "headrace", "serve", "served:fail", "--inference-address=127.0.0.1:0"]
    command += [f"--{door}-address=off" for door in ("management", "metrics", "grpc")]
    command += ["--ready-file=stuck.json"]
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"Model server started.\n"
            url = json.loads((folder / "stuck.json").read_text())["inference"]
            with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
                for _ in range(200):
                    assert client.post("/predictions/fail", content=b"x").status_code == 500
            process.terminate()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("target", ["nowhere/log", ".", "", "a\0b"])
def test_a_file_that_cannot_be_written_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidOption, match="--access-log"):
        access_log(target, "text")


def test_a_client_that_leaves_has_a_line_too(folder: Path) -> None:
    os.mkfifo(folder / "gate")
    with run_server("served:wait", "--access-log=left", METRICS, cwd=folder) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
            client.sendall(b"POST /predictions/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nxy")
            with (folder / "gate").open("w"):  # once the model reads it: it runs
                client.close()
                until(lambda: " 499 " in (folder / "left").read_text(), "no line")
        samples = scrape(server)
        assert samples["headrace_refusals_total", frozenset({("reason", "ClientLeft")})] == 1
        labels = frozenset({("model", "wait"), ("version", "1"), ("code", "499")})
        assert samples["headrace_requests_total", labels] == 1


def test_a_client_that_ends_in_the_middle_of_a_body_has_a_line_that_says_what_it_was_told(folder: Path) -> None:
    with run_server("served:same", "--access-log=half", METRICS, cwd=folder) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
            client.sendall(b"POST /predictions/same HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx")
            until(lambda: total(scrape(server), "headrace_in_flight") == 1, "it was not let in")
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
        until(lambda: " 400 " in (folder / "half").read_text(), "no line")
        samples = scrape(server)
        assert samples["headrace_refusals_total", frozenset({("reason", "ConnectionEnds")})] == 1


HOSTILE = Access(0.0, None, "GET", '/a"b\n200 0\x1b[31m\ud800é', 404, 1, 0.0015, "id")


def test_what_a_client_sends_cannot_make_a_line() -> None:
    text = as_text(HOSTILE)
    assert text == ('1970-01-01T00:00:00.000Z - "GET /a\\"b\\n200 0\\u001b[31m\\ud800\\u00e9" 404 1 1.500 id')
    assert "\n" not in as_json(HOSTILE)
    assert json.loads(as_json(HOSTILE))["path"] == HOSTILE.path
