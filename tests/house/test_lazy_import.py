"""`import headrace` starts nothing and loads no runtime. Each look is in a process of its own."""

import json
import statistics
import subprocess
import sys

import pytest


def python(code: str) -> str:
    """What `code` prints in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code: str) -> set[str]:
    """Top-level modules in memory after `code`."""
    return set(json.loads(python(f"{code}\nimport sys, json; print(json.dumps([m for m in sys.modules]))")))


HEAVY = {
    "numpy", "onnxruntime", "uvicorn", "uvloop", "httptools", "torch", "asyncio", "PIL", "typer", "rich", "orjson",
    "yaml", "psutil", "socket", "ssl", "multiprocessing", "headrace.engine.engine", "headrace.testing",
}  # fmt: skip


def test_importing_it_loads_no_runtime() -> None:
    loaded = loaded_by("import headrace")
    assert not loaded & HEAVY
    assert {module for module in loaded if module.startswith("headrace")} == {"headrace", "headrace.version"}


def test_listing_its_names_and_asking_its_version_loads_nothing_either() -> None:
    assert not loaded_by("import headrace; dir(headrace); headrace.__version__; headrace.__all__") & HEAVY


def test_an_error_can_be_named_without_loading_a_runtime() -> None:
    assert not loaded_by("import headrace; headrace.Overloaded") & (HEAVY - {"asyncio", "socket"})


def test_the_engine_alone_loads_neither_numpy_nor_a_runtime() -> None:
    loaded = loaded_by("import headrace; headrace.Engine, headrace.Var, headrace.as_completed")
    assert not loaded & (HEAVY - {"asyncio", "socket", "ssl", "headrace.engine.engine"})


def test_a_callable_is_compiled_without_loading_onnx_runtime() -> None:
    loaded = loaded_by("import headrace as hr\nwith hr.compile_model(lambda x: x) as m: m(1)")
    assert not loaded & {"onnxruntime", "uvicorn", "torch", "PIL", "typer", "rich", "orjson", "yaml", "headrace.server"}


def test_managing_a_server_needs_the_standard_library_alone() -> None:
    loaded = loaded_by("import headrace as hr; hr.manage('http://127.0.0.1:8081').close()")
    assert not loaded & (HEAVY - {"socket", "ssl", "asyncio"})
    assert {module.split(".")[1] for module in loaded if module.startswith("headrace.")} == {
        "client", "errors", "version", "wording",
    }  # fmt: skip


def test_the_server_is_not_loaded_with_the_library() -> None:
    loaded = loaded_by("import headrace.model.compile, headrace.backends._onnxruntime")
    assert not {m for m in loaded if m.startswith(("headrace.server", "headrace.serving", "headrace.codecs"))}


@pytest.mark.parametrize(
    "code", ["import headrace", "import headrace\nfor name in headrace.__all__: getattr(headrace, name)"]
)
def test_importing_it_starts_no_thread_and_holds_no_core(code: str) -> None:
    look = "import threading, sys\n"
    look += "ownership = sys.modules.get('headrace.engine.ownership')\n"
    look += "print(threading.active_count(), ownership is None or not ownership._held)"
    assert python(f"{code}\n{look}").split() == ["1", "True"]


def test_importing_it_says_nothing() -> None:
    assert python("import headrace") == ""


def test_what_importing_it_costs_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """A figure for whoever reads the log (`pytest -s`), no limit: machines differ."""
    code = "import time; t = time.perf_counter(); import headrace; print(time.perf_counter() - t)"
    seconds = statistics.median(float(python(code)) for _ in range(5))
    with capsys.disabled():
        print(f"\nimport headrace: {seconds * 1000:.1f} ms (median of 5)")  # noqa: T201 - for whoever reads the log
    assert seconds > 0
