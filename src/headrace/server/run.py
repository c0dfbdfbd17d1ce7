"""A server's life: take the ports, load the models, listen, say so, drain, stop.

The ports are taken before anything is loaded, so that a taken one is told at once; listening begins when every model is
READY, so that nobody connects to a server that cannot answer. SIGTERM and Ctrl-C drain: no new connection, what was
accepted is answered, then exit 0. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import uvicorn

from headrace.engine.topology import memory_limit
from headrace.errors import InvalidOption, SetupError
from headrace.server.app import App
from headrace.server.options import BUNDLED_DIGITS, Address, ServeOptions
from headrace.serving.lifecycle import CompileOptions, Lifecycle, Wanted
from headrace.serving.service import Service
from headrace.version import __version__

BACKLOG = 4096
KEEP_ALIVE_SECONDS = 75
_log = logging.getLogger("headrace.server")


class PortTaken(SetupError):
    """Somebody else listens there."""


def serve(options: ServeOptions) -> int:
    """Serve until a signal ends it. The exit status: 0, or 1 if what was accepted could not all be answered in time.

    Raises SetupError for what keeps it from starting.
    """
    address = Address.parse("--inference-address", options.inference_address)
    if address is None:
        raise InvalidOption("--inference-address off: a server without its inference API serves nothing")
    _tell_what_comes_later(options)
    sock = _take(address)
    try:
        service = Service(options.max_requests, options.max_bytes or _memory() // 4)
        _load(service, options)
    except BaseException:
        sock.close()
        raise
    app = App(service, max_body_size=options.max_body_size)
    server = _Server(app, sock, options, Address(address.host, sock.getsockname()[1]))
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(server.run())
    finally:
        server.remove_ready_file()
    stopped = service.stop(timeout=server.seconds_left())
    app.close(wait=stopped)
    if not stopped:
        inside = service.statistics().inside
        _log.error("stopped with %d requests unanswered after %g s", inside, options.drain_timeout)
        return 1
    _log.info("stopped: everything that was accepted was answered")
    return 0


class _Server(uvicorn.Server):
    """uvicorn, with our signals, our line on stdout and our ready file."""

    def __init__(self, app: App, sock: socket.socket, options: ServeOptions, address: Address) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(options.drain_timeout)),
        )
        super().__init__(config)
        self._sock, self._options, self._address = sock, options, address
        self._stop_by: float | None = None

    async def run(self) -> None:  # type: ignore[override]  # uvicorn's own makes a loop; ours is given one
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        await self.serve(sockets=[self._sock])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # uvicorn would raise the signal again after the shutdown, and the process would die of it

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._write_ready_file()
            _log.info("inference API on http://%s", self._address)
            print("Model server started.", flush=True)  # noqa: T201 - scripts wait for this line on stdout

    def seconds_left(self) -> float:
        """Of the time there is to drain."""
        return max(1.0, (self._stop_by or 0.0) - time.monotonic())

    def remove_ready_file(self) -> None:
        if self._options.ready_file is not None:
            Path(self._options.ready_file).unlink(missing_ok=True)

    def _on_signal(self) -> None:
        if self.should_exit:
            self.force_exit = True
        else:
            _log.info("stopping: no new connections; answering what was accepted")
            self._stop_by = time.monotonic() + self._options.drain_timeout
            self.should_exit = True

    def _write_ready_file(self) -> None:
        if self._options.ready_file is None:
            return
        path = Path(self._options.ready_file)
        ready: dict[str, Any] = {
            "inference": f"http://{self._address}",
            "management": None,
            "metrics": None,
            "grpc": None,
            "pid": os.getpid(),
            "version": __version__,
        }
        # Whoever waits for the file must never read half of it.
        half = path.with_name(f".{path.name}.{os.getpid()}")
        half.write_text(json.dumps(ready) + "\n")
        half.replace(path)


def _take(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port))
        # A port that is bound but not listened on may be bound again by others who set SO_REUSEADDR: see who listens.
        sock.listen(1)
    except OSError as error:
        sock.close()
        raise PortTaken(
            f"--inference-address {address}: {error.strerror or error}; give another one, or port 0 for a free one"
        ) from error
    except BaseException:
        sock.close()
        raise
    return sock


def _load(service: Service, options: ServeOptions) -> None:
    store = None
    if options.model_store is not None:
        store = Path(options.model_store)
        if not store.is_dir():
            raise InvalidOption(f"--model-store {store} is not a folder")
    compile_options = CompileOptions(
        options.scheduler, options.num_cores, options.num_streams, options.max_batch_size, options.max_batch_delay
    )
    lifecycle = Lifecycle(service.registry, compile_options, store)
    asked = options.models
    if not asked:
        asked = ("all",) if store is not None else (f"digits={BUNDLED_DIGITS}",)
    for text in asked:
        if text.lower() == "all":
            lifecycle.load_all(lifecycle.in_store())
        else:
            lifecycle.load(Wanted.parse(text))


def _tell_what_comes_later(options: ServeOptions) -> None:
    doors = {
        "--management-address": options.management_address,
        "--metrics-address": options.metrics_address,
        "--grpc-address": options.grpc_address,
    }
    later = [flag for flag, text in doors.items() if Address.parse(flag, text) is not None]
    if later:
        print(  # noqa: T201
            f"headrace: {', '.join(later)}: these doors come in a later version and stay closed", file=sys.stderr
        )


def _memory() -> int:
    limit = memory_limit(Path("/"))
    total = int(psutil.virtual_memory().total)
    return min(total, limit) if limit else total


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
