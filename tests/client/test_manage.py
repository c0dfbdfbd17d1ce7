"""`hr.manage` with a real server on loopback, and with what only looks like one."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace as hr
from headrace.client.manage import Manager
from headrace.client.told import Operation, models_of, operation_of
from headrace.client.wire import Wire
from headrace.server.options import BUNDLED_DIGITS
from headrace.testing import RunningServer, run_server

MODULES = {
    "broken": "raise RuntimeError('no such weights')\n",
    "slow": "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\ndef f(x):\n    return 'slow'\n",
    "waits": (
        "import os, time\ndef f(x):\n    open('inside', 'w').close()\n    while not os.path.exists('out'):\n"
        "        time.sleep(0.01)\n    return 'out'\n"
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, Path]]:
    folder = tmp_path_factory.mktemp("managed")
    for name, text in MODULES.items():
        (folder / f"client_{name}.py").write_text(text)
    (folder / "store").mkdir()
    shutil.copytree(BUNDLED_DIGITS, folder / "store" / "digits")
    shutil.copy(Path(BUNDLED_DIGITS, "digits.onnx"), folder / "store" / "net.onnx")
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    arguments = ("--management-address=127.0.0.1:0", "--model-store=store", "--models=digits", "--manage-callables=yes")
    with run_server(*arguments, env=environment, cwd=folder) as running:
        yield running, folder


@pytest.fixture
def manager(server: tuple[RunningServer, Path]) -> Iterator[Manager]:
    with hr.manage(server[0].management) as manager:
        yield manager
        for each in sorted(manager.models(), key=lambda each: each.default):
            if each.name != "digits":
                manager.unregister(each.name, each.version)


# ---- the life of a model


def test_a_model_comes_grows_and_goes(manager: Manager, server: tuple[RunningServer, Path]) -> None:
    seen = manager.register("net.onnx", batch_size=4, max_batch_delay=0.05, response_timeout=7, startup_timeout=70)
    assert (seen.name, seen.version, seen.url, seen.state) == ("net", "1", "net.onnx", "READY")
    assert (seen.ready, seen.default, seen.at_startup, seen.ready_workers) == (True, True, False, 1)
    assert (seen.batch_size, seen.max_batch_delay, seen.response_timeout, seen.startup_timeout) == (4, 0.05, 7.0, 70.0)
    assert seen.workers[0].pid == server[0].process.pid
    assert seen.workers[0].memory > 1 << 20
    assert manager.scale("net", 2).ready_workers == 2
    assert manager.names() == ["digits", "net"]
    assert [each.name for each in manager.models()] == ["digits", "net"]
    manager.unregister("net")
    assert manager.names() == ["digits"]
    assert [each.kind for each in manager.operations()[:3]] == ["unregister", "scale", "register"]


def test_between_two_bounds_and_parked(manager: Manager) -> None:
    manager.register("net.onnx")
    seen = manager.scale("net", 1, max_workers=2)
    assert (seen.min_workers, seen.max_workers) == (1, 2)
    assert manager.scale("net", 0).state == "REGISTERED"


def test_without_workers_it_is_known_and_its_operation_is_done(manager: Manager) -> None:
    operation = manager.register("net.onnx", name="idle", workers=0, wait=False)
    assert (operation.state, operation.model, list(manager.follow(operation))) == ("done", "idle", [operation])
    assert manager.register("net.onnx", workers=0).state == "REGISTERED"  # it says how it is called


def test_versions_and_which_is_the_default(manager: Manager) -> None:
    manager.register("net.onnx")
    manager.register("net.onnx", version="2")
    assert [(each.version, each.default) for each in manager.versions("net")] == [("1", True), ("2", False)]
    assert manager.set_default("net", "2").default
    assert not manager.show("net", "1").default
    assert manager.show("net").version == "2"
    with pytest.raises(hr.IsDefaultVersion):
        manager.unregister("net", "2")
    manager.unregister("net", "1")


def test_a_name_that_needs_quoting_is_asked_for_as_it_is(manager: Manager) -> None:
    for name in ("a?b#c", "ä b", "%2e%2e"):
        with pytest.raises(hr.ModelNotFound) as caught:
            manager.show(name)
        assert caught.value.name == name


def test_all_models_are_seen_with_one_request_for_each_page(
    manager: Manager, server: tuple[RunningServer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.register("net.onnx", name="net", version="1", workers=0)
    manager.register("net.onnx", name="net", version="2", workers=1)
    manager.set_default("net", "2")
    alone = [*manager.versions("digits"), *manager.versions("net")]
    asked: list[str] = []
    look = manager._wire.look
    monkeypatch.setattr(manager._wire, "look", lambda path, *more: (asked.append(path), look(path, *more))[1])
    for page in (100, 1):
        monkeypatch.setattr("headrace.client.manage.PAGE", page)
        asked.clear()
        seen = manager.models()
        assert len(asked) == (1 if page == 100 else 2)
        assert [(each.name, each.version, each.default) for each in seen] == [
            ("digits", "1.0", True), ("net", "1", False), ("net", "2", True)
        ]  # fmt: skip
        assert [replace(each, workers=()) for each in seen] == [replace(each, workers=()) for each in alone]


# ---- following


def test_a_load_is_followed_until_it_is_ready(manager: Manager, server: tuple[RunningServer, Path]) -> None:
    go = server[1] / "go"
    go.unlink(missing_ok=True)
    operation = manager.register("client_slow:f", name="slow", wait=False)
    assert (operation.state, operation.kind, operation.model) == ("running", "register", "slow")
    states = []
    for each in manager.follow(operation):
        states.append(each.state)
        if len(states) == 2:
            assert manager.show("slow").state == "LOADING"
            go.touch()
    assert states[:2] == ["running", "running"]
    assert states[-1] == "done"
    assert manager.show("slow").ready


def test_who_does_not_wait_any_longer_stops_nothing(manager: Manager, server: tuple[RunningServer, Path]) -> None:
    go = server[1] / "go"
    go.unlink(missing_ok=True)
    with pytest.raises(hr.NoAnswer, match=r"register slow \(operation \w+\): no answer within 0.1 s"):
        manager.register("client_slow:f", name="slow", timeout=0.1)
    go.touch()
    (operation,) = [each for each in manager.operations() if each.running]
    *_, last = manager.follow(operation)
    assert last.state == "done"


def test_the_pauses_grow_and_the_clock_is_the_one_it_is_given(server: tuple[RunningServer, Path]) -> None:
    wire = Wire(server[0].management, None, 10.0, None)
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    manager = Manager(wire, now=lambda: now[0], sleep=sleep)
    go = server[1] / "go"
    go.unlink(missing_ok=True)
    operation = manager.register("client_slow:f", name="slow", wait=False)
    with pytest.raises(hr.NoAnswer):
        list(manager.follow(operation, timeout=5.0))
    assert slept[0] == 0.02
    assert max(slept) == 0.5
    assert slept == sorted(slept)
    assert 5.0 <= sum(slept) < 5.6
    go.touch()
    list(Manager(wire).follow(operation))
    manager.unregister("slow")
    manager.close()


def test_a_load_that_fails_raises_why(manager: Manager) -> None:
    with pytest.raises(hr.CannotLoad, match="no such weights") as caught:
        manager.register("client_broken:f", name="broken")
    assert (caught.value.name, caught.value.version, caught.value.out_of_memory) == ("broken", "1", False)
    assert manager.names() == ["digits"]
    failed = manager.operations()[0]
    assert failed.state == "failed"
    assert isinstance(failed.error, hr.CannotLoad)


def test_what_is_inside_ends_first_or_it_serves_on(manager: Manager, server: tuple[RunningServer, Path]) -> None:
    running, folder = server
    manager.register("client_waits:f", name="waits")
    answers: list[Any] = []
    inside = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{running.url}/predictions/waits", json=1, timeout=60).text)
    )
    inside.start()
    while not (folder / "inside").exists():
        time.sleep(0.01)  # the worker's gate is a file
    with pytest.raises(hr.StillBusy) as caught:
        manager.unregister("waits", drain_timeout=0.1)
    assert (caught.value.name, caught.value.timeout) == ("waits", 0.1)
    assert manager.show("waits").ready
    (folder / "out").touch()
    inside.join()
    assert answers == ["out"]


# ---- refusals


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        (lambda m: m.show("nix"), hr.ModelNotFound),
        (lambda m: m.show("digits", "9"), hr.ModelNotFound),
        (lambda m: m.versions("nix"), hr.ModelNotFound),
        (lambda m: m.register("digits"), hr.AlreadyRegistered),
        (lambda m: m.register("nix.onnx"), hr.SourceNotFound),
        (lambda m: m.register("../x.onnx"), hr.SourceNotFound),
        (lambda m: m.register("http://127.0.0.1/x.mar"), hr.UrlNotAllowed),
        (lambda m: m.register(""), hr.InvalidOption),
        (lambda m: m.register("net.onnx", batch_size=0), hr.InvalidOption),
        (lambda m: m.scale("nix", 1), hr.ModelNotFound),
        (lambda m: m.scale("digits", 2, max_workers=1), hr.InvalidOption),
        (lambda m: m.scale("digits", 1000), hr.InvalidOption),
        (lambda m: m.scale("digits", 1, version="9"), hr.ModelNotFound),
        (lambda m: m.set_default("digits", "9"), hr.ModelNotFound),
        (lambda m: m.unregister("nix"), hr.ModelNotFound),
        (lambda m: m.operation("nix"), hr.RequestError),
    ],
)
def test_what_is_refused_is_the_error_the_server_had(manager: Manager, ask: Any, kind: type) -> None:
    with pytest.raises(kind) as caught:
        ask(manager)
    assert type(caught.value) is kind
    assert manager.names() == ["digits"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: m.scale("digits", -1),
        lambda m: m.scale("digits", True),
        lambda m: m.register("net.onnx", workers=1.5),
        lambda m: m.register("net.onnx", max_batch_delay=0.0001),
        lambda m: m.register("net.onnx", response_timeout=float("nan")),
        lambda m: m.scale("digits", 1, drain_timeout=0),
        lambda m: m.show(""),
        lambda m: m.show(".."),
    ],
)
def test_what_cannot_be_is_not_even_sent(ask: Any) -> None:
    with hr.manage("http://127.0.0.1:1") as nobody, pytest.raises(hr.InvalidOption):
        ask(nobody)


@pytest.mark.parametrize("compat", ["torchserve", "mms"])
def test_a_server_that_speaks_as_an_old_one_is_managed_too(compat: str) -> None:
    models = f"--models=digits={BUNDLED_DIGITS}"
    with run_server("--management-address=127.0.0.1:0", models, f"--compat={compat}") as server:
        with hr.manage(server.management) as manager:
            (seen,) = manager.models()
            assert (seen.name, seen.state, seen.default, seen.ready_workers) == ("digits", "READY", True, 1)
            assert manager.scale("digits", 2).ready_workers == 2
            with pytest.raises(hr.ModelNotFound):
                manager.show("nix")
            with pytest.raises(hr.SourceNotFound):
                manager.register("nix.onnx")
            manager.unregister("digits")
            assert manager.models() == []


def test_a_server_with_tokens_wants_the_management_key(tmp_path: Path) -> None:
    import json

    arguments = ("--management-address=127.0.0.1:0", f"--models={BUNDLED_DIGITS}", "--enable-token-auth")
    with run_server(*arguments, cwd=tmp_path) as server:
        key = json.loads((tmp_path / "key_file.json").read_text())["management"]["key"]
        with hr.manage(server.management, key) as manager:
            assert manager.names() == ["digits"]
            assert key not in repr(manager)
        for token in (None, "wrong"):
            with hr.manage(server.management, token) as manager, pytest.raises(hr.AccessDenied):
                manager.names()


# ---- the wire


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8081", "ftp://x", "http://", "http://h:99999", "http://a b", "http://u:p@h", "http://h?x=1"]
)
def test_what_is_no_url_of_a_server_is_told_at_once(url: str) -> None:
    with pytest.raises(hr.InvalidOption, match="a management API is at a URL as"):
        hr.manage(url)


@pytest.mark.parametrize("token", ["", " ", "a\nb", "ä", "a\r\nX: y"])
def test_a_token_cannot_break_out_of_its_header(token: str) -> None:
    with pytest.raises(hr.InvalidOption, match="a token is a line"):
        hr.manage("http://h", token)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_time_limit_is_one(timeout: float) -> None:
    with pytest.raises(hr.InvalidOption, match="timeout is in seconds"):
        hr.manage("http://h", timeout=timeout)


def test_nobody_there_says_where_and_what_to_look_at() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with hr.manage(f"http://127.0.0.1:{port}/") as manager, pytest.raises(hr.Unreachable) as caught:
        manager.names()
    assert caught.value.url == f"http://127.0.0.1:{port}"
    assert "is the server running" in str(caught.value)


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """A server that gives each connection one of `answers`, whatever it asks, and none after the last one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)
                    if not answer:
                        over.wait()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


