"""A server's life: take the ports, load the models, listen, say so, drain, stop.

The ports are taken before anything is loaded, so that a taken one is told at once; listening begins when every model is
READY, so that nobody connects to a server that cannot answer (a probe of the port tells the truth). SIGTERM and Ctrl-C
drain: no new connection, what was accepted is answered, then exit 0. A second signal ends it at once: the process dies
of it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import ssl
import time
from pathlib import Path
from typing import Any

import psutil

from headrace.archives.cache import Cache
from headrace.archives.download import DownloadLimits
from headrace.archives.entries import Bounds
from headrace.archives.environments import EnvironmentOptions
from headrace.archives.store import Store
from headrace.engine.topology import memory_limit
from headrace.errors import HeadraceError, InvalidModel, InvalidOption
from headrace.log import flush
from headrace.server.app import App
from headrace.server.compat import Compat
from headrace.server.custom import is_name
from headrace.server.descriptors import make_room
from headrace.server.front import LAST_WORDS, TURNED_AWAY, Front
from headrace.server.hangup import hangups
from headrace.server.limits import Limits
from headrace.server.listener import Listener
from headrace.server.managing import Managing
from headrace.server.observing import Observing
from headrace.server.options import BUNDLED_DIGITS, Address, ServeOptions
from headrace.server.signals import terminable
from headrace.serving.autoscaler import Autoscaler
from headrace.serving.compile_options import CompileOptions
from headrace.serving.interpreters import Interpreters
from headrace.serving.keeping import Keeping
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.service import Service
from headrace.serving.sources import Sources
from headrace.serving.wanted import Wanted
from headrace.version import __version__
from headrace.workers.sequenced import SequenceHeaders

LOADS_END = 5.0
"""Seconds that changes of models which go on at the end are waited for: a load is of no use any more."""
GC_THRESHOLD = 10_000
"""Objects made and not freed between two collections. Python's 700 is a few requests' worth."""
_log = logging.getLogger("headrace.server")


def serve(options: ServeOptions) -> int:
    """Serve until a signal ends it. The exit status: 0, or 1 if what was accepted could not all be answered in time.

    Raises SetupError for what keeps it from starting.
    """
    address = Address.parse("--inference-address", options.inference_address)
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
    _clear(options.ready_file)
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
    try:
        with terminable():
            lifecycle = load(service, options)
        autoscaler = Autoscaler(lifecycle)
        managing.begin(lifecycle, app, observing.traffic)
        # After loading: what the models have opened counts.
        if (advice := make_room(options.max_connections, TURNED_AWAY)) is not None:
            _log.warning("%s", advice)
        # What was imported and loaded stays: the garbage collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 20)
        server = _Server(front, listener, options, observing, managing)
        autoscaler.start()
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(server.run())
        finally:
            server.remove_ready_file()
            autoscaler.close()
    except BaseException:
        listener.close()
        managing.close()
        service.stop(timeout=0)  # the models that were loaded before
        app.close(wait=False)
        observing.close()
        raise
    if not server.has_time:
        service.cut_short()
    managing.close(timeout=min(LOADS_END, server.seconds_left()))
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
        self, front: Front, listener: Listener, options: ServeOptions, observing: Observing, managing: Managing
    ) -> None:
        self.front, self._managing = front, managing
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
            self._write_ready_file()
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

    def remove_ready_file(self) -> None:
        if self._options.ready_file is not None:
            Path(self._options.ready_file).unlink(missing_ok=True)

    def _on_signal(self, number: int) -> None:
        self.remove_ready_file()
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

    def _write_ready_file(self) -> None:
        if self._options.ready_file is None:
            return
        path = Path(self._options.ready_file)
        inference = f"{self._scheme}://{self._listener.address}"
        ready: dict[str, Any] = {
            "inference": inference,
            "management": self._managing.url(inference),
            "metrics": self._observing.url,
            "grpc": None,
            "pid": os.getpid(),
            "version": __version__,
        }
        # Whoever waits for the file must never read half of it.
        half = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            half.write_text(json.dumps(ready) + "\n")
            half.replace(path)
        except OSError as error:
            half.unlink(missing_ok=True)
            raise InvalidOption(f"--ready-file {path} cannot be written: {error.strerror}") from error


def _clear(ready_file: str | None) -> None:
    """Who waits for the file must not find that of a server that was killed. InvalidOption if it cannot be written."""
    if ready_file is None:
        return
    path = Path(ready_file)
    if not path.parent.is_dir() or path.is_dir():
        raise InvalidOption(f"--ready-file {path}: a file in a folder that exists is wanted")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidOption(f"--ready-file {path}: {error.strerror}") from error


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


def load(service: Service, options: ServeOptions) -> Lifecycle:
    cache = Cache(options.cache_dir)
    store = Store(
        options.model_store,
        allowed=options.allowed_urls,
        limits=DownloadLimits(options.max_download_size, options.download_timeout),
        cache=cache,
    )
    bounds = Bounds(options.max_archive_files, options.max_archive_size, options.max_archive_ratio)
    interpreters = Interpreters.parse(options.python)
    compile_options = CompileOptions(
        options.scheduler,
        options.num_cores,
        options.num_streams,
        options.max_batch_size,
        options.max_batch_delay,
        measured=options.metrics_address != "off",
        isolation=options.isolation,
        workers=options.workers,
        share_weights=options.share_weights,
        response_timeout=options.response_timeout,
        cancel_grace=options.cancel_grace,
        idempotent=options.idempotent == "yes",
        memory_limit=options.memory_limit,
        interpreters=interpreters,
        environments=EnvironmentOptions(
            options.install_requirements == "yes",
            _folder("--allowed-environments", options.allowed_environments),
            None if options.environments is None else Path(options.environments),
            options.install_timeout,
        ),
        service_envelope=options.service_envelope,
        decode_input_request=options.decode_input_request == "yes",
        concurrency=options.concurrency,
        start_timeout=options.startup_timeout,
        reasons=not Compat(options.compat).is_old,
        sequence_headers=_sequence_headers(options),
    )
    lifecycle = Lifecycle(service, compile_options, Sources(store, cache=cache, bounds=bounds))
    keeping = None if options.snapshot is None else Keeping(lifecycle, Path(options.snapshot))
    restored = None if keeping is None else keeping.restore()
    if restored is None:
        _load_models(lifecycle, options, store)
    else:
        _log.info("the snapshot %s says what is served: %d models", options.snapshot, restored)
        if options.models:
            _log.warning("--models says nothing while there is a snapshot (%s)", options.snapshot)
    if keeping is not None:
        keeping.begin()
    for name in interpreters.unused:
        _log.warning("--python %s=...: no model of that name runs in worker processes, so far", name)
    return lifecycle


def _load_models(lifecycle: Lifecycle, options: ServeOptions, store: Store) -> None:
    asked = options.models
    if not asked and store.is_configured and Compat(options.compat).is_old:
        _log.info("as the old servers do: nothing of the model store is served until --models, or a manager, says so")
    elif not asked:
        asked = ("all",) if store.is_configured else (f"digits={BUNDLED_DIGITS}",)
    # The old servers serve the others. Whoever has not asked for their ways is to see it before anybody else does.
    failed = _tell_of_failure if Compat(options.compat).is_old else None
    for text in asked:
        try:
            every = lifecycle.sources.in_store() if text.lower() == "all" else [Wanted.parse(text)]
        except InvalidModel as error:  # the store is empty
            if failed is None:
                raise
            failed(str(store), error)
            continue
        lifecycle.load_all(every, failed)


def _tell_of_failure(source: str, error: HeadraceError) -> None:
    _log.error("Failed to load model: %s (%s)", source, error)


def _folder(flag: str, path: str | None) -> Path | None:
    if path is not None and not Path(path).is_dir():
        raise InvalidOption(f"{flag} {path} is not a folder")
    return None if path is None else Path(path)


def _sequence_headers(options: ServeOptions) -> SequenceHeaders:
    """InvalidOption for what is no header's name, or one name for two of them."""
    names = options.sequence_id_header, options.sequence_start_header, options.sequence_end_header
    for flag, name in zip(("--sequence-id-header", "--sequence-start-header", "--sequence-end-header"), names):
        if not is_name(name):
            raise InvalidOption(f"{flag} is the name of a header: letters, digits, - and _, not {name!r}")
    if len({name.lower() for name in names}) < len(names):
        raise InvalidOption(f"the three headers of sequences have different names, not {', '.join(names)}")
    return SequenceHeaders(*names)


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
