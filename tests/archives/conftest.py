import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from handler_archives import Serve, started, write_archive
from other_environments import python_of

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


@pytest.fixture(scope="session")
def torch_python() -> str:
    return python_of("torch")


@pytest.fixture(scope="session")
def mxnet_python() -> str:
    return python_of("mxnet")