def http_answer(body: bytes, status: str = "200 OK", kind: str = "application/json", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{more}content-length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (http_answer(b"<html>", kind="text/html"), "it answers 200 with text/html, not JSON"),
        (http_answer(b"{}", "404 Not Found"), "in a form that is none of a management API"),
        (http_answer(b"[1]", "500 No"), "in a form that is none of a management API"),
        (http_answer(b"", "302 Found", more="location: http://elsewhere\r\n"), "leads elsewhere"),
        (b"SSH-2.0-x\r\n", "SSH"),
    ],
)
def test_what_is_no_management_api_is_told_from_one(answer: bytes, why: str) -> None:
    with answering(answer) as url, hr.manage(url) as manager, pytest.raises(hr.Unreachable) as caught:
        manager.names()
    assert why in str(caught.value)


def test_the_inference_apis_port_is_told_from_the_management_apis(server: tuple[RunningServer, Path]) -> None:
    with hr.manage(server[0].url) as manager:
        for ask in (
            manager.names, manager.models, manager.operations, lambda: manager.operation("x"),
            lambda: manager.show("digits"), lambda: manager.scale("digits", 2), lambda: manager.register("net.onnx"),
            lambda: manager.change("digits", queue=2), lambda: manager.set_default("digits", "1.0"),
            lambda: manager.unregister("digits"),
        ):  # fmt: skip
            with pytest.raises(hr.Unreachable, match="has no models to manage; is it the inference API"):
                ask()
    with hr.manage(server[0].management) as manager:
        assert manager.names() == ["digits"]
        with pytest.raises(hr.RequestError, match="there is no operation 'x'"):
            manager.operation("x")


