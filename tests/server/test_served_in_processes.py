"""A served callable runs in worker processes: what clients and operators see of them."""

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from headrace.server.options import BUNDLED_DIGITS
from headrace.testing import RunningServer, run_server

PATIENCE = 60.0
HANDLERS = """
import asyncio, os, signal, sys, time

def pid(value):
    return os.getpid()

def fails(value):
    raise ValueError("a secret of the operator's")

def prints(value):
    print("from the handler")
    return 1

def dies(value):
    os.kill(os.getpid(), signal.SIGKILL)

def hangs(value):
    time.sleep(1000)

async def meets(value):
    global inside
    inside += 1
    while inside < value:
        await asyncio.sleep(0.005)
    return os.getpid()

inside = 0

def hogs(value):
    while True:
        pass
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "handlers.py").write_text(HANDLERS)
    names = ("pid", "fails", "prints", "dies", "hangs", "meets")
    models = [f"handlers:{name}" for name in names]
    with run_server(*models, "--response-timeout", "1", cwd=folder) as running:
        yield running
        assert running.stop() == 0


def ask(server: RunningServer, path: str, body: Any = 1) -> tuple[int, str]:
    data = json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def get(server: RunningServer, path: str) -> int:
    try:
        with urllib.request.urlopen(server.url + path, timeout=PATIENCE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def wait_for(what: Any) -> Any:
    until = time.monotonic() + PATIENCE
    while not (value := what()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return value


def test_coroutine_functions_run_at_once(server: RunningServer) -> None:
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: ask(server, "/predictions/meets", 8), range(8)))
    assert len(set(answers)) == 1
    assert answers[0][0] == 200


def test_it_is_another_process_than_the_server(server: RunningServer) -> None:
    status, body = ask(server, "/predictions/pid")
    assert status == 200
    assert int(body) != server.process.pid
    assert Path(f"/proc/{int(body)}").exists()


def test_a_failure_is_told_to_the_operator_with_its_traceback_and_to_the_client_without(server: RunningServer) -> None:
    status, body = ask(server, "/predictions/fails")
    assert status == 500
    assert "ValueError" in body
    assert "secret" not in body
    request_id = body.rpartition("request id ")[2].partition('"')[0]
    log = wait_for(lambda: request_id in (said := server.log()) and said)
    assert "a secret of the operator's" in log
    assert "handlers.py" in log
    assert "[model fails:1]" in log


def test_what_it_prints_is_in_the_log_with_the_models_name(server: RunningServer) -> None:
    assert ask(server, "/predictions/prints") == (200, "1")
    wait_for(lambda: "from the handler [model prints]" in server.log())


def test_a_killed_worker_is_replaced_and_nobody_hears_of_it(server: RunningServer) -> None:
    first = int(ask(server, "/predictions/pid")[1])
    os.kill(first, signal.SIGKILL)
    status, body = ask(server, "/predictions/pid")
    assert status == 200
    assert int(body) != first
    assert get(server, "/ping") == 200


def test_a_death_is_503_and_a_hang_504_and_other_models_go_on(server: RunningServer) -> None:
    status, body = ask(server, "/predictions/dies")
    assert (status, "SIGKILL" in body) == (503, True)
    status, body = ask(server, "/predictions/hangs")
    assert (status, "did not answer within 1 s" in body) == (504, True)
    wait_for(lambda: "in hangs" in server.log())  # the log is written by a thread of its own
    assert ask(server, "/predictions/pid")[0] == 200


def test_a_model_that_cannot_be_kept_alive_is_not_ready_and_the_others_are(server: RunningServer) -> None:
    assert get(server, "/v2/models/dies/ready") == 200
    while ask(server, "/predictions/dies")[0] == 503 and get(server, "/v2/models/dies/ready") == 200:
        pass
    wait_for(lambda: get(server, "/v2/models/dies/ready") != 200)
    assert get(server, "/ping") == 500
    assert get(server, "/v2/models/pid/ready") == 200
    assert ask(server, "/predictions/pid")[0] == 200


def test_in_this_process_when_asked(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    with run_server("handlers:pid", "--isolation", "thread", cwd=tmp_path) as server:
        assert ask(server, "/predictions/pid") == (200, str(server.process.pid))


def test_nothing_is_left_after_the_server_was_killed(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    with run_server("handlers:pid", "handlers:hogs", "--workers", "2", cwd=tmp_path) as server:
        pid = int(ask(server, "/predictions/pid")[1])
        server.process.kill()
        server.process.wait()
    wait_for(lambda: not Path(f"/proc/{pid}").exists())


def test_an_onnx_model_in_processes_answers_every_door_as_in_the_server(tmp_path: Path) -> None:
    digits = Path(BUNDLED_DIGITS)
    image = next(iter(sorted((Path(__file__).parents[2] / "examples").rglob("*.png"))), None)
    answers = []
    for options in (["--isolation=auto"], ["--isolation=process"], ["--isolation=process", "--share-weights"]):
        with run_server(f"digits={digits}", f"plain={digits / 'digits.onnx'}", *options) as server:
            spec = json.loads(text_of(server, "/v2/models/plain"))
            tensor = spec["inputs"][0]
            shape = [1 if n < 0 else n for n in tensor["shape"]]
            size = 1
            for n in shape:
                size *= n
            body = {"name": tensor["name"], "datatype": tensor["datatype"], "shape": shape, "data": [0.5] * size}
            said: list[Any] = [spec, ask(server, "/v2/models/plain/infer", {"id": "1", "inputs": [body]})]
            said.append(ask(server, "/v2/models/plain/infer", {"id": "1", "inputs": [{**body, "datatype": "INT8"}]}))
            if image is not None:
                said.append(post(server, "/predictions/digits", image.read_bytes()))
            answers.append(said)
            log = server.log()
    assert answers[0] == answers[1]
    assert [each[0] for each in answers[2][1:3]] == [each[0] for each in answers[0][1:3]] == [200, 400]
    assert answers[2][::2] == answers[0][::2]  # numbers may differ in their last digits
    assert "its workers share one copy of" in log


def text_of(server: RunningServer, path: str) -> str:
    with urllib.request.urlopen(server.url + path, timeout=PATIENCE) as answer:
        return str(answer.read().decode())


def post(server: RunningServer, path: str, data: bytes) -> str:
    request = urllib.request.Request(server.url + path, data, {"content-type": "application/octet-stream"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return str(answer.read().decode())
