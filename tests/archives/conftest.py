import itertools
import subprocess
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from handler_archives import Serve, started, write_archive

import headrace as hr


@pytest.fixture(scope="module")
def handler_engine() -> Iterator[hr.Engine]:
    with hr.Engine() as made:
        yield made


@contextmanager
def serving(engine: hr.Engine, homes: pytest.TempPathFactory) -> Iterator[Serve]:
    """A model of an archive that is made of what is given; all are closed at the end."""
    models: list[hr.Model] = []
    numbers = itertools.count()

    def make(
        source: str | None = None,
        model: dict[str, Any] | None = None,
        files: dict[str, str | bytes] | None = None,
        folder: Path | None = None,
        **how: Any,
    ) -> hr.Model:
        folder = folder or homes.mktemp("archives") / f"a{next(numbers)}"
        write_archive(folder, source, model or {}, files or {})
        made = started(folder, engine, **how)
        models.append(made)
        return made

    yield make
    for each in models:
        each.close()


@pytest.fixture(scope="module")
def serve(handler_engine: hr.Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Closed when the module's tests have run."""
    with serving(handler_engine, tmp_path_factory) as make:
        yield make


@pytest.fixture
def serve_once(handler_engine: hr.Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Closed when the test has run: a worker with torch has a quarter of a gigabyte."""
    with serving(handler_engine, tmp_path_factory) as make:
        yield make


def environment(name: str, packages: list[str]) -> str:
    """The Python of an environment without Headrace, in `.venv-NAME`. Made once; a stamp says of what."""
    home = Path(__file__).parents[2] / f".venv-{name}"
    python, stamp = home / "bin" / "python", home / "installed"
    wanted = " ".join(packages)
    if not (stamp.is_file() and stamp.read_text() == wanted):
        venv.create(home, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        stamp.write_text(wanted)
    return str(python)


@pytest.fixture(scope="session")
def torch_python() -> str:
    """About a minute, the first time."""
    return environment("torch", ["torch==2.13.0", "numpy", "pillow"])


@pytest.fixture(scope="session")
def mxnet_python() -> str:
    """15 seconds, the first time."""
    return environment("mxnet", ["mxnet==1.9.1", "numpy<1.24", "pillow"])
