"""Real server processes: how they start, what they say, how they end, and what they leave behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from headrace.errors import InvalidModel, InvalidOption, NotEnoughCores, SetupError
from headrace.server.options import BUNDLED_DIGITS, ServeOptions
from headrace.server.run import serve
from headrace.testing import RunningServer, run_server
from headrace.version import __version__

PATIENCE = 30.0
MODULE = """
import os, signal, threading

def pass_gate(name):
    with open(f"{name}.reached", "wb", 0) as reached:
        reached.write(b".")
    with open(f"{name}.opened", "rb", 0) as opened:
        opened.read(1)

def note(x):
    with open("ran", "ab", 0) as ran:
        ran.write(x + b"\\n")

def same(x):
    return x

def wait(x):
    note(x)
    pass_gate("gate")
    return x

def stay(x):
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open("pid", "w") as file:
        file.write(str(os.getpid()))
    with open("gate.reached", "wb", 0) as reached:
        reached.write(b".")
    while True:
        threading.Event().wait()

def fail(x):
    raise ValueError("no")
"""


class ProcessGate:
    """As `Gate`, for a place in another process."""

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self._ends = []
        for end in ("reached", "opened"):
            path = folder / f"{name}.{end}"
            os.mkfifo(path)
            self._ends.append(os.open(path, os.O_RDWR))  # both ways: opening it waits for nobody

    def wait(self) -> None:
        ready, _, _ = select.select([self._ends[0]], [], [], PATIENCE)
        assert ready, "nobody reached the gate"
        os.read(self._ends[0], 1)

    def open(self) -> None:
        os.write(self._ends[1], b"." * 1000)

    def close(self) -> None:
        for end in self._ends:
            os.close(end)


class Process:
    """`headrace serve ARGUMENTS`, its stdout and its stderr apart."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.ready_file = folder / "ready.json"
        self._log = folder / "stderr"
        command = [sys.executable, "-W", "error", "-m", "headrace", "serve", *arguments]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env={**clean, **environment},
                text=True,
            )

    def started(self) -> dict[str, Any]:
        """Waits for its line on stdout. What the ready file says then."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "Model server started.\n", self.stderr()
        ready: dict[str, Any] = json.loads(self.ready_file.read_text())
        return ready

    def ended(self) -> int:
        return self.process.wait(PATIENCE)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ended()

    def stderr(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


Serve = Callable[..., Process]
CLOSED = [f"--{door}-address=off" for door in ("management", "metrics", "grpc")]
HERE = "--inference-address=127.0.0.1:0"
READY = "--ready-file=ready.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "served.py").write_text(MODULE)
    return tmp_path


@pytest.fixture
def gate(folder: Path) -> Iterator[ProcessGate]:
    gate = ProcessGate(folder)
    yield gate
    gate.open()
    gate.close()


@pytest.fixture
def start(folder: Path) -> Iterator[Serve]:
    """Start a server in `folder`; it is not waited for."""
    processes: list[Process] = []

    def start(*arguments: str, **environment: str) -> Process:
        processes.append(Process(folder, *arguments, **environment))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """Requests that wait, on threads of their own."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def post(url: str, path: str, body: bytes = b"x") -> httpx.Response:
    return httpx.post(url + path, content=body, timeout=PATIENCE, trust_env=False)


def until(met: Callable[[], bool], what: str) -> None:
    """Ask again and again: there is nothing in another process to wait on."""
    give_up = time.monotonic() + PATIENCE
    while not met():
        assert time.monotonic() < give_up, what


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return False
    return True


def has_room(url: str) -> bool:
    """Whether a request is let in. It is refused for what it says, so that it needs no stream."""
    status = post(url, "/v2/models/same/infer", b"{").status_code
    assert status in (400, 429)
    return status == 400


def is_full(url: str) -> bool:
    return not has_room(url)


# ---- starting


def test_it_says_where_it_is_and_which_doors_are_closed_and_takes_that_back_at_the_end(start: Serve) -> None:
    later = ("--management-address=off", "--grpc-address=127.0.0.1:2")
    server = start("served:same", HERE, READY, "--metrics-address=off", *later)
    ready = server.started()
    assert ready == {
        "inference": ready["inference"],
        "management": None,
        "metrics": None,
        "grpc": None,
        "pid": server.process.pid,
        "version": __version__,
    }
    assert ready["inference"].startswith("http://127.0.0.1:")
    assert post(ready["inference"], "/predictions/same", b"hello").content == b"hello"
    lines = [line for line in server.stderr().splitlines() if "these doors come in a later version" in line]
    assert len(lines) == 1
    assert "WARNING headrace.server: --grpc-address: these doors" in lines[0]
    assert server.stop() == 0
    assert not server.ready_file.exists()
    assert [path.name for path in server.ready_file.parent.glob(".*")] == []
    assert server.process.stdout is not None
    assert server.process.stdout.read() == ""
    assert not listens(port_of(ready["inference"]))


