"""What is served from the start: what the options, or the snapshot of the server before, say of models."""

from __future__ import annotations

import logging
from pathlib import Path

from headrace.archives.cache import Cache
from headrace.archives.download import DownloadLimits
from headrace.archives.entries import Bounds
from headrace.archives.environments import EnvironmentOptions
from headrace.archives.store import Store
from headrace.errors import HeadraceError, InvalidModel, InvalidOption
from headrace.server.compat import Compat
from headrace.server.custom import is_name
from headrace.server.options import BUNDLED_DIGITS, ServeOptions
from headrace.serving.compile_options import CompileOptions
from headrace.serving.interpreters import Interpreters
from headrace.serving.keeping import Keeping
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.service import Service
from headrace.serving.sources import Sources
from headrace.serving.wanted import Wanted
from headrace.workers.sequenced import SequenceHeaders

_log = logging.getLogger("headrace.server")


def load(service: Service, options: ServeOptions) -> tuple[Lifecycle, Keeping | None]:
    """All of it READY; and what keeps it on disk from now on, which is to be closed, where that is wanted."""
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
    return lifecycle, keeping


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
