"""What their owner is, and what becomes of it later, is none of its workers' business."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from worker_watching import is_alive, wait_for

import headrace as hr
from headrace.workers.child import prepare

SOURCE = str(Path(hr.__file__).parents[1])
FIRST = f"import os, pty, select, signal, sys, time\nsys.path.insert(0, {SOURCE!r})\nimport headrace as hr\n"
MAIN = '\nif __name__ == "__main__":\n'


def run(tmp_path: Path, script: str, *before: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "script.py").write_text(FIRST + script)
    return subprocess.run(
        [*before, sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )


def test_one_that_is_started_later_finds_what_the_first_one_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: hr.Engine
) -> None:
    (tmp_path / "found.py").write_text(
        "import os\nTEXT = open('text').read()\nSAYS = os.environ['SAYS']\ndef look(x):\n    return TEXT, SAYS\n"
        "def dies(x):\n    os.abort()\n"
    )
    (tmp_path / "text").write_text("here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAYS", "then")
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    with hr.compile_model("found:look", isolation="process", engine=engine) as model:
        monkeypatch.chdir("/")
        monkeypatch.setenv("SAYS", "now")
        sys.path[:] = sys.path[1:]
        pid = model.workers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert model(0) == ("here", "then")


def test_entries_of_the_path_that_are_no_text_are_looked_past(
    engine: hr.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, Path("/")])
    with hr.compile_model("worker_handlers:echo", isolation="process", engine=engine) as model:
        assert model(1) == 1


def test_a_folder_that_has_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: hr.Engine) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(hr.InvalidOption, match=r"the folder that this process is in.*os\.chdir"):
        hr.compile_model("worker_handlers:echo", isolation="process", engine=engine)


def test_a_folder_that_its_owner_may_be_in_and_not_enter_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "chdir", refuse)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    prepare({"folder": os.getcwd()})
    with pytest.raises(PermissionError):
        prepare({"folder": "/"})


def test_signals_that_its_owner_blocks_or_ignores_are_heard(tmp_path: Path) -> None:
    script = """
def looks(x):
    return sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())), signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
"""
    script += MAIN + (
        "    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})\n"
        "    signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "    with hr.compile_model(looks, isolation='process') as model:\n        print(model(0))\n"
    )
    done = run(tmp_path, script)
    assert done.stdout == "([], True)\n", done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_an_owner_without_standard_files_has_workers_too(tmp_path: Path, closed: str) -> None:
    script = "\ndef says(x):\n    print(x, file=sys.stderr)\n    return x\n"
    script += MAIN + (
        "    with hr.compile_model(says, isolation='process') as model:\n"
        "        with open('said', 'w') as file:\n            file.write(str(model(7)))\n"
    )
    run(tmp_path, script, "sh", "-c", f'exec "$@" {closed}', "sh")
    assert (tmp_path / "said").read_text() == "7"


def test_no_worker_has_its_owners_terminal(tmp_path: Path) -> None:
    """In the background whoever reads from it is stopped."""
    script = """
def asks(x):
    try:
        with open("/dev/tty") as file:
            return file.readline()
    except OSError as error:
        return type(error).__name__
"""
    script += (
        MAIN
        + """
    pid, terminal = pty.fork()
    if pid:  # the owner is in the foreground there
        _, status = os.waitpid(pid, 0)
        sys.exit(os.waitstatus_to_exitcode(status))
    with hr.compile_model(asks, isolation="process", idempotent=False) as model, open("said", "w") as file:
        file.write(model(0))
"""
    )
    run(tmp_path, script)
    assert (tmp_path / "said").read_text() == "OSError"


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root cannot become somebody else")
def test_one_that_has_become_another_user_ends_with_its_owner(tmp_path: Path) -> None:
    (tmp_path / "other_user.py").write_text(
        "import os\nFILE = open('began', 'w')\nos.setuid(65534)\n"
        "def runs(x):\n    print('yes', file=FILE, flush=True)\n    return sum(range(10**12))\n"
    )
    script = (
        MAIN
        + """
    model = hr.compile_model("other_user:runs", isolation="process")
    model.submit(0)
    while not os.path.getsize("began"):
        time.sleep(0.01)
    print(model.workers[0].pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    worker = int(run(tmp_path, script).stdout)
    try:
        wait_for(lambda: not is_alive(worker))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
