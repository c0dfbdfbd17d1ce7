"""What a program's Python was started with is so in its workers, where they run the same Python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import headrace as hr
from headrace.workers.flags import interpreter_flags

SOURCE = str(Path(hr.__file__).parents[1])
LOOKS = f"""import asyncio, logging, sys, warnings
sys.path.insert(0, {SOURCE!r})
import headrace as hr

def looks(x):
    try:
        assert x
        asserts = "not asserted"
    except AssertionError:
        asserts = "asserted"
    try:
        warnings.warn("of ours")
        warned = "warned"
    except UserWarning:
        warned = "raised"
    flags = sys.flags
    said = dict(sys._xoptions)
    return asserts, warned, flags.optimize, flags.dev_mode, flags.utf8_mode, flags.dont_write_bytecode, said

async def awaits(x):
    return asyncio.get_running_loop().get_debug()

if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    with hr.compile_model(looks, isolation="process", **options) as model:
        there, here = model(0), looks(0)
        print(there == here, *there[:6])
    with hr.compile_model(awaits, isolation="process", **options) as model:
        print(model(0))
"""


def run(
    folder: Path, *flags: str, script: str = "", options: str = "{}", **env: str
) -> subprocess.CompletedProcess[str]:
    (folder / "main.py").write_text(f"options = {options}\n{script or LOOKS}")
    return subprocess.run(
        [sys.executable, *flags, "main.py"],
        cwd=folder,
        env={**{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_they_are_those_of_the_program(tmp_path: Path) -> None:
    flags = ("-O", "-B", "-W", "error::UserWarning", "-X", "dev", "-X", "utf8", "-X", "frozen_modules=off")
    done = run(tmp_path, *flags)
    assert done.stdout == "True not asserted raised 1 True 1 1\nTrue\n", done.stderr
    said = [line for line in done.stderr.splitlines() if "ResourceWarning" in line or "Traceback" in line]
    assert said == [], "of what our own files do"
    assert run(tmp_path).stdout == "True asserted warned 0 False 0 0\nFalse\n"


def test_every_warning_may_be_an_error(tmp_path: Path) -> None:
    assert run(tmp_path, "-W", "error").stdout.startswith("True asserted raised 0")


def test_another_environments_python_is_given_none(tmp_path: Path) -> None:
    other, log = tmp_path / "python", tmp_path / "log"
    other.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    done = run(tmp_path, "-O", "-X", "dev", options=f"{{'python': {str(other)!r}}}")
    assert done.stdout == "False asserted warned 0 False 0 0\nFalse\n", done.stderr
    assert "-O" not in log.read_text()


def test_the_same_python_may_be_named(tmp_path: Path) -> None:
    done = run(tmp_path, "-O", options=f"{{'python': {sys.executable!r}}}")
    assert done.stdout.startswith("True not asserted"), done.stderr


@pytest.mark.parametrize("flag", ["-I", "-E"])
def test_who_looks_past_python_variables_has_workers_that_do(tmp_path: Path, flag: str) -> None:
    (tmp_path / "ruined").mkdir()
    (tmp_path / "ruined" / "socket.py").write_text("raise SystemExit('nobody was to import this')")
    done = run(tmp_path, flag, PYTHONPATH=str(tmp_path / "ruined"), PYTHONOPTIMIZE="2")
    assert done.stdout.startswith("True asserted warned 0"), done.stderr


IMPORTS = f"""import sys
sys.path.insert(0, {SOURCE!r})
import headrace as hr

if __name__ == "__main__":
    with hr.compile_model("beside:f", isolation="process") as model:
        print(model(1))
"""


@pytest.mark.parametrize(
    ("flag", "shadows"), [((), True), (("-P",), False), (("-I",), False)], ids=["none", "-P", "-I"]
)
def test_a_folder_that_is_not_to_be_trusted_takes_nobodys_place(
    tmp_path: Path, flag: tuple[str, ...], shadows: bool
) -> None:
    (tmp_path / "beside.py").write_text("import wave\ndef f(x):\n    return wave.__name__, hasattr(wave, 'OURS')\n")
    (tmp_path / "wave.py").write_text("OURS = True\n")
    assert run(tmp_path, *flag, script=IMPORTS).stdout == f"('wave', {shadows})\n"


def test_what_is_no_interpreter_here_is_another(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(sys.executable)  # as that of a virtual environment is
    assert interpreter_flags(str(tmp_path / "python")) == interpreter_flags("nowhere/python") == []
    assert interpreter_flags(sys.executable) == interpreter_flags(None)
