"""`headrace models` with a real server: what it prints, what a program gets, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import headrace as hr
from headrace.client.told import Operation
from headrace.server.options import BUNDLED_DIGITS
from headrace.testing import RunningServer, run_server

Headrace = Callable[..., "subprocess.CompletedProcess[str]"]
SLOW = "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\ndef f(x):\n    return 'slow'\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, Path]]:
    folder = tmp_path_factory.mktemp("managed")
    (folder / "cli_slow.py").write_text(SLOW)
    shutil.copy(Path(BUNDLED_DIGITS, "digits.onnx"), folder / "net.onnx")
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    arguments = ("--management-address=127.0.0.1:0", f"--models=digits={BUNDLED_DIGITS}", "--manage-callables=yes")
    with run_server(*arguments, env=environment, cwd=folder) as running:
        yield running, folder


@pytest.fixture
def headrace(server: tuple[RunningServer, Path]) -> Iterator[Headrace]:
    environment = {**os.environ, "HEADRACE_MANAGEMENT": server[0].management}

    def run(*arguments: str, width: str = "100") -> subprocess.CompletedProcess[str]:
        environment["COLUMNS"] = width
        command = [sys.executable, "-W", "error", "-m", "headrace", "models", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)

    yield run
    with hr.manage(server[0].management) as manager:
        for each in sorted(manager.models(), key=lambda each: each.default):
            if each.name != "digits":
                manager.unregister(each.name, each.version)


def test_a_models_life(headrace: Headrace) -> None:
    for command, said in (
        ("register net.onnx", "net:1 is READY with 1 worker"),
        ("register net.onnx --version 2 --workers 0", "net:2 is REGISTERED with 0 workers"),
        ("scale net 1 --max-workers 2", "net:1 is READY with 1 worker, and at most 2"),
        ("scale net 2", "net:1 is READY with 2 workers"),
        ("set-default net 2", "net: 2 is the default version"),
        ("unregister net 1", "net: 1 has gone"),
        ("unregister net", "net: the default version has gone"),
    ):
        done = headrace(*command.split())
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{said}\n", ""), command


def test_settings_are_changed_and_told(headrace: Headrace) -> None:
    done = headrace("settings", "digits", "--queue", "70", "--max-batch-delay", "0.01")
    assert done.returncode == 0, done.stderr
    assert "digits: queue is 70 now, it was not set" in done.stdout
    told = headrace("settings", "digits", "--queue", "80", "--json")
    assert json.loads(told.stdout) == {"queue": {"from": 70, "to": 80}}
    assert headrace("settings", "digits", "--queue", "80").stdout == "digits: that is how it was\n"
    done = headrace("settings", "digits", "--reset", "queue", "--reset", "priority-levels")
    assert done.stdout == "digits: queue is not set now, it was 80\n"
    wrong = headrace("settings", "digits", "--queue", "0")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert headrace("settings", "digits").returncode == 2


def test_the_list_says_what_is_where(headrace: Headrace) -> None:
    headrace("register", "net.onnx", "--batch-size", "4")
    headrace("register", "net.onnx", "--version", "2", "--workers", "0")
    lines = headrace("list").stdout.splitlines()
    assert lines[0].split() == ["model", "version", "state", "workers", "batch", "waiting", "from"]
    assert lines[1].split()[:6] == ["digits", "1.0", "READY", "1", "32", "0"]
    assert lines[-3].split() == ["net", "1", "*", "READY", "1", "4", "0", "net.onnx"]
    assert lines[-2].split()[:4] == ["net", "2", "REGISTERED", "0"]
    assert lines[-1] == "* the default version"


def test_one_model_is_shown_whole(headrace: Headrace, server: tuple[RunningServer, Path]) -> None:
    done = headrace("show", "digits")
    assert done.stdout.startswith("digits:1.0 (default)  READY\n")
    for said in ("from", "32 rows", "a load may take   120 s", str(server[0].process.pid)):
        assert said in done.stdout
    assert "\x1b" not in done.stdout


def test_programs_get_json(headrace: Headrace) -> None:
    (listed,) = json.loads(headrace("list", "--json").stdout)
    (shown,) = json.loads(headrace("show", "digits", "1.0", "--json").stdout)
    for told in (listed, shown):
        assert (told["name"], told["state"], told["default"], told["min_workers"]) == ("digits", "READY", True, 1)
    assert json.loads(headrace("register", "net.onnx", "--json").stdout)["workers"][0]["ready"] is True
    assert json.loads(headrace("unregister", "net", "--json").stdout) == {
        "unregistered": {"name": "net", "version": None}
    }
    changes = json.loads(headrace("operations", "--json").stdout)
    assert (changes[0]["kind"], changes[0]["state"], changes[0]["error"]) == ("unregister", "done", None)


def test_what_is_begun_can_be_followed_later(headrace: Headrace, server: tuple[RunningServer, Path]) -> None:
    go = server[1] / "go"
    go.unlink(missing_ok=True)
    begun = headrace("register", "cli_slow:f", "--name", "slow", "--no-wait")
    found = re.fullmatch(r"begun; how it goes on: headrace models operations (\w+)\n", begun.stdout)
    assert found
    late = headrace("operations", found[1], "--timeout", "0.05")
    assert late.returncode == 1
    assert "the server may still be at it" in late.stderr
    go.touch()
    assert headrace("operations", found[1]).stdout == "slow:1 is READY with 1 worker\n"
    assert "register" in headrace("operations").stdout


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("show nix", 1, "Model not found: nix"),
        ("show digits 9", 1, "Model version: 9 does not exist for model: digits"),
        ("register digits.onnx", 1, "Model not found at: digits.onnx"),
        ("register http://h/x.mar", 1, "Given URL http://h/x.mar does not match any allowed URL(s)"),
        ("scale digits 2 --max-workers 1", 2, "max_worker cannot be less than min_worker."),
        ("scale digits -- -1", 2, "workers is a count, from 0 up, not -1"),
        ("register x --timeout 0", 2, "--timeout is in seconds, above 0"),
        ("unregister nix", 1, "Model not found: nix"),
        ("list --management http://127.0.0.1:1", 3, "no management API at http://127.0.0.1:1: connection refused"),
        ("list -m nowhere", 2, "a management API is at a URL as http://127.0.0.1:8081, not 'nowhere'"),
        ("operations nix", 1, "there is no operation 'nix'"),
        ("show digits/1.0/x", 1, "model not found: digits/1.0/x: no name has a slash, and a version is said by itself"),
        ("scale digits -1", 2, "-1 is no count: counts are from 0 up"),
        ("scale digits -12 --max-workers 3", 2, "-12 is no count: counts are from 0 up"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_status(headrace: Headrace, command: str, status: int, said: str) -> None:
    done = headrace(*command.split())
    assert (done.returncode, done.stdout) == (status, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("headrace: ")
    assert said in done.stderr


def test_the_last_changes_fit_a_narrow_terminal_and_the_first_letters_of_an_id_are_enough(headrace: Headrace) -> None:
    headrace("register", "net.onnx")
    assert headrace("register", "net.onnx").returncode == 1
    lines = headrace("operations", width="80").stdout.splitlines()
    end = lines.index("")
    table, why = lines[:end], lines[end + 1 :]
    assert table[0].split() == ["id", "began", "change", "model", "state", "took"]
    rows = [line.split() for line in table[1:]]
    assert [(row[2], row[3], row[4]) for row in rows[:2]] == [
        ("register", "?", "failed"), ("register", "net:1", "done"),
    ]  # fmt: skip
    assert all(len(row) == 7 and len(line) <= 80 for row, line in zip(rows, table[1:])), "nothing is folded"
    assert why[0] == "why they failed:"
    assert why[1] == f"{rows[0][0]}  Model version 1 is already registered for model net"
    assert headrace("operations", rows[1][0]).stdout == "net:1 is READY with 1 worker\n"
    assert headrace("operations", rows[0][0]).stderr == f"headrace: {why[1].partition('  ')[2]}\n"


def test_what_was_another_day_has_a_date(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.cli.showing import changes, moment

    monkeypatch.setenv("COLUMNS", "80")
    at = datetime(2026, 3, 5, 12, tzinfo=UTC)
    here = at.astimezone().date()
    changes([Operation("a" * 32, "unregister", "m" * 60, "1", "done", at, at)], today=here + timedelta(1))
    out = capsys.readouterr().out
    assert moment(at) in out
    assert moment(at) != moment(at, today=here)
    lines = out.splitlines()
    assert "".join(lines[1:]).count("m") == 60, "a long name is folded, not cut"
    assert max(map(len, lines)) <= 80


def test_the_inference_apis_port_is_told_so(headrace: Headrace, server: tuple[RunningServer, Path]) -> None:
    for command in ("list", "show digits", "register net.onnx", "operations x"):
        done = headrace(*command.split(), "--management", server[0].url)
        assert (done.returncode, done.stdout) == (3, "")
        assert "is it the inference API? The management API has an address of its own" in done.stderr


def test_a_terminal_sees_what_a_load_waits_for(server: tuple[RunningServer, Path]) -> None:
    running, folder = server
    go = folder / "go"
    go.unlink(missing_ok=True)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "headrace", "models", "register", "cli_slow:f", "--name=seen"]
    environment = {**os.environ, "HEADRACE_MANAGEMENT": running.management, "COLUMNS": "100", "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True)
    os.close(theirs)
    seen = b""
    while b"waiting for its workers to be ready" not in seen:
        seen += os.read(ours, 4096)
    assert b"register seen" in seen
    go.touch()
    while True:
        try:
            if not os.read(ours, 4096):
                break
        except OSError:  # the other end has been closed
            break
    os.close(ours)
    assert process.communicate(timeout=60)[0] == "seen:1 is READY with 1 worker\n"
    with hr.manage(running.management) as manager:
        manager.unregister("seen")


def test_what_others_have_written_stays_text() -> None:
    from headrace.cli.showing import plain, readable

    assert readable("a\x1b[31mb\n") == "a\N{REPLACEMENT CHARACTER}[31mb\N{REPLACEMENT CHARACTER}"
    assert plain("[red]x") == "\\[red]x"
