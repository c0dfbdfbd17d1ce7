"""How a model comes to be served: the one place that changes its state.

What is served is written `[NAME=]SOURCE`. SOURCE is an ONNX file, an archive (packed or a folder), a URL of one of
these, or `module:function`. A relative path is looked for in the model store first, where there is one, then from the
current folder.
"""

from __future__ import annotations

import importlib
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.archives.archive import Archive, is_archive, open_archive
from headrace.archives.cache import Cache
from headrace.archives.entries import DEFAULT_BOUNDS, Bounds
from headrace.archives.handlers.image_classifier import ImageClassifier
from headrace.archives.store import Place, Store
from headrace.errors import HeadraceError, InvalidArchive, InvalidModel, InvalidOption
from headrace.model.model import Crew, Model
from headrace.serving.measures import Measures
from headrace.serving.registry import Entry, Registry, State
from headrace.serving.served import Served
from headrace.workers.compile import compile_model

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*\Z")  # what torch-model-archiver allows
CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")
_log = logging.getLogger("headrace.serving")


@dataclass(frozen=True)
class Wanted:
    """One model to serve: its name (None: the source's own), and where it is."""

    name: str | None
    source: str

    @classmethod
    def parse(cls, text: str) -> Wanted:
        name, equals, source = text.partition("=")
        if not equals:
            name, source = "", text
        if not source or (equals and not NAME.match(name)):
            raise InvalidOption(
                f"{text!r} is not [NAME=]SOURCE: NAME has letters, digits, '_', '-' and '.', and SOURCE is an ONNX "
                "file, an archive, a URL of one, or module:function"
            )
        return cls(name or None, source)


Built = tuple[Model, ImageClassifier | None]
LATER_FILES = (".pt", ".pth", ".pt2")
"""For the handlers that need no code."""


@dataclass(frozen=True)
class Located:
    """What is to be served, not loaded yet: how to `build(name)` it, and what is `held` until it is served no more."""

    name: str
    version: str
    build: Callable[[str], Built]
    held: tuple[Archive | Place, ...] = ()

    def close(self) -> None:
        for one in self.held:
            one.close()


@dataclass(frozen=True)
class CompileOptions:
    """What every model of this server is compiled with."""

    scheduler: str = "single_stream"
    num_cores: int | None = None
    num_streams: int | None = None
    max_batch_size: int | None = None
    max_batch_delay: float = 0.0
    measured: bool = False
    """Whether times and sizes are counted: for metrics."""
    isolation: str = "thread"
    """Where callables run: "process" is worker processes. What is nobody's code runs in this one."""
    workers: int = 1
    response_timeout: float = 120.0
    idempotent: bool = True
    memory_limit: int | None = None


