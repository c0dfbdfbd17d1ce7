"""Workers in environments with another Python and another NumPy: those that HEADRACE_TEST_PYTHONS names (a path of
interpreters, Python 3.8 or later with NumPy 1.22 or later and nothing of ours)."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import worker_handlers
from worker_watching import reached, wait_for

import headrace as hr

PYTHONS = [each for each in os.environ.get("HEADRACE_TEST_PYTHONS", "").split(os.pathsep) if each]
pytestmark = pytest.mark.skipif(not PYTHONS, reason="HEADRACE_TEST_PYTHONS names none")


@pytest.fixture(params=PYTHONS)
def python(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """None of our modules is to be found there."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(Path(worker_handlers.__file__).parent)
    found = subprocess.run([request.param, "-c", "import headrace"], capture_output=True, text=True)
    assert "ModuleNotFoundError" in found.stderr
    return str(request.param)


def test_values_go_there_and_back(engine: hr.Engine, python: str) -> None:
    values = [1, "text", b"bytes", None, (1, 2), {1, 2}, {"x": [1.5]}, np.float32(2)]
    with hr.compile_model("worker_handlers:echo", isolation="process", engine=engine, python=python) as model:
        for value in values:
            assert model(value) == (value["x"] if isinstance(value, dict) else value)
        for dtype in ("<f2", ">i8", "?", "U5", "M8[s]", [("a", "<i4"), ("b", "<f8")]):
            array = np.zeros(70_000, dtype)
            answer = model(array)
            assert answer.dtype == array.dtype
            assert np.array_equal(answer, array)
        assert list(model.map(range(2000), window=200)) == list(range(2000))


def test_errors_crashes_and_hangs_are_told(engine: hr.Engine, python: str) -> None:
    options = {"isolation": "process", "engine": engine, "python": python, "response_timeout": 0.5}
    with hr.compile_model("worker_handlers:fails", **options) as model:  # type: ignore[arg-type]
        with pytest.raises(hr.BackendError, match="ValueError: no 3"):
            model(3)
    with hr.compile_model("worker_handlers:dies", **options) as model:  # type: ignore[arg-type]
        with pytest.raises(hr.WorkerDied, match="SIGKILL"):
            model(3)
    with hr.compile_model("worker_handlers:hangs", **options) as model:  # type: ignore[arg-type]
        with pytest.raises(hr.ResponseTimeout) as caught:
            model(3)
        assert "in hangs" in caught.value.stack


def test_coroutines_go_on_at_once(engine: hr.Engine, python: str, tmp_path: Path) -> None:
    options = {"isolation": "process", "engine": engine, "python": python}
    with hr.compile_model("coroutine_handlers:meets", **options) as model:  # type: ignore[arg-type]
        assert len({future.result(20) for future in [model.submit(20) for _ in range(20)]}) == 1
    with hr.compile_model("coroutine_handlers:heeds", **options) as model:  # type: ignore[arg-type]
        future = model.submit(str(tmp_path))
        wait_for((tmp_path / "reached").exists)
        future.cancel()
        wait_for((tmp_path / "cancelled").exists)
    with hr.compile_model("coroutine_handlers:hangs", response_timeout=0.3, **options) as model:  # type: ignore[arg-type]
        future = model.submit(f"waits {tmp_path}")
        reached(tmp_path)
        with pytest.raises(hr.ResponseTimeout) as caught:
            future.result(20)
        assert "in inner_wait" in caught.value.stack
