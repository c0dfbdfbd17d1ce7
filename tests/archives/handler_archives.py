"""Makes archives of handlers, and runs them in worker processes."""

import json
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import headrace as hr
from headrace.archives.archive import open_archive
from headrace.workers.options import WorkerOptions
from headrace.workers.served_handler import HandlerArchive
from headrace.workers.start import start_workers

JSON = (("Content-Type", "application/json"),)
Serve = Callable[..., hr.Model]
"""`serve(source, ...)`: a model of an archive with that handler."""


GATED = """
import os, time

def gated(handle):
    \"\"\"A request with the header `gate` says that it is there, and waits for that file.\"\"\"
    def inner(data, context):
        gate = data is not None and context.get_request_header(0, "gate")
        if not gate:
            return handle(data, context)
        with open(gate + "-reached", "w"):
            pass
        while not os.path.exists(gate):
            time.sleep(0.005)
        return [""] * len(data)
    return inner
"""


def write_archive(folder: Path, source: str | None, model: dict[str, Any], files: dict[str, str | bytes]) -> Path:
    """`source`: of `service.py`, the handler, unless `model` (the manifest's) names another one."""
    (folder / "MAR-INF").mkdir(parents=True)
    about = {"modelName": "m", "modelVersion": "2.5", "handler": "service.py:handle", **model}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"runtime": "python", "model": about}))
    if source is not None:
        files = {**files, "service.py": textwrap.dedent(source)}
    for name, content in {"gated.py": GATED, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else textwrap.dedent(content).encode())
    return folder


def started(
    folder: Path, engine: hr.Engine, batch: int = 1, delay: float = 0.0, python: str | None = None, **about: Any
) -> hr.Model:
    archive = HandlerArchive(open_archive(folder), batch_size=batch, **about)
    options = WorkerOptions(python=python)
    return start_workers(archive, options, engine=engine, max_batch_size=batch, max_batch_delay=delay)


def ask(model: hr.Model, body: Any = b"", headers: Any = (), request_id: str = "id-0") -> Any:
    return model((request_id, headers, body))


def ask_json(model: hr.Model, value: Any, headers: Any = ()) -> Any:
    """The answer, as what its JSON says."""
    answer = ask(model, json.dumps(value).encode(), (*JSON, *headers))
    return json.loads(answer) if isinstance(answer, bytes) else answer


def together(model: hr.Model, requests: list[Any]) -> list[Any]:
    """What becomes of requests that come while the worker, whose handler is `gated`, is busy: answers, and errors."""
    with tempfile.TemporaryDirectory() as folder:
        gate = Path(folder, "gate")
        first = model.submit(("gate", (("gate", str(gate)),), b""))
        while not Path(f"{gate}-reached").exists() and not first.can_read():
            time.sleep(0.005)
        futures = [model.submit(request) for request in requests]
        gate.touch()
        first.exception(30)
        return [future.exception(30) or future.result(30) for future in futures]
