"""The plain app in a process of its own under uvicorn, with the options of `headrace serve` that the app knows."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import uvicorn

from headrace.log import log_to_stderr
from headrace.server.app import App
from headrace.server.options import ServeOptions
from headrace.server.startup import load
from headrace.serving.service import Service


class Told(uvicorn.Server):
    """Says where it is, once it is there."""

    def __init__(self, config: uvicorn.Config, ready_file: str) -> None:
        super().__init__(config)
        self._ready_file = ready_file

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        _tell(self._ready_file, {"inference": f"http://127.0.0.1:{port}", "pid": os.getpid()})


def _tell(ready_file: str, ready: dict[str, Any]) -> None:
    half = Path(f"{ready_file}.half")
    half.write_text(json.dumps(ready))
    half.replace(ready_file)


def main() -> None:
    flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:] if argument.startswith("--"))
    models = tuple(argument for argument in sys.argv[1:] if not argument.startswith("--"))
    numbers = {
        name: int(flags[name.replace("_", "-")]) for name in ("max_body_size",) if name.replace("_", "-") in flags
    }
    options = ServeOptions(models=models, **numbers)
    log_to_stderr(options.log_level)
    service = Service(options.max_requests, None)
    app = App(service, max_body_size=options.max_body_size, body_timeout=options.body_timeout)
    load(service, options)
    config = uvicorn.Config(app, port=0, http="httptools", lifespan="off", log_config=None, access_log=False)
    asyncio.run(Told(config, flags["ready-file"]).serve())
    assert service.stop(30)
    app.close()


if __name__ == "__main__":
    main()
