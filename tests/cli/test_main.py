"""The command line: what it lists, what it refuses, and with which exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.cli import main as cli
from headrace.cli.options import command_of
from headrace.config import declared
from headrace.errors import InvalidModel, InvalidOption
from headrace.server.options import ServeOptions
from headrace.version import __version__

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`headrace ARGUMENTS` in this process: (exit status, stdout, stderr)."""
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["headrace", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return code, out, err

    return run


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServeOptions]:
    """What `headrace serve` would have served."""
    asked: list[ServeOptions] = []
    # The real parameters, in a command that only takes them down.
    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    cli.app.command("take-down")(command_of(ServeOptions, asked.append, positional="models"))
    return asked


def test_version_is_one_line(run: Run) -> None:
    assert run("--version") == (0, f"headrace {__version__}\n", "")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_commands(run: Run, flag: str) -> None:
    status, out, _ = run(flag)
    assert status == 0
    assert " serve " in out
    assert " doctor " in out


def test_no_command_is_a_request_for_help(run: Run) -> None:
    status, out, err = run()
    assert " serve " in out + err
    assert status in (0, 2)


def test_serve_help_lists_every_option_with_its_meaning(run: Run) -> None:
    status, out, _ = run("serve", "--help")
    assert status == 0
    shown = " ".join(out.replace("│", " ").split())
    for one in declared(ServeOptions):
        assert f"{one.flag} " in shown
        assert f"{one.meaning[:1].upper()}{one.meaning[1:]}" in shown
        assert one.bounds in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("--no-such-option",),
        ("no-such-command",),
        ("serve", "--no-such-option"),
        ("serve", "--max-requests"),
        ("serve", "--max-requests", "many"),
        ("serve", "--max-requests", "1.5"),
        ("serve", "--max-requests", "0"),
        ("serve", "--max-batch-delay", "nan"),
        ("serve", "--drain-timeout", "inf"),
        ("serve", "--log-level", "loud"),
        ("serve", "--isolation", "container"),
        ("doctor", "--no-such-option"),
    ],
)
def test_a_bad_option_is_exit_status_2_without_a_traceback(run: Run, arguments: tuple[str, ...]) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err
    assert "Traceback" not in err


@pytest.mark.parametrize(("error", "status"), [(InvalidModel("a\nb  c"), 1), (InvalidOption("a\n\nb c"), 2)])
def test_what_keeps_a_command_from_starting_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(options: ServeOptions) -> None:
        raise error

    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    cli.app.command("fail")(command_of(ServeOptions, fail, positional="models"))
    assert run("fail") == (status, "", "headrace: a b c\n")


def test_a_mistake_of_ours_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(options: ServeOptions) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    cli.app.command("fail")(command_of(ServeOptions, fail, positional="models"))
    monkeypatch.setattr(sys, "argv", ["headrace", "fail"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_without_arguments_every_option_has_its_declared_default(run: Run, served: list[ServeOptions]) -> None:
    assert run("take-down")[0] == 0
    assert served == [ServeOptions()]


def test_every_option_can_be_given_by_its_flag(run: Run, served: list[ServeOptions]) -> None:
    status, _, err = run("take-down", "--models", "a", "--max-requests", "5", "--drain-timeout=2.5", "--num-cores", "1")
    assert status == 0, err
    assert served == [ServeOptions(models=("a",), max_requests=5, drain_timeout=2.5, num_cores=1)]


def test_every_option_can_be_given_in_the_environment(
    run: Run, served: list[ServeOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ServeOptions(
        models=("a=b.onnx", "c"), model_store="d", max_requests=5, max_batch_delay=0.5, log_level="error", num_streams=3
    )
    for one in declared(ServeOptions):
        value = getattr(wanted, one.name)
        if value != one.default:
            monkeypatch.setenv(one.variable, " ".join(value) if isinstance(value, tuple) else str(value))
    assert run("take-down")[0] == 0
    assert served == [wanted]


def test_the_command_line_comes_before_the_environment(
    run: Run, served: list[ServeOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_MODELS", "env")
    monkeypatch.setenv("HEADRACE_MAX_REQUESTS", "7")
    for arguments in (["word"], ["--models", "flag"], ["word", "--models", "flag"], ["--max-requests", "8"]):
        assert run("take-down", *arguments)[0] == 0
    assert [options.models for options in served] == [("word",), ("flag",), ("word", "flag"), ("env",)]
    assert [options.max_requests for options in served] == [7, 7, 7, 8]


def test_a_bad_value_in_the_environment_is_exit_status_2(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_MAX_REQUESTS", "many")
    status, _, err = run("serve")
    assert status == 2
    assert "HEADRACE_MAX_REQUESTS" in err or "--max-requests" in err


def test_doctor_for_programs_is_json(run: Run) -> None:
    status, out, err = run("doctor", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["cores"]


def test_doctor_for_people_is_not_json(run: Run) -> None:
    status, out, _ = run("doctor")
    assert status == 0
    assert "Python" in out


def test_the_package_runs_as_a_module_and_as_a_script(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("headrace")
    for command in ([sys.executable, "-W", "error", "-m", "headrace"], [str(script)]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, cwd=tmp_path, check=True)
        assert done.stdout == f"headrace {__version__}\n"


def test_a_real_command_line_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    doors = [f"--{door}-address=off" for door in ("management", "metrics", "grpc")]
    command = [sys.executable, "-m", "headrace", "serve", "nowhere.onnx", "--inference-address=127.0.0.1:0", *doors]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("headrace: nowhere.onnx does not exist")
    assert done.stderr.count("\n") == 1