def test_options_come_from_the_environment_too(start: Serve, folder: Path) -> None:
    shutil.copytree(BUNDLED_DIGITS, folder / "store" / "numbers")
    server = start(
        HEADRACE_MODEL_STORE="store",
        HEADRACE_INFERENCE_ADDRESS="127.0.0.1:0",
        HEADRACE_MANAGEMENT_ADDRESS="off",
        HEADRACE_METRICS_ADDRESS="off",
        HEADRACE_GRPC_ADDRESS="off",
        HEADRACE_READY_FILE="ready.json",
        HEADRACE_MAX_BODY_SIZE="2000",
        HEADRACE_LOG_LEVEL="warning",
    )
    url = server.started()["inference"]
    assert httpx.get(f"{url}/v2/models/digits", trust_env=False).json()["versions"] == ["1.0"]
    too_large = post(url, "/predictions/digits", b"x" * 2001)
    assert too_large.status_code == 413
    assert "2,000 bytes" in too_large.json()["message"]
    assert server.stop() == 0
    assert server.stderr() == ""  # also nothing of the doors that are off


def test_nobody_can_connect_before_every_model_is_ready(start: Serve, folder: Path) -> None:
    """A probe of the port must not be told that a server is there which cannot answer."""
    gate = ProcessGate(folder, "load")
    (folder / "slow.py").write_text("import served\nserved.pass_gate('load')\ndef f(x):\n    return x\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "ready.json").write_text("{}")  # of a server before that was killed
    first = start("slow:f", f"--inference-address=127.0.0.1:{port}", READY, *CLOSED)
    gate.wait()
    assert not listens(port)
    assert not first.ready_file.exists()
    second = Process(folder / "..", f"--inference-address=127.0.0.1:{port}", *CLOSED)
    try:
        assert second.ended() == 1, second.stderr()  # the port is taken all the same
        assert f"127.0.0.1:{port}" in second.stderr()
    finally:
        second.kill()
    gate.open()
    assert first.started()["inference"].endswith(f":{port}")
    assert listens(port)
    gate.close()


def test_a_taken_port_is_exit_status_1_and_one_line(start: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = start("served:same", f"--inference-address=127.0.0.1:{port}", READY, *CLOSED)
        assert server.ended() == 1
    assert server.stderr().startswith(f"headrace: --inference-address 127.0.0.1:{port}: Address already in use")
    assert server.stderr().count("\n") == 1
    assert not server.ready_file.exists()


def test_it_starts_again_at_once_where_it_was(start: Serve) -> None:
    first = start("served:same", HERE, READY, *CLOSED)
    url = first.started()["inference"]
    for _ in range(5):  # the server closes these, and so keeps their ports for a while
        httpx.post(f"{url}/predictions/same", headers={"connection": "close"}, trust_env=False)
    assert first.stop() == 0
    again = start("served:same", f"--inference-address=127.0.0.1:{port_of(url)}", READY, *CLOSED)
    assert again.started()["inference"] == url


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"models": ("nowhere.onnx",)}, InvalidModel, "nowhere.onnx does not exist"),
        ({"models": ("served:same", "cat=corrupt.onnx")}, InvalidModel, "cannot be loaded as an ONNX model"),
        ({"models": ("served:same", "served:missing")}, InvalidModel, "has no 'missing'"),
        ({"models": ("old.mar",)}, InvalidModel, "neither a zip file nor"),
        ({"models": ("a=served:same", "a=served:fail")}, InvalidOption, "already registered"),
        ({"models": ("served:same", "a b=served:same")}, InvalidOption, "is not [NAME=]SOURCE"),
        ({"models": ("all",)}, InvalidOption, "--model-store"),
        ({"model_store": "empty"}, InvalidModel, "no ONNX file and no archive in"),
        ({"model_store": "nowhere"}, InvalidOption, "--model-store nowhere is not a folder"),
        ({"inference_address": "off"}, InvalidOption, "serves nothing"),
        ({"inference_address": "8080"}, InvalidOption, "HOST:PORT"),
        ({"inference_address": "https://127.0.0.1:0"}, InvalidOption, "https needs a certificate (--tls-cert FILE)"),
        ({"management_address": "https://127.0.0.1:0"}, InvalidOption, "--management-address https://127.0.0.1:0"),
        ({"metrics_address": "https://127.0.0.1:0"}, InvalidOption, "that API has no TLS"),
        ({"inference_address": "192.0.2.1:0"}, SetupError, "192.0.2.1:0"),
        ({"inference_address": "\xe4" * 300 + ":0"}, InvalidOption, "no name of a host"),
        ({"grpc_address": "x"}, InvalidOption, "--grpc-address"),
        ({"ready_file": "nowhere/ready.json"}, InvalidOption, "--ready-file nowhere/ready.json"),
        ({"ready_file": "."}, InvalidOption, "--ready-file"),
        (
            {"scheduler": "fast", "models": ("served:same",)},
            InvalidOption,
            "--scheduler: there is no scheduler 'fast'; choose single_stream",
        ),
        ({"num_cores": 100000, "models": ("served:same",)}, NotEnoughCores, "100,000 cores were asked for"),
    ],
)
def test_what_keeps_it_from_starting_is_told_and_leaves_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], kind: type[SetupError], message: str
) -> None:
    (folder / "corrupt.onnx").write_bytes(b"nothing of the kind" * 10)
    (folder / "old.mar").write_bytes(b"PK")
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "1")  # which it sets, and this process keeps
    files, threads = set(folder.iterdir()), set(threading.enumerate())
    closed = {f"{door}_address": "off" for door in ("management", "metrics", "grpc")}
    options = {"inference_address": "127.0.0.1:0", "ready_file": "ready.json", **closed, **given}
    with pytest.raises(kind, match=re.escape(message)):
        serve(ServeOptions(**options))
    sys.modules.pop("served", None)
    assert {path for path in folder.iterdir() if path.name != "__pycache__"} == files
    assert set(threading.enumerate()) <= threads


