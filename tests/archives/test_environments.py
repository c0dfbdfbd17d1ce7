"""Real interpreters, real pip; what is installed is made here, so that no network is needed but for NumPy's wheel."""

import contextlib
import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
import time
import venv
import zipfile
from pathlib import Path

import pytest

import headrace.archives.building as building
from headrace.archives.archive import open_archive
from headrace.archives.environments import EnvironmentOptions, Environments
from headrace.archives.interpreter import check, find
from headrace.errors import InvalidArchive, InvalidEnvironment


def wheel(folder: Path, name: str, version: str) -> Path:
    """One with one module, whose `VERSION` is its version."""
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        packed.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        packed.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        packed.writestr(f"{info}/entry_points.txt", f"[console_scripts]\n{name} = {name}:VERSION.upper\n")
        packed.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def archive(tmp_path):
    """Made of a manifest, a YAML and requirements; its folder is `tmp_path/archive`."""

    def make(requirements=None, yaml=None, **files):
        folder = tmp_path / "archive"
        (folder / "MAR-INF").mkdir(parents=True, exist_ok=True)
        model = {"modelName": "m", "handler": "service.py"}
        if requirements is not None:
            (folder / "requirements.txt").write_text(requirements)
            model["requirementsFile"] = "requirements.txt"
        if yaml is not None:
            (folder / "model.yaml").write_text(yaml)
            model["configFile"] = "model.yaml"
        for name, text in files.items():
            (folder / f"{name}.txt").write_text(text)
        (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": model}))
        return open_archive(folder)

    return make


@pytest.fixture
def options(tmp_path):
    return lambda **more: EnvironmentOptions(**{"built": tmp_path / "built", "timeout": 120.0, **more})


@pytest.fixture
def ours(tmp_path):
    """An environment that has what this one has, at a path of its own."""
    folder = tmp_path / "allowed" / "ours"
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "ours.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return folder


def says(python, code):
    done = subprocess.run([python, "-E", "-c", code], capture_output=True, text=True, check=True, cwd="/")
    return done.stdout.strip()


# Which one


def test_an_archive_that_asks_for_nothing_runs_in_the_servers(archive, options):
    assert Environments(options()).python_of(archive(), "m") is None


def test_what_the_operator_names_is_used_whatever_the_archive_says(archive, options, ours):
    made = archive(yaml="headrace: {python: nowhere}", requirements="nothing-that-is")
    python = Environments(options(install_requirements=True)).python_of(made, "m", asked=str(ours))
    assert python == str(ours / "bin" / "python")
    assert says(python, "import sys; print(sys.prefix)") == str(ours)


def test_an_archive_may_name_what_lies_in_the_allowed_folder(archive, options, ours):
    for path in ("ours", "ours/bin/python", str(ours)):
        made = archive(yaml=f"headrace: {{python: {path}}}")
        assert Environments(options(allowed=ours.parent)).python_of(made, "m") == str(ours / "bin" / "python")


@pytest.mark.parametrize("path", ["ours", "../allowed/ours", "{ours}", "../ours", "x/../../allowed/ours"])
def test_and_nothing_else(archive, options, ours, path):
    made = archive(yaml=f"headrace: {{python: '{path.format(ours=ours)}'}}")
    for allowed in (None, ours):  # a folder beside, and the environment itself: it is not in itself
        with pytest.raises(InvalidEnvironment, match="--allowed-environments"):
            Environments(options(allowed=allowed)).python_of(made, "m")


def test_an_archive_may_bring_its_own(archive, options, ours):
    made = archive(yaml="headrace: {python: env}")
    venv.create(made.folder / "env", symlinks=False)
    (site,) = (made.folder / "env").glob("lib/python*/site-packages")
    (site / "ours.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    assert Environments(options()).python_of(made, "m") == str(made.folder / "env" / "bin" / "python")


@pytest.mark.parametrize("section", ["[]", "{pyhton: x}", "{python: 3}", "{python: ''}", "x"])
def test_a_section_of_the_yaml_that_says_nothing_is_refused(archive, options, section):
    with pytest.raises(InvalidArchive, match="python: "):
        Environments(options()).python_of(archive(yaml=f"headrace: {section}"), "m")


def test_keys_that_are_the_handlers_mean_nothing_to_us(archive, options):
    assert Environments(options()).python_of(archive(yaml="python: 3.9\nvenv: x\n"), "m") is None


def test_requirements_are_not_installed_unless_the_operator_says_so(archive, options, caplog):
    assert Environments(options()).python_of(archive(requirements="nothing-that-is"), "m") is None
    assert "--install-requirements" in caplog.text


# Whether a worker can run in it


def test_this_one_can():
    found = check(sys.executable, "model m")
    assert found.python == ".".join(map(str, sys.version_info[:3]))


def fake(tmp_path, said):
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{said}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            """echo '{"python": [3, 7, 16], "numpy": "1.21.6", "error": null}'""",
            "is Python 3.7.16; a worker needs Python 3.8",
        ),
        ("""echo '{"python": [2, 7, 18], "numpy": null, "error": "x"}'""", "is Python 2.7.18"),
        ("""echo '{"python": [3, 9, 1], "numpy": "1.21.6", "error": null}'""", "has NumPy 1.21.6; .* NumPy 1.22"),
        ("""echo '{"python": [3, 9, 1], "numpy": null, "error": "ImportError: no numpy"}'""", "ImportError: no numpy"),
        ("echo hello", "cannot be run as a Python interpreter"),
        ("exit 1", "cannot be run as a Python interpreter"),
    ],
)
def test_what_no_worker_can_run_in_is_named(tmp_path, said, why):
    path = fake(tmp_path, said)
    with pytest.raises(InvalidEnvironment, match=why) as raised:
        check(path, "model m")
    assert raised.value.path == path
    assert "model m" in str(raised.value)


