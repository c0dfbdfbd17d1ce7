"""`headrace serve`, or the plain app under uvicorn, with models of handlers of their own: `CUSTOM` names them.

CUSTOM="NAME=FUNCTION[*MAX_BATCH_SIZE] …", functions of `custom_handlers`. `--under=uvicorn` is the other one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import uvicorn_server

from headrace.cli.main import main as headrace
from headrace.server import run
from headrace.server.options import ServeOptions
from headrace.server.startup import load
from headrace.serving.compile_options import CompileOptions
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.measures import Measures
from headrace.serving.registry import State
from headrace.serving.served import Served
from headrace.serving.service import Service
from headrace.workers.loadable import Loadable
from headrace.workers.options import WorkerOptions
from headrace.workers.start import start_workers

HERE = str(Path(__file__).parent)


class Handlers(Loadable):
    """What a worker loads: a function of `custom_handlers`, as an archive's handler would be."""

    in_lists = True

    def __init__(self, function: str) -> None:
        self.function = function

    @property
    def name(self) -> str:
        return self.function

    def __str__(self) -> str:
        return f"custom_handlers:{self.function}"

    def told(self) -> dict[str, Any]:
        return {"loader": "callable", "callable": str(self), "file": None}


def add(service: Service, name: str, function: str, size: int = 1, *, measured: bool = True, **options: Any) -> None:
    """A model of such handlers, READY. `tests/server` is on the Python path."""
    options = {"response_timeout": 30.0, "cancel_grace": 10.0, **options}
    model = start_workers(Handlers(function), WorkerOptions(**options), 1, max_batch_size=size, name=name)
    if measured:
        model.measure()
    entry = service.registry.add(name, "1")
    entry.served = Served(name, "1", model, None, Measures() if measured else None, custom=True)
    entry.become(State.LOADING)
    entry.become(State.READY)


def load_them(service: Service, options: ServeOptions) -> tuple[Lifecycle, None]:
    sys.path.insert(0, HERE)
    lifecycle = load(service, options)[0] if options.models else Lifecycle(service, CompileOptions())
    for text in os.environ["CUSTOM"].split():
        name, _, function = text.partition("=")
        function, _, size = function.partition("*")
        add(service, name, function, int(size or 1), measured=options.metrics_address != "off")
    return lifecycle, None


if __name__ == "__main__":
    run.load = uvicorn_server.load = load_them
    if "--under=uvicorn" in sys.argv:
        sys.argv.remove("--under=uvicorn")
        uvicorn_server.main()
    else:
        sys.argv[1:1] = ["serve"]
        headrace()