def test_a_model_that_fails_is_exit_status_1_one_line_and_no_ready_file(start: Serve, folder: Path) -> None:
    (folder / "broken.py").write_text("raise OSError('the\\nweights are gone')\n")
    (folder / "ready.json").write_text("{}")  # of a server before that was killed
    server = start("served:same", "broken:f", HERE, READY, *CLOSED, "--log-level=error")
    assert server.ended() == 1
    assert server.stderr() == "headrace: importing broken failed: OSError: the weights are gone\n"
    assert server.process.stdout is not None
    assert server.process.stdout.read() == ""
    assert not server.ready_file.exists()


# ---- ending


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_what_is_inside_is_answered(
    start: Serve, gate: ProcessGate, aside: ThreadPoolExecutor, number: int
) -> None:
    server = start("served:wait", "served:same", HERE, READY, "--max-requests=2", *CLOSED)
    url = server.started()["inference"]
    running = aside.submit(post, url, "/predictions/wait", b"running")
    gate.wait()
    with socket.create_connection(("127.0.0.1", port_of(url)), timeout=PATIENCE) as waiting:
        body = b"POST /predictions/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\nwaiting"
        waiting.sendall(body)
        until(lambda: is_full(url), "the second was not let in")
        server.process.send_signal(number)
        until(lambda: not listens(port_of(url)), "it still listens")
        assert not server.ready_file.exists()
        assert server.process.poll() is None
        gate.open()
        assert running.result().content == b"running"
        found = b""
        while data := waiting.recv(65536):
            found += data
        assert found.startswith(b"HTTP/1.1 200")
        assert found.endswith(b"waiting")
    assert server.ended() == 0, server.stderr()
    assert "everything that was accepted was answered" in server.stderr()


def test_a_signal_while_models_are_loaded_leaves_nothing_behind(start: Serve, gate: ProcessGate, folder: Path) -> None:
    (folder / "long.py").write_text("from served import pass_gate\npass_gate('gate')\ndef f(x): return x\n")
    server = start("served:same", "long:f", HERE, READY, "--enable-token-auth", *CLOSED)
    gate.wait()
    assert (folder / "key_file.json").exists()
    assert server.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    assert "Traceback" not in server.stderr()
    assert not (folder / "key_file.json").exists()
    assert not server.ready_file.exists()


def test_a_second_signal_ends_it_at_once(start: Serve, gate: ProcessGate, aside: ThreadPoolExecutor) -> None:
    server = start("served:wait", HERE, READY, *CLOSED)
    url = server.started()["inference"]
    lost = aside.submit(post, url, "/predictions/wait")
    gate.wait()
    server.process.send_signal(signal.SIGTERM)
    until(lambda: not listens(port_of(url)), "it still listens")
    assert server.stop(signal.SIGTERM) == -signal.SIGTERM  # the model still runs
    assert isinstance(lost.exception(PATIENCE), httpx.TransportError)
    assert not server.ready_file.exists()