def test_a_real_environment_without_numpy_is_named(tmp_path):
    venv.create(tmp_path / "bare", symlinks=True)
    with pytest.raises(InvalidEnvironment, match=r"No module named 'numpy'.*pip install numpy"):
        check(find(tmp_path / "bare"), "model m")


def test_what_is_around_us_is_not_taken_for_what_it_has(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("__version__ = '1.99'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert check(sys.executable, "m").numpy != "1.99"


def test_a_path_that_leads_nowhere_says_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path / "no", "python3 -m venv"),
        (tmp_path, "no bin/python"),
        (tmp_path / "file", "executed"),
    ):
        with pytest.raises(InvalidEnvironment, match=why):
            find(path)


# Built of requirements


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Wheels of our own, and a NumPy that is one of them: nothing is fetched."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for version in ("1.0", "2.0"):
        wheel(wheels, "ourlib", version)
    path = wheel(wheels, "numpy", "1.25.0")
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("numpy/__init__.py", "__version__ = '1.25.0'\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return wheels


@pytest.fixture
def built(options, offline):
    return lambda **more: Environments(options(install_requirements=True, **more))


def test_requirements_are_installed_with_numpy_and_once(archive, built, caplog):
    caplog.set_level(logging.INFO, "headrace")
    made = archive(requirements="ourlib<2\n")
    python = built().python_of(made, "m")
    assert says(python, "import ourlib, numpy; print(ourlib.VERSION, numpy.__version__)") == "1.0 1.25.0"
    assert "Successfully installed" in caplog.text
    caplog.clear()
    assert built().python_of(archive(requirements="# again\nourlib<2\n"), "other") == python
    assert not caplog.text
    other = built().python_of(archive(requirements="ourlib\n"), "m")
    assert other != python
    assert says(other, "import ourlib; print(ourlib.VERSION)") == "2.0"
    # A script of it runs: it begins with the path of the interpreter it has now.
    script = Path(python).with_name("ourlib")
    done = subprocess.run([script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "1.0"
    assert "building-" not in script.read_text()
    left = {path for path in Path(python).parents[2].iterdir() if path.suffix != ".lock"}
    assert left == {Path(python).parents[1], Path(other).parents[1]}


def test_what_other_files_ask_for_counts_too(archive, built):
    one = built().python_of(archive(requirements="-r more.txt\n", more="ourlib<2\n"), "m")
    other = built().python_of(archive(requirements="-r more.txt\n", more="ourlib\n"), "m")
    assert one != other
    assert says(other, "import ourlib; print(ourlib.VERSION)") == "2.0"


def test_without_usevenv_the_servers_packages_are_seen_behind_its_own(archive, built):
    alone = built().python_of(archive(requirements="ourlib\n", yaml="useVenv: true"), "m")
    beside = built().python_of(archive(requirements="ourlib\nnumpy==1.25.0\n", yaml="useVenv: false"), "m")
    code = "import ourlib, importlib.util as u; print(u.find_spec('orjson') is not None)"
    assert (says(alone, code), says(beside, code)) == ("False", "True")
    assert says(beside, "import numpy; print(numpy.__version__)") == "1.25.0"


def test_what_pip_says_is_in_the_error_and_nothing_is_left(archive, built, tmp_path):
    with pytest.raises(InvalidEnvironment, match=r"model m: .*No matching distribution found for nothing-that-is"):
        built().python_of(archive(requirements="nothing-that-is==3\n"), "m")
    assert [path.suffix for path in (tmp_path / "built").iterdir()] == [".lock"]


def test_what_asks_for_a_numpy_that_is_too_old_is_refused(archive, built):
    with pytest.raises(InvalidEnvironment, match="numpy"):
        built().python_of(archive(requirements="numpy<1.22\n"), "m")


def test_it_is_given_a_time(archive, built, monkeypatch, tmp_path):
    monkeypatch.setattr(building, "NUMPY", "--find-links=http://127.0.0.1:9/")  # nobody is there: pip tries and tries
    monkeypatch.setattr(building, "find_spec", lambda name: None)
    with pytest.raises(InvalidEnvironment, match=r"was not built within 0.2 s"):
        built(timeout=0.2).python_of(archive(requirements="ourlib\n"), "m")
    assert [path.suffix for path in (tmp_path / "built").iterdir()] == [".lock"]


def test_what_takes_too_long_is_ended_with_all_it_has_started(tmp_path):
    started = tmp_path / "started"
    child = f"import os, pathlib, time; pathlib.Path({str(started)!r}).write_text(str(os.getpid())); time.sleep(600)"
    code = f"import subprocess, sys; print('at it', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"

    def clock():  # no time is left as soon as it is at work
        while not started.exists() or not started.read_text():
            time.sleep(0.001)
        return 1.0

    with pytest.raises(InvalidEnvironment, match="the last that was said: at it"):
        building.Builder(tmp_path, 1.0, clock)._run(
            [sys.executable, "-c", code], tmp_path / "requirements.txt", os.open(os.devnull, os.O_RDONLY), 0.0, "m"
        )
    pid = int(started.read_text())
    with contextlib.suppress(FileNotFoundError):  # it has been killed, and goes when it runs next; or its end is unread
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
            time.sleep(0.001)


def test_one_builds_and_the_others_wait(archive, built, caplog):
    caplog.set_level(logging.INFO, "headrace")
    made, found = archive(requirements="ourlib\n"), []
    threads = [threading.Thread(target=lambda: found.append(built().python_of(made, "m"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert caplog.text.count("environment was built in") == 1


def test_who_waits_for_too_long_is_told(archive, built, options, tmp_path):
    made = archive(requirements="ourlib\n")
    python = built().python_of(made, "m")
    name = Path(python).parents[1]
    name.rename(tmp_path / "away")
    with open(name.parent / f".{name.name}.lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InvalidEnvironment, match="still being built by another process"):
            built(timeout=0.01).python_of(made, "m")


def test_what_a_killed_builder_left_is_removed_and_what_another_builds_is_not(archive, built, tmp_path):
    folder = tmp_path / "built"
    (folder / ".dead.building-1-aa").mkdir(parents=True)
    (folder / ".alive.building-2-bb").mkdir()
    with open(folder / ".alive.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built().python_of(archive(requirements="ourlib\n"), "m")
        assert {path.name for path in folder.glob(".*.building-*")} == {".alive.building-2-bb"}


def test_whoever_builds_holds_the_lock_even_if_its_server_is_gone(archive, built, tmp_path, offline):
    """A server is killed in the middle; its pip lives on for a while, and nobody builds beside it."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "setup.py").write_text(
        f"import time, pathlib\npathlib.Path({str(tmp_path / 'began')!r}).touch()\n"
        f"while not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.01)\n"
    )
    code = (
        "import sys; from pathlib import Path; from headrace.archives.building import Builder\n"
        f"b = Builder(Path({str(tmp_path / 'built')!r}), 60)\n"
        "b._run = lambda command, r, lock, u, w, run=b._run: run("
        f"[sys.executable, {str(tmp_path / 'slow' / 'setup.py')!r}], r, lock, u, w)\n"
        f"b.get('x', Path({str(tmp_path / 'r.txt')!r}), '', sees_server=False, what='m')\n"
    )
    server = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "began").exists():
        assert server.poll() is None
        time.sleep(0.01)
    server.kill()
    server.wait()
    with open(tmp_path / "built" / ".x.lock", "r+") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (tmp_path / "go").touch()
        fcntl.flock(lock, fcntl.LOCK_EX)  # once it has ended
