"""A worker gives way to others until it is ready; then it is as its owner is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from worker_watching import wait_for

import headrace as hr
from headrace.workers import gently, worker
from headrace.workers.gently import NICE, Gently, may_be

LOOKS = """
import os, time

def nice():
    return [os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in os.listdir("/proc/self/task")]

def idle():
    return {os.sched_getscheduler(int(thread)) == os.SCHED_IDLE for thread in os.listdir("/proc/self/task")}

def group():
    try:
        with open("/proc/self/autogroup") as file:
            return int(file.read().split()[-1])
    except (OSError, IndexError):  # empty: it is in none, as what the first process of a system starts
        return None

START = max(nice()), group(), list(idle()), os.getsid(0)
until = time.monotonic() + 60
if os.path.exists("wait"):
    while max(nice()) > int(os.environ["OWNERS"]) and time.monotonic() < until:
        time.sleep(0.01)
if os.path.exists("wait-busy"):
    while True in idle() and time.monotonic() < until:
        time.sleep(0.01)
READY = max(nice()), group(), list(idle())

def looks(x):
    return {"start": START, "ready": READY, "now": (max(nice()), group(), list(idle())), "pid": os.getpid()}
"""
OWN = os.getpriority(os.PRIO_PROCESS, 0)
GROUP = Path("/proc/self/autogroup")
IS_IN_ONE = GROUP.exists() and GROUP.read_text().strip() != ""  # empty for what the first process of a system starts
OURS = int(GROUP.read_text().split()[-1]) if IS_IN_ONE else None
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
        nice, group, idle, session = told["start"]
        if may_be(OWN):
            assert (nice, idle) == ((NICE, [True]) if OWN < NICE else (OWN, [False]))
            assert session == os.getsid(0)  # else it would count as much as all of ours
            assert group == OURS
        else:
            assert (nice, idle) == (OWN, [False])
            assert session == told["pid"]
        assert told["now"] == (OWN, None if group is None else OURS, [False])


def test_who_may_not_take_it_back_has_a_session_of_its_own_and_its_niceness(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gently, "may_be", lambda nice: False)
    with hr.compile_model("gently_looks:looks", isolation="process") as model:
        told = model(0)
        nice, group, idle, session = told["start"]
        assert (nice, idle, session) == (OWN, [False], told["pid"])
        assert group in (None, NICE) or os.geteuid() != 0  # others change theirs ten times a second in all
        assert told["now"] == (OWN, None if group is None else 0, [False])


def test_one_that_is_waited_for_hurries(folder: Path) -> None:
    with hr.compile_model("gently_looks:looks", isolation="process") as model:
        os.kill(model(0)["pid"], signal.SIGKILL)
        told = model(0)
        nice, group, idle, _ = told["start"]
        assert (nice, group, idle) == (OWN, OURS, [False])


@pytest.mark.skipif(not may_be(OWN) or OWN >= NICE, reason="whoever may not take it back does not do it")
def test_one_that_is_waited_for_once_it_has_begun_hurries_from_then_on(folder: Path) -> None:
    with hr.compile_model("gently_looks:looks", isolation="process", workers=2) as model:
        first, second = [each.pid for each in model.workers]
        assert first is not None
        assert second is not None
        (folder / "wait").touch()  # it loads no further while it is nice
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: model.workers[0].pid not in (None, first))
        os.kill(second, signal.SIGKILL)
        wait_for(lambda: model.workers[0].state == "READY")


@pytest.mark.skipif(not may_be(OWN) or OWN >= NICE, reason="whoever may not take it back does not do it")
def test_it_gives_way_for_a_part_of_its_time_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "wait").touch()
    monkeypatch.setattr(worker, "GENTLE", 0.0)
    with hr.compile_model("gently_looks:looks", isolation="process") as model:
        assert model(0)["ready"][0] == OWN


@pytest.mark.skipif(not may_be(OWN) or OWN >= NICE, reason="whoever may not take it back does not do it")
def test_it_runs_only_when_nobody_else_does_for_a_shorter_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On cores that are always full it would never be ready."""
    (folder / "wait-busy").touch()
    monkeypatch.setattr(worker, "AT_ONCE", 0.0)
    with hr.compile_model("gently_looks:looks", isolation="process") as model:
        nice, _, idle = model(0)["ready"]
        assert (nice, idle) == (NICE, [False])


def test_what_cannot_be_taken_back_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gently, "may_be", lambda nice: False)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as process:
        started = Gently(process.pid)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == OWN
        started.end()
        process.communicate(b"\n")


def _may_have_namespaces() -> bool:
    return (
        subprocess.run(["unshare", "--user", "--map-root-user", "true"], capture_output=True, check=False).returncode
        == 0
    )


@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare here")
def test_the_capabilities_of_a_user_namespace_count_for_nothing(folder: Path) -> None:
    """There we have all of them, and what was made nicer stays so."""
    if not _may_have_namespaces():
        pytest.skip("no user namespaces can be made here")
    script = "import headrace as hr\nwith hr.compile_model('gently_looks:looks', isolation='process') as model:\n"
    script += "    print(model(0)['now'])\n"
    path = os.pathsep.join([str(Path(hr.__file__).parents[1]), str(folder)])
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", script]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60, check=False
    )
    now = (OWN, 0 if GROUP.exists() else None, [False])  # in a session of its own
    assert done.stdout == f"{now}\n", done.stderr


def test_of_a_process_that_has_gone_nothing_is_said() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    Gently(process.pid).end()


@pytest.mark.skipif(not may_be(OWN) or OWN >= NICE, reason="whoever may not take it back does not do it")
def test_all_its_threads_and_what_it_has_started_come_back() -> None:
    code = """
import subprocess, sys, threading
input()
threading.Thread(target=input).start()
with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
    print(other.pid, flush=True)
"""

    def states(pids: list[int]) -> set[tuple[int, int]]:
        threads = [int(name) for pid in pids for name in os.listdir(f"/proc/{pid}/task")]
        assert len(threads) == 3
        return {(os.getpriority(os.PRIO_PROCESS, each), os.sched_getscheduler(each)) for each in threads}

    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
    ) as process:
        started = Gently(process.pid)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        pids = [process.pid, int(process.stdout.readline())]
        assert states(pids) == {(NICE, os.SCHED_IDLE)}
        started.only_be_nicer()
        assert states(pids) == {(NICE, os.SCHED_OTHER)}
        started.end()
        assert states(pids) == {(OWN, os.SCHED_OTHER)}
        process.communicate(b"\n")