def test_who_could_not_be_waited_for_is_refused_and_the_exit_status_says_so(
    start: Serve, gate: ProcessGate, aside: ThreadPoolExecutor
) -> None:
    server = start("served:wait", HERE, READY, "--drain-timeout=0", *CLOSED)
    url = server.started()["inference"]
    refused = aside.submit(post, url, "/predictions/wait")
    gate.wait()
    server.process.send_signal(signal.SIGTERM)
    answer = refused.result(PATIENCE)
    assert (answer.status_code, answer.json()["type"]) == (503, "ServiceUnavailableException")
    gate.open()
    assert server.ended() == 1
    assert "1 requests were not answered" in server.stderr()
    assert "Traceback" not in server.stderr()


LONG = ["--response-timeout=3600", "--isolation=process"]


def test_a_handler_that_never_ends_is_killed_at_the_end_of_the_drain(
    start: Serve, gate: ProcessGate, aside: ThreadPoolExecutor, folder: Path
) -> None:
    server = start("served:stay", HERE, READY, "--drain-timeout=0", "--cancel-grace=3600", *LONG, *CLOSED)
    url = server.started()["inference"]
    refused = aside.submit(post, url, "/predictions/stay")
    gate.wait()
    worker = psutil.Process(int((folder / "pid").read_text()))
    assert worker.pid != server.process.pid
    server.process.send_signal(signal.SIGTERM)
    assert refused.result(PATIENCE).status_code == 503
    assert server.ended() == 1, server.stderr()
    assert "1 requests were not answered" in server.stderr()
    assert "worker-0 was ended, as its model was closed" in server.stderr(), "by the server, before it went itself"
    assert not worker.is_running()


def test_a_handler_that_never_ends_is_killed_after_the_grace_once_its_client_has_left(
    start: Serve, gate: ProcessGate, folder: Path
) -> None:
    server = start("served:stay", HERE, READY, "--drain-timeout=3600", "--cancel-grace=0.1", *LONG, *CLOSED)
    url = server.started()["inference"]
    with socket.create_connection(("127.0.0.1", port_of(url)), timeout=PATIENCE) as client:
        client.sendall(b"POST /predictions/stay HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1")
        gate.wait()
        worker = psutil.Process(int((folder / "pid").read_text()))
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not listens(port_of(url)), "it still listens")
        assert worker.is_running(), "whoever waits is waited for"
    assert server.ended() == 0, server.stderr()
    assert not worker.is_running()


def test_an_upload_that_stops_half_way_holds_the_end_up_for_no_longer_than_the_drain(start: Serve) -> None:
    server = start("served:same", HERE, READY, "--drain-timeout=0", "--max-requests=1", *CLOSED)
    url = server.started()["inference"]
    with socket.create_connection(("127.0.0.1", port_of(url)), timeout=PATIENCE) as half:
        half.sendall(b"POST /predictions/same HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\nhal")
        until(lambda: is_full(url), "the half request was not let in")
        assert server.stop() == 0, server.stderr()
        assert half.recv(65536).startswith(b"HTTP/1.1 503")


def test_idle_connections_do_not_hold_the_end_up(start: Serve) -> None:
    server = start("served:same", HERE, READY, *CLOSED)
    url = server.started()["inference"]
    with (
        httpx.Client(base_url=url, trust_env=False) as client,
        socket.create_connection(("127.0.0.1", port_of(url)), timeout=PATIENCE) as silent,
    ):
        client.get("/ping")
        silent.sendall(b"GET /pi")
        assert server.stop() == 0
        assert silent.recv(100) == b""


def test_it_leaves_no_process_and_no_file_behind(start: Serve, folder: Path) -> None:
    temporary = folder / "temporary"
    temporary.mkdir()
    shared_before = set(os.listdir("/dev/shm"))
    files_before = set(folder.iterdir())
    server = start(HERE, READY, *CLOSED, TMPDIR=str(temporary), HOME=str(temporary))  # the bundled model
    url = server.started()["inference"]
    assert httpx.get(f"{url}/v2/models/digits/ready", trust_env=False).status_code == 200
    assert post(url, "/predictions/digits", b"no picture").status_code == 400
    assert psutil.Process(server.process.pid).children(recursive=True) == []
    assert server.stop() == 0
    assert list(temporary.iterdir()) == []
    mine = {path for path in set(os.listdir("/dev/shm")) - shared_before if str(server.process.pid) in path}
    assert mine == set()
    assert {path for path in folder.iterdir() if path.name != "stderr"} == files_before


# ---- clients that leave, and many of them


