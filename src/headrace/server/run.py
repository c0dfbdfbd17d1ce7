"""A server's life: take the ports, load the models, listen, say so, drain, stop.

The ports are taken before anything is loaded, so that a taken one is told at once; listening begins when every model is
READY, so that nobody connects to a server that cannot answer (a probe of the port tells the truth). SIGTERM and Ctrl-C
drain: no new connection, what was accepted is answered, then exit 0. A second signal ends it at once: the process dies
of it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import ssl
import time
from pathlib import Path
from typing import Any

import psutil

from headrace.engine.topology import memory_limit
from headrace.errors import InvalidOption
from headrace.log import flush
from headrace.server.app import App
from headrace.server.compat import Compat
from headrace.server.descriptors import make_room
from headrace.server.front import LAST_WORDS, TURNED_AWAY, Front
from headrace.server.hangup import hangups
from headrace.server.limits import Limits
from headrace.server.listener import Listener
from headrace.server.managing import Managing
from headrace.server.observing import Observing
from headrace.server.options import Address, ServeOptions
from headrace.server.ready_file import ReadyFile
from headrace.server.signals import terminable
from headrace.server.startup import load
from headrace.serving.autoscaler import Autoscaler
from headrace.serving.keeping import Keeping
from headrace.serving.service import Service
from headrace.version import __version__

LOADS_END = 5.0
"""Seconds that changes of models which go on at the end are waited for: a load is of no use any more."""
GC_THRESHOLD = 10_000
"""Objects made and not freed between two collections. Python's 700 is a few requests' worth."""
_log = logging.getLogger("headrace.server")


def serve(options: ServeOptions) -> int:
    """Serve until a signal ends it. The exit status: 0, or 1 if what was accepted could not all be answered in time.

    Raises SetupError for what keeps it from starting.
    """
    encrypted = options.tls_cert is not None
    address = Address.parse("--inference-address", options.inference_address, encrypted=encrypted)
    if address is None:
        raise InvalidOption("--inference-address off: a server without its inference API serves nothing")
    observed: list[Observing] = []  # once it is there

    def reopen() -> None:
        for each in observed:
            each.reopen()

    with hangups(reopen):
        return _serve(options, address, observed)


def _serve(options: ServeOptions, address: Address, observed: list[Observing]) -> int:
    _tell_what_comes_later(options)
    ready_file = ReadyFile(options.ready_file)
    tls = _tls(options)
    listener = Listener("--inference-address", address, tls, options.header_timeout)
    try:
        managing = Managing(options, address, tls)
    except BaseException:
        listener.close()
        raise
    service = Service(options.max_requests, options.max_bytes or _memory() // 4)
    try:
        observing = Observing(options, service, lambda: app.unanswered + front.unanswered)
    except BaseException:
        listener.close()
        managing.close()
        raise
    observed.append(observing)
    app = App(
        service,
        max_body_size=options.max_body_size,
        body_timeout=options.body_timeout,
        traffic=observing.traffic,
        tokens=managing.tokens,
        compat=Compat(options.compat),
    )
    front = Front(app, Limits.of(options))
    keeping: Keeping | None = None
    try:
        with terminable():
            lifecycle, keeping = load(service, options)
        autoscaler = Autoscaler(lifecycle)
        managing.begin(lifecycle, app, observing.traffic)
        # After loading: what the models have opened counts.
        if (advice := make_room(options.max_connections, TURNED_AWAY)) is not None:
            _log.warning("%s", advice)
        # What was imported and loaded stays: the garbage collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 20)
        server = _Server(front, listener, options, observing, managing, ready_file)
        autoscaler.start()
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(server.run())
        finally:
            ready_file.remove()
            autoscaler.close()
    except BaseException:
        listener.close()
        managing.close()
        if keeping is not None:
            keeping.close()
        service.stop(timeout=0)  # the models that were loaded before
        app.close(wait=False)
        observing.close()
        raise
    if not server.has_time:
        service.cut_short()
    managing.close(timeout=min(LOADS_END, server.seconds_left()))
    if keeping is not None:
        keeping.close()
    stopped = service.stop(timeout=server.seconds_left())
    if not stopped:
        service.cut_short()
    app.close(wait=stopped)
    observing.close()
    unanswered = app.unanswered + front.unanswered
    if unanswered:
        _log.error("stopped: %d requests were not answered within %g s", unanswered, options.drain_timeout)
    elif not stopped:
        _log.error("stopped: a run did not end within %g s", options.drain_timeout)
    else:
        _log.info("stopped: everything that was accepted was answered")
        return 0
    return 1


class _Server:
    """The event loop's part of a server's life: listen, say so, wait for a signal, drain."""

    def __init__(
        self,
        front: Front,
        listener: Listener,
        options: ServeOptions,
        observing: Observing,
        managing: Managing,
        ready_file: ReadyFile,
    ) -> None:
        self.front, self._managing, self._ready_file = front, managing, ready_file
        self._listener, self._options, self._observing = listener, options, observing
        self._scheme = "https" if options.tls_cert is not None else "http"
        self._stop_by: float | None = None
        self._stop = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            await self._serve()
        finally:
            await self._observing.drain()

    async def _serve(self) -> None:
        self.front.listen(self._listener)
        try:
            self._observing.open()
            self._managing.open()
            self._ready_file.write(self._ready())
            _log.info("inference API on %s://%s", self._scheme, self._listener.address)
            # Scripts wait for this line on stdout. Its end comes with it: unbuffered, the log might come in between.
            print("Model server started.\n", end="", flush=True)  # noqa: T201
            await self._stop.wait()
        finally:
            self._listener.close()
        await self._listener.wait_closed(min(LAST_WORDS, max(0.0, self._left())))
        left = max(0.0, self._left())
        await asyncio.gather(self.front.drain(left), self._managing.drain(left))

    def _left(self) -> float:
        return (self._stop_by or 0.0) - time.monotonic()

    @property
    def has_time(self) -> bool:
        return self._left() > 0

    def seconds_left(self) -> float:
        """Of the time there is to drain."""
        return max(1.0, self._left())

    def _ready(self) -> dict[str, Any]:
        """What whoever has waited for the server is told."""
        inference = f"{self._scheme}://{self._listener.address}"
        return {
            "inference": inference,
            "management": self._managing.url(inference),
            "metrics": self._observing.url,
            "grpc": None,
            "pid": os.getpid(),
            "version": __version__,
        }

    def _on_signal(self, number: int) -> None:
        self._ready_file.remove()
        if self._stop_by is not None:
            # A run cannot be interrupted, and a normal exit would wait for it.
            _log.warning("a second signal: ending at once")
            self._observing.flush()
            flush()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        else:
            _log.info("stopping: no new connections; answering what was accepted")
            self._stop_by = time.monotonic() + self._options.drain_timeout
            self._stop.set()


def _tls(options: ServeOptions) -> ssl.SSLContext | None:
    if options.tls_cert is None:
        if options.tls_key is not None:
            raise InvalidOption("--tls-key needs --tls-cert, the certificate it belongs to")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A password would be asked for on a terminal, which a server does not have.
        context.load_cert_chain(options.tls_cert, options.tls_key, password=lambda: "")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        files = " and ".join(file for file in (options.tls_cert, options.tls_key) if file)
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InvalidOption(f"--tls-cert, --tls-key: {files} cannot be used: {why}") from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def _tell_what_comes_later(options: ServeOptions) -> None:
    later = []
    for flag, text, default in (("--grpc-address", options.grpc_address, ServeOptions.grpc_address),):
        if Address.parse(flag, text) is not None and text != default:  # which nobody has asked for
            later.append(flag)
    if later:
        _log.warning("%s: these doors come in a later version and stay closed", ", ".join(later))


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
