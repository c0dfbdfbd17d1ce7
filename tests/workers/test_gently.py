"""A worker gives way to others until it is ready; then it is as its owner is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import headrace as hr
from headrace.workers import gently, worker
from headrace.workers.gently import NICE, Gently, may_be

LOOKS = """
import os, time

def nice():
    return [os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in os.listdir("/proc/self/task")]

def group():
    try:
        with open("/proc/self/autogroup") as file:
            return int(file.read().split()[-1])
    except OSError:
        return None

START = max(nice()), group()
if os.path.exists("wait"):
    until = time.monotonic() + 60
    while max(nice()) > int(os.environ["OWNERS"]) and time.monotonic() < until:
        time.sleep(0.01)
READY = max(nice()), group()

def looks(x):
    return {"start": START, "ready": READY, "now": (max(nice()), group()), "pid": os.getpid()}
"""
OWN = os.getpriority(os.PRIO_PROCESS, 0)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="niceness of threads and autogroups are Linux's")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "gently_looks.py").write_text(LOOKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OWNERS", str(OWN))
    return tmp_path


def test_it_gives_way_until_it_is_ready(folder: Path) -> None:
    with hr.compile_model("gently_looks:looks", isolation="process") as model:
        told = model(0)
        nice, group = told["start"]
        assert nice == (NICE if may_be(OWN) and OWN < NICE else OWN)
        assert group in (None, NICE) or os.geteuid() != 0  # others change theirs ten times a second in all
        assert tuple(told["now"]) == (OWN, None if group is None else 0)


def test_one_that_is_waited_for_hurries(folder: Path) -> None:
    with hr.compile_model("gently_looks:looks", isolation="process") as model:
        os.kill(model(0)["pid"], signal.SIGKILL)
        told = model(0)
        nice, group = told["start"]
        assert nice == OWN
        assert group in (None, 0)


@pytest.mark.skipif(not may_be(OWN) or OWN >= NICE, reason="whoever may not take it back does not do it")
def test_it_gives_way_for_a_part_of_its_time_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "wait").touch()
    monkeypatch.setattr(worker, "GENTLE", 0.0)
    with hr.compile_model("gently_looks:looks", isolation="process") as model:
        assert model(0)["ready"][0] == OWN


def test_what_cannot_be_taken_back_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gently, "may_be", lambda nice: False)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as process:
        started = Gently(process.pid)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == OWN
        started.end()
        process.communicate(b"\n")


def test_of_a_process_that_has_gone_nothing_is_said() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    Gently(process.pid).end()


@pytest.mark.skipif(not may_be(OWN) or OWN >= NICE, reason="whoever may not take it back does not do it")
def test_all_its_threads_come_back() -> None:
    code = "import threading; input(); threading.Thread(target=input).start(); print(flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        started = Gently(process.pid)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        threads = [int(name) for name in os.listdir(f"/proc/{process.pid}/task")]
        assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {NICE}
        started.end()
        assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {OWN}
        process.communicate(b"\n")