def test_a_request_whose_client_has_left_is_never_run(
    start: Serve, folder: Path, gate: ProcessGate, aside: ThreadPoolExecutor
) -> None:
    server = start("served:wait", "served:same", HERE, READY, "--max-requests=2", *CLOSED)
    url = server.started()["inference"]
    first = aside.submit(post, url, "/predictions/wait", b"first")
    gate.wait()
    with socket.create_connection(("127.0.0.1", port_of(url)), timeout=PATIENCE) as left:
        left.sendall(b"POST /predictions/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nleft")
        until(lambda: is_full(url), "the second was not let in")
    until(lambda: has_room(url), "the one who left still holds a permit")
    last = aside.submit(post, url, "/predictions/wait", b"last")
    gate.open()
    assert (first.result().content, last.result().content) == (b"first", b"last")
    assert server.stop() == 0
    assert (folder / "ran").read_bytes() == b"first\nlast\n"


UPLOAD = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    connection.sendall(sys.argv[2].encode().decode("unicode_escape").encode("latin-1"))
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    "half",
    [
        r"POST /predictions/same HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf",
        r"POST /predictions/same HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
        r"POST /predictions/same HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\nhalf",
    ],
)
def test_a_client_that_is_killed_in_mid_upload_holds_nothing(clients_server: RunningServer, half: str) -> None:
    url, port = clients_server.url, str(clients_server.port)

    def was_let_in() -> bool:
        """Asking takes the one permit for a moment, too: who comes just then is refused, and tries again."""
        with subprocess.Popen([sys.executable, "-c", UPLOAD, port, half], stdin=subprocess.PIPE) as client:
            try:
                give_up = time.monotonic() + 2
                while time.monotonic() < give_up:
                    if is_full(url):
                        return True
                return False
            finally:
                client.kill()

    until(was_let_in, "the half request was not let in")
    until(lambda: has_room(url), "the client that was killed still holds a permit")


@pytest.fixture(scope="module")
def clients_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One request inside at a time."""
    folder = tmp_path_factory.mktemp("clients")
    (folder / "served.py").write_text(MODULE)
    with run_server("served:same", "served:fail", "--max-requests=1", cwd=folder) as server:
        yield server
        assert server.stop() == 0, server.log()


def test_two_hundred_connections_at_once_are_all_answered(start: Serve) -> None:
    url = start("served:same", HERE, READY, *CLOSED).started()["inference"]

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
        for turn in range(5):
            body = b"%d of %d" % (turn, number)
            writer.write(b"POST /predictions/same HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            assert await reader.readexactly(len(body)) == body
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*map(client, range(200)))

    asyncio.run(main())


def test_clients_that_come_and_go_leave_no_file_descriptor_behind(clients_server: RunningServer) -> None:
    process = psutil.Process(clients_server.process.pid)
    url = clients_server.url
    assert has_room(url)
    before = process.num_fds()
    for sent in (
        b"",
        b"GET /pi",
        b"POST /predictions/same HTTP/1.1\r\nContent-Length: 9\r\n\r\nhal",
        b"nonsense\r\n\r\n",
    ):
        for _ in range(25):
            with socket.create_connection(("127.0.0.1", clients_server.port), timeout=PATIENCE) as client:
                client.sendall(sent)
    until(lambda: process.num_fds() <= before, f"{process.num_fds()} descriptors are open, {before} were")
    until(lambda: has_room(url), "somebody who left is still inside")


def test_requests_that_fail_do_not_fill_the_memory(clients_server: RunningServer) -> None:
    process = psutil.Process(clients_server.process.pid)
    body = b"x" * 500_000
    with httpx.Client(base_url=clients_server.url, timeout=PATIENCE, trust_env=False) as client:
        for _ in range(20):
            assert client.post("/predictions/fail", content=body).status_code == 500
        before = process.memory_info().rss
        for _ in range(200):
            assert client.post("/predictions/fail", content=body).status_code == 500
    assert process.memory_info().rss - before < 50_000_000


def test_what_could_not_be_kept_on_disk_before_is_kept_at_the_end(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    with run_server(f"--snapshot={kept}/state.json", "--management-address=127.0.0.1:0") as server:
        away = kept.rename(tmp_path / "away")
        changed = httpx.patch(f"{server.management}/models/digits", json={"queue": 7}, trust_env=False)
        assert changed.status_code == 200
        away.rename(kept)
        assert server.stop() == 0
        assert server.log().count("state.json cannot be written") == 1
        assert server.log().count("state.json has been written") == 1
    assert json.loads((kept / "state.json").read_text())["models"][0]["settings"]["queue"] == 7