class Lifecycle:
    """`store`: where names and URLs lead. `cache` and `bounds`: where packed archives are unpacked, how large they may
    be."""

    def __init__(
        self,
        registry: Registry[Served],
        options: CompileOptions,
        store: Store | Path | None = None,
        *,
        cache: Cache | None = None,
        bounds: Bounds = DEFAULT_BOUNDS,
    ) -> None:
        self._registry, self._options = registry, options
        self._store = store if isinstance(store, Store) else Store(store, cache=cache)
        self._cache, self._bounds = cache, bounds

    def in_store(self) -> list[Wanted]:
        """Everything in the model store that can be served, by name."""
        if not self._store.is_configured:
            raise InvalidOption("'all' means all models of the model store: give --model-store DIR")
        found = self._store.names()
        if not found:
            raise InvalidModel(f"there is no ONNX file and no archive in {self._store}")
        # Of a folder absolute paths: they are not looked for in the store once more.
        folder = self._store.folder
        return [Wanted(None, name if folder is None else str(folder / name)) for name in found]

    def load(self, wanted: Wanted) -> Entry[Served]:
        """Load it and make it READY. Raises what is wrong, with the model FAILED and the reason kept.

        Nothing is registered where there is no source to load, or no name and version for it.
        """
        located = self._locate(wanted)
        name, version = located.name, located.version
        try:
            if not NAME.match(name):
                raise InvalidOption(f"{name!r} cannot be the name of a model; give one: NAME={wanted.source}")
            entry = self._registry.add(name, version)
        except BaseException:
            located.close()
            raise
        entry.state = State.LOADING
        started = time.monotonic()
        try:
            model, handler = located.build(name)
        except BaseException as error:
            located.close()
            entry.state, entry.reason = State.FAILED, str(error)
            raise
        if self._options.measured:
            model.measure()
        measures = Measures() if self._options.measured else None
        entry.served = Served(name, version, model, handler, measures, located.held)
        entry.state = State.READY
        crew = model.crew
        if crew is not None:
            _follow(entry, crew)
        batch = f"max_batch_size {model.max_batch_size} ({model.batching})"
        _log.info("model %s:%s is READY after %.2f s: %r, %s", name, version, time.monotonic() - started, model, batch)
        return entry

    def load_all(self, models: Iterable[Wanted]) -> None:
        for wanted in models:
            self.load(wanted)

    def _locate(self, wanted: Wanted) -> Located:
        """What is wanted, found, fetched and unpacked; nothing of it is loaded yet."""
        if "://" in wanted.source or "::" in wanted.source:
            return self._at(self._store.find(wanted.source), wanted)
        path = self._path(wanted.source)
        if path is not None:
            return self._at(Place(path), wanted)
        if CALLABLE.match(wanted.source):
            name = wanted.name or wanted.source.rpartition(":")[2].rpartition(".")[2]
            if self._options.isolation == "process":
                return Located(name, "1", lambda name: (self._start_workers(wanted.source, name), None))
            return Located(name, "1", lambda name: (self._compile(import_callable(wanted.source), name), None))
        if self._store.is_configured and self._store.folder is None:
            return self._at(self._store.find(wanted.source), wanted)
        looked = f"{self._store} and {Path.cwd()}" if self._store.is_configured else str(Path.cwd())
        raise InvalidModel(f"{wanted.source} does not exist (looked in {looked})")

    def _at(self, place: Place, wanted: Wanted) -> Located:
        """The archive or model file there. What `place` holds is let go of where it cannot be used."""
        path = place.path
        try:
            if is_archive(path) or path.suffix in (".mar", ".gz", ".tgz", ".zip"):
                archive = open_archive(path, name=wanted.name, cache=self._cache, bounds=self._bounds)
                name = archive.manifest.name or path.stem
                held = (archive, place)
                return Located(name, archive.manifest.version, lambda name: self._open(archive, name), held)
            if path.suffix in LATER_FILES:
                raise InvalidModel(
                    f"{path.name}: only ONNX files are loaded by themselves; pack it with a handler: headrace archive"
                )
        except BaseException:
            place.close()
            raise
        return Located(wanted.name or path.stem, "1", lambda name: (self._compile(str(path), name), None), (place,))

    def _path(self, source: str) -> Path | None:
        candidates = [Path(source)]
        if self._store.folder is not None and not Path(source).is_absolute():
            candidates.insert(0, self._store.folder / source)
        try:
            return next((path for path in candidates if path.exists()), None)
        except OSError as error:  # a folder that may not be entered, a name that is too long
            raise InvalidModel(f"{source:.200} cannot be looked for: {error.strerror}") from error

    def _compile(self, model: Any, name: str) -> Model:
        return self._compiled(model, name, scheduler=self._options.scheduler, num_streams=self._options.num_streams)

    def _start_workers(self, source: str, name: str) -> Model:
        options = self._options
        return self._compiled(
            source,
            name,
            isolation="process",
            workers=options.workers,
            response_timeout=options.response_timeout,
            idempotent=options.idempotent,
            memory_limit=options.memory_limit,
        )

    def _compiled(self, model: Any, name: str, **more: Any) -> Model:
        """With the options that say something wherever it runs, and `more`."""
        options = self._options
        return compile_model(
            model,
            num_cores=options.num_cores,
            max_batch_size=options.max_batch_size,
            max_batch_delay=options.max_batch_delay,
            name=name,
            **more,
        )

    def _open(self, archive: Archive, name: str) -> tuple[Model, ImageClassifier | None]:
        """What serves an archive. Here the kinds of handlers part: the built-in one runs at the door; what brings code
        of its own runs in workers, whose folder is `archive.folder` for as long as the archive is open."""
        manifest = archive.manifest
        if manifest.handler != "image_classifier":
            raise InvalidArchive(
                f"handler {manifest.handler!r}: the built-in image_classifier is the one this version runs; archives "
                "with code of their own come later"
            )
        if manifest.serialized_file is None or not manifest.serialized_file.endswith(".onnx"):
            raise InvalidArchive(f"serializedFile is an ONNX file in this version, not {manifest.serialized_file!r}")
        model = self._compile(str(archive.folder / manifest.serialized_file), name)
        config = archive.config.get("handler", {})
        try:
            if not isinstance(config, dict):
                raise InvalidArchive(f"handler: in {manifest.config_file} is a mapping, not {type(config).__name__}")
            handler = ImageClassifier(model.inputs or (), model.outputs or (), archive.labels, config)
        except BaseException:
            model.close()
            raise
        return model, handler


def _follow(entry: Entry[Served], pool: Crew) -> None:
    """The entry is READY as long as requests would be answered: not while no worker can be kept alive."""

    def look() -> None:
        if entry.state in (State.READY, State.FAILED):
            broken = pool.is_broken
            entry.state, entry.reason = (State.FAILED, pool.reason) if broken else (State.READY, None)

    pool.on_change = look
    look()


def import_callable(source: str) -> Any:
    """The callable `module:function` names; modules of the current folder are found."""
    module_name, _, path = source.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise InvalidModel(f"no module named {error.name!r} (looked in {here} and the Python path)") from None
        raise InvalidModel(f"importing {module_name} failed: {error}") from error
    except HeadraceError:
        raise
    except (Exception, SystemExit) as error:  # a script that ends itself must not end the server without a word
        raise InvalidModel(f"importing {module_name} failed: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(value, part):
            raise InvalidModel(f"module {module_name} has no {path!r}")
        value = getattr(value, part)
    if not callable(value):
        raise InvalidModel(f"{source} is a {type(value).__name__}, not a callable")
    return value
