"""What workers are given is checked before one is started, and what says nothing is refused."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_files
import pytest

import headrace as hr
from headrace.errors import InvalidEnvironment

Compile = Callable[..., hr.Model]


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr("headrace.workers.pool.Pool.start", started)


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        *(({"memory_limit": limit}, "from 1,048,576 to") for limit in (0, -1, 10, 10**30, True, "1G", 1.5e9)),
        *(({"response_timeout": t}, "at most 1,000,000, not") for t in (float("inf"), 1e9, float("nan"), 0, True, "5")),
        *(
            ({option: 1e9}, f"{option} is in seconds.*at most 1,000,000")
            for option in ("cancel_grace", "start_timeout")
        ),
        *(({"idempotent": value}, "idempotent is True or False") for value in ("no", 1, None)),
        *(({"share_weights": value}, "share_weights is True or False") for value in ("no", 1, None)),
        *(({"python": value}, "python is the path of") for value in ("", 5, b"x")),
    ],
)
def test_what_an_option_cannot_be_is_told(compiled: Compile, options: dict[str, Any], said: str) -> None:
    with pytest.raises(hr.InvalidOption, match=said):
        compiled("echo", **options)


@pytest.mark.usefixtures("nothing_starts")
def test_an_interpreter_that_no_worker_can_run_in_is_told(compiled: Compile, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\necho \'{"python": [3, 6, 15], "numpy": "1.19", "error": null}\'\n')
    old.chmod(0o755)
    for python, said in (
        ("/nowhere", "there is no interpreter /nowhere"),
        (tmp_path, "it has no bin/python"),
        ("/bin/true", "cannot be run as a Python interpreter"),
        (old, "is Python 3.6.15; a worker needs Python 3.8"),
    ):
        with pytest.raises(InvalidEnvironment, match=said):
            compiled("echo", python=python)


def test_an_environment_may_be_named_by_its_folder_and_an_interpreter_by_its_name(
    engine: hr.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("python", "our-python"):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    for python in (tmp_path, str(tmp_path), "our-python"):
        with hr.compile_model("operator:neg", isolation="process", engine=engine, python=python) as model:
            assert model(1) == -1


def test_concurrency_is_for_coroutine_functions(compiled: Compile, tmp_path: Path) -> None:
    assert compiled("waits", concurrency=5)(1) == 1
    for name, source in (("echo", None), ("plus", onnx_files.large(2))):
        with pytest.raises(hr.InvalidOption, match=r"concurrency is for coroutine functions, and .* is none"):
            compiled(name, source, concurrency=5)


def test_what_only_workers_have_is_refused_in_this_process(engine: hr.Engine) -> None:
    for option in ({"idempotent": False}, {"response_timeout": 3}, {"cancel_grace": 3}, {"start_timeout": 3}):
        with pytest.raises(hr.InvalidOption, match=f"{next(iter(option))}: only worker processes have that"):
            hr.compile_model(len, engine=engine, **option)  # type: ignore[arg-type]


def test_a_worker_that_has_too_little_memory_to_load_says_how_much(compiled: Compile) -> None:
    for limit in (1 << 20, 30 << 20, 60 << 20):
        with pytest.raises(hr.InvalidModel, match=rf"may have {limit:,} bytes \(memory_limit\)") as caught:
            compiled("echo", memory_limit=limit)
        assert len(str(caught.value)) < 300


def test_a_worker_that_ends_while_it_loads_is_named(engine: hr.Engine) -> None:
    with pytest.raises(
        hr.InvalidModel,
        match=r"exits_at_import:f cannot be loaded: a worker of model mine ended by itself with exit status 5",
    ):
        hr.compile_model("exits_at_import:f", isolation="process", engine=engine, name="mine")


def test_what_takes_too_long_to_load_says_which_option_and_where_it_hangs(
    compiled: Compile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "headrace.workers")
    with pytest.raises(hr.InvalidModel, match=r"did not load its model within 1 s \(start_timeout\)"):
        compiled("x", "hangs_at_import:f", start_timeout=1)
    assert caplog.text.count("hangs_at_import.py") == 1


def test_a_module_alone_is_told_how_a_callable_is_named(engine: hr.Engine) -> None:
    for isolation in ("process", "thread"):
        with pytest.raises(hr.InvalidModel, match="or a callable as module:function"):
            hr.compile_model("worker_handlers", isolation=isolation, engine=engine)