def test_a_slash_is_no_way_to_a_version(manager: Manager) -> None:
    for name, version in (("digits/1.0", None), ("digits/1.0/x", None), ("digits", "1.0/x"), ("a/b", "1")):
        with pytest.raises(hr.ModelNotFound, match="no name has a slash, and a version is said by itself") as caught:
            manager.unregister(name, version)
        assert (caught.value.name, caught.value.version) == (name, version)
    assert manager.names() == ["digits"]


def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    with answering(b"") as url, hr.manage(url, timeout=0.05) as manager:
        with pytest.raises(hr.NoAnswer, match=r"GET http://\S+: no answer within 0.05 s"):
            manager.names()


def test_a_kept_connection_that_was_closed_is_not_the_callers_trouble() -> None:
    page = http_answer(b'{"models": [{"modelName": "m", "modelUrl": "u"}]}')
    with answering(page, page) as url, hr.manage(url) as manager:
        assert manager.names() == ["m"]
        assert manager.names() == ["m"]  # the first connection has gone


def test_a_closed_manager_says_so(server: tuple[RunningServer, Path]) -> None:
    manager = hr.manage(server[0].management)
    manager.close()
    with pytest.raises(hr.Closed):
        manager.names()


# ---- what is told


def test_what_multi_model_server_tells_is_understood() -> None:
    worker = {"id": "9000", "startTime": "2018-10-02T13:44:53.034Z", "status": "READY", "memoryUsage": 89247744}
    told = {"modelName": "noop", "modelVersion": "1.0", "workers": [{**worker, "gpu": False}], "minWorkers": 1}
    (seen,) = models_of(told)
    assert (seen.state, seen.default, seen.waiting, seen.response_timeout) == ("READY", True, 0, None)
    assert str(seen.workers[0].started) == "2018-10-02 13:44:53.034000+00:00"
    assert models_of({**told, "workers": []})[0].state == "REGISTERED"
    assert models_of({**told, "workers": [{**worker, "status": "UNLOADING"}]})[0].state == "LOADING"


