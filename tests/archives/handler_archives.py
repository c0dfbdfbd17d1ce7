"""Makes archives of handlers, and runs them in worker processes."""

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import headrace as hr
from headrace.archives.archive import open_archive
from headrace.archives.served_handler import HandlerArchive
from headrace.workers.of_archives import OfArchive
from headrace.workers.pool import WorkerOptions
from headrace.workers.start import start_workers

JSON = (("Content-Type", "application/json"),)
Serve = Callable[..., hr.Model]
"""`serve(source, ...)`: a model of an archive with that handler."""


def write_archive(folder: Path, source: str | None, model: dict[str, Any], files: dict[str, str | bytes]) -> Path:
    """`source`: of `service.py`, the handler, unless `model` (the manifest's) names another one."""
    (folder / "MAR-INF").mkdir(parents=True)
    about = {"modelName": "m", "modelVersion": "2.5", "handler": "service.py:handle", **model}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"runtime": "python", "model": about}))
    if source is not None:
        files = {**files, "service.py": textwrap.dedent(source)}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else textwrap.dedent(content).encode())
    return folder


def started(
    folder: Path, engine: hr.Engine, batch: int = 1, delay: float = 0.0, python: str | None = None, **about: Any
) -> hr.Model:
    archive = HandlerArchive(open_archive(folder), batch_size=batch, **about)
    options = WorkerOptions(python=python)
    return start_workers(OfArchive(archive), options, engine=engine, max_batch_size=batch, max_batch_delay=delay)


def ask(model: hr.Model, body: Any = b"", headers: Any = (), request_id: str = "id-0") -> Any:
    return model((request_id, headers, body))


def ask_json(model: hr.Model, value: Any, headers: Any = ()) -> Any:
    """The answer, as what its JSON says."""
    answer = ask(model, json.dumps(value).encode(), (*JSON, *headers))
    return json.loads(answer) if isinstance(answer, bytes) else answer


def together(model: hr.Model, requests: list[Any]) -> list[Any]:
    """What becomes of requests that are sent at once: answers, and errors."""
    futures = [model.submit(request) for request in requests]
    return [future.exception(30) or future.result(30) for future in futures]
