"""A model's workers run in an environment of its own, which need not have what the server has."""

import sys
import venv
from pathlib import Path

import pytest

from headrace.errors import InvalidEnvironment, InvalidOption
from headrace.serving.compile_options import CompileOptions
from headrace.serving.interpreters import Interpreters
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.service import Service
from headrace.serving.wanted import Wanted

MODULE = "import sys\ndef prefix(x):\n    return sys.prefix\n"


@pytest.fixture
def environment(tmp_path):
    """With NumPy alone: what else is here is not there."""
    folder = tmp_path / "env"
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    import numpy

    for name in ("numpy", "numpy.libs"):
        found = Path(numpy.__file__).parents[1] / name
        if found.exists():
            (site / name).symlink_to(found)
    return folder


@pytest.fixture
def lifecycle(tmp_path, monkeypatch):
    (tmp_path / "ours.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    made = []

    def make(*pythons, **more):
        said = Interpreters.parse(pythons)
        options = CompileOptions(**{"isolation": "process", "interpreters": said, **more})
        made.append(Lifecycle(Service(100, 1 << 30), options))
        return made[-1]

    yield make
    for each in made:
        each.service.stop(timeout=10)


def test_each_model_runs_where_it_was_told_to(lifecycle, environment):
    all_of_them = lifecycle(f"mine={environment}")
    mine = all_of_them.load(Wanted.parse("mine=ours:prefix")).served.model
    other = all_of_them.load(Wanted.parse("other=ours:prefix")).served.model
    assert mine(1) == str(environment)
    assert other(1) == sys.prefix


def test_what_cannot_run_a_worker_is_told_before_one_is_started(lifecycle, tmp_path):
    with pytest.raises(InvalidEnvironment, match="python3 -m venv"):
        lifecycle("/nowhere/python").load(Wanted.parse("ours:prefix"))
    venv.create(tmp_path / "bare", symlinks=True)
    with pytest.raises(InvalidEnvironment, match=r"model prefix: .* has no NumPy"):
        lifecycle(str(tmp_path / "bare")).load(Wanted.parse("ours:prefix"))


def test_what_runs_in_the_servers_process_has_no_other_interpreter(lifecycle, environment):
    with pytest.raises(InvalidOption, match="worker process"):
        lifecycle(str(environment), isolation="thread").load(Wanted.parse("ours:prefix"))