def test_an_operation_that_failed_has_its_error() -> None:
    error = {"code": 409, "type": "ConflictStatusException",
             "message": "Model version 2 is already registered for model net"}  # fmt: skip
    told = {"id": "a", "kind": "register", "state": "failed", "started": "never", "error": error}
    operation = operation_of(told)
    assert isinstance(operation, Operation)
    assert operation.started is None
    assert isinstance(operation.error, hr.AlreadyRegistered)
    assert (operation.error.name, operation.error.version) == ("net", "2")


# ---- settings


def test_settings_are_changed_all_together_or_not_at_all(manager: Manager) -> None:
    manager.register("net.onnx", name="net", workers=1)
    changed = manager.change("net", batch_size=4, max_batch_delay=0.02, queue=50)
    assert changed["batch_size"][1] == 4
    assert changed["max_batch_delay"][1] == 20
    assert changed["queue"] == (None, 50)
    assert manager.change("net", reset=["queue"]) == {"queue": (50, None)}
    with pytest.raises(hr.InvalidOption, match="queue cannot be set and reset at once"):
        manager.change("net", queue=5, reset=["queue"])
    with pytest.raises(hr.InvalidOption, match="there is no setting 'colour'"):
        manager.change("net", reset=["colour"])
    assert manager.change("net", batch_size=4) == {}
    with pytest.raises(hr.InvalidOption):
        manager.change("net", batch_size=8, queue=0)
    assert manager.change("net", batch_size=8)["batch_size"] == (4, 8)
    with pytest.raises(hr.InvalidOption, match="name a setting"):
        manager.change("net")
    with pytest.raises(hr.ModelNotFound):
        manager.change("nobody", queue=1)
