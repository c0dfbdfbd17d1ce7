"""From what is to be served to what answers its requests.

What is served is written `[NAME=]SOURCE`. SOURCE is an ONNX file, a file of torch's, an archive (packed or a folder), a
URL of one of these, or `module:function`. A relative path is looked for in the model store first, where there is one,
then from the current folder.
"""

from __future__ import annotations

import importlib
import logging
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from headrace.archives.archive import Archive, is_archive, open_archive
from headrace.archives.cache import Cache
from headrace.archives.demands import check_demands
from headrace.archives.download import check_sha256
from headrace.archives.entries import DEFAULT_BOUNDS, Bounds
from headrace.archives.environments import EnvironmentOptions
from headrace.archives.handlers.image_classifier import ImageClassifier
from headrace.archives.interpreter import checked
from headrace.archives.location import locate
from headrace.archives.manifest import EMPTY
from headrace.archives.packed import PACKED
from headrace.archives.store import Place, Store
from headrace.errors import HeadraceError, InvalidArchive, InvalidModel, InvalidOption, SourceNotFound
from headrace.model.model import Model
from headrace.serving.handlers import runs_in_process, start_handler
from headrace.serving.interpreters import Interpreters
from headrace.workers.compile import compile_model
from headrace.workers.naming import named
from headrace.workers.onnx_model import OnnxModel
from headrace.workers.options import AT_ONCE, WorkerOptions
from headrace.workers.sequenced import SequenceHeaders
from headrace.workers.start import runs_coroutines, start_workers

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*\Z")  # what torch-model-archiver allows
NAMES = "letters, digits, '_', '.' and '-', the first a letter or a digit"
VERSION = re.compile(r"(?!all\Z)[A-Za-z0-9][A-Za-z0-9_.+\-]*\Z")  # `all` is every one, where managers ask
VERSIONS = "letters, digits, '_', '.', '+' and '-', and not `all`"
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")
TORCH_FILES = (".pt", ".pth", ".pt2")
"""Served by the handler `tensor`, in an environment with torch."""
CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")
_log = logging.getLogger("headrace.serving")


@dataclass(frozen=True)
class Wanted:
    """One model to serve: its name (None: the source's own), and where it is. `version`, `handler`: in place of the
    source's own. `demands`: what its archive has to say (`archives.demands`)."""

    name: str | None
    source: str
    version: str | None = None
    handler: str | None = None
    demands: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Wanted:
        name, equals, source = text.partition("=")
        if not equals or "#" in name or "://" in name:  # it is of a checksum, or of a URL's query
            equals, name, source = "", "", text
        if not source or (equals and not NAME.match(name)):
            raise InvalidOption(
                f"{text!r} is not [NAME=]SOURCE: NAME has letters, digits, '_', '-' and '.', and SOURCE is an ONNX "
                "file, an archive, a URL of one, or module:function"
            )
        return cls(name or None, source)


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
    """Where models run: "process" is worker processes, "thread" this one; "auto": callables in worker processes, what
    is nobody's code in this one."""
    workers: int = 1
    share_weights: bool = False
    response_timeout: float = 120.0
    cancel_grace: float = 5.0
    idempotent: bool = True
    memory_limit: int | None = None
    interpreters: Interpreters = field(default_factory=lambda: Interpreters({}))
    """What workers run, where the operator has said so."""
    environments: EnvironmentOptions = field(default_factory=EnvironmentOptions)
    """What archives may have of their own."""
    service_envelope: str | None = None
    """What clients put around what handlers are given; None: nothing."""
    decode_input_request: bool = True
    concurrency: int = AT_ONCE
    queue: int | None = None
    """Requests a model may have inside; None: only the server's own bound."""
    sequence_headers: SequenceHeaders = field(default_factory=SequenceHeaders)
    """What says of which sequence a request is, where models have any."""
    startup_timeout: float | None = None
    """Seconds a load may take, workers or not; None: as many as it likes, but workers `start_timeout`."""
    start_timeout: float = 120.0
    """Seconds in which a worker has to have loaded its model."""
    asked: tuple[str, ...] = ()
    """Options that count more than what an archive's YAML says, because they were asked for of this model."""
    priority_levels: int = 0
    """What requests may say of their priority (`priorities`); 0: nothing."""
    default_priority_level: int | None = None
    """None: the one in the middle."""
    reasons: bool = True
    """Whether clients are told why a handler's answer was none, or only, as by the old servers, that it was."""


@dataclass(frozen=True)
class Built:
    """What answers requests."""

    model: Model
    handler: ImageClassifier | None = None
    custom: bool = False
    """Whether it runs handlers of the archive's own, which are given requests as they came."""
    sequence_headers: SequenceHeaders | None = None
    """What says of which sequence they are; None: each stands for itself."""


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Located:
    """What was wanted, found and looked at; nothing of it is running."""

    name: str
    version: str
    build: Callable[[str, CompileOptions], Built]
    """Have it run, under that name. More than once, if it goes in between."""
    close: Callable[[], object] = _nothing
    """It is not needed any more: what was made to look at it goes."""
    is_code: bool = False
    """It runs in worker processes, where those are wanted."""


class Sources:
    """Finds what is wanted: fetches it where it has a URL, unpacks it where it is packed.

    `cache` and `bounds`: where packed archives are unpacked, and how large they may be.
    """

    def __init__(
        self, store: Store | Path | None = None, *, cache: Cache | None = None, bounds: Bounds = DEFAULT_BOUNDS
    ) -> None:
        self._store = store if isinstance(store, Store) else Store(store, cache=cache)
        self._cache, self._bounds = cache, bounds

    def in_store(self) -> list[Wanted]:
        """Everything in the model store that can be served, by name."""
        if not self._store.is_configured:
            raise InvalidOption("'all' means all models of the model store: give --model-store DIR")
        try:
            found = self._store.names()
        except OSError as error:
            raise InvalidOption(f"--model-store {self._store} cannot be listed: {error}") from error
        if not found:
            raise InvalidModel(f"there is no ONNX file and no archive in {self._store}")
        folder = self._store.folder  # of a folder absolute paths: they are not looked for in the store once more
        return [Wanted(None, name if folder is None else str(folder / name)) for name in found]

    @property
    def store(self) -> Store:
        return self._store

    def names(self) -> list[str]:
        """Of what is in the model store and can be served; `named` finds it."""
        return sorted({stem_of(name) for name in self._files()})

    def named(self, name: str) -> str:
        """Where in the model store the model is that is called so; as an archive, or a file. SourceNotFound."""
        for file in self._files():
            if name in (file, stem_of(file)):
                folder = self._store.folder
                return file if folder is None else str(folder / file)
        raise SourceNotFound(f"Model not found in model store: {name}", name)

    def _files(self) -> list[str]:
        if not self._store.is_configured:
            return []
        try:
            return self._store.names()
        except OSError as error:  # it has gone meanwhile
            _log.warning("the model store cannot be listed: %s", error)
            return []

    def locate(self, wanted: Wanted) -> Located:
        """Close it when nothing of it runs. InvalidModel, and its like: InvalidArchive, UrlNotAllowed; InvalidOption
        for a version that cannot be one, and where it takes no `handler`."""
        if wanted.version is not None and not VERSION.match(wanted.version):
            raise InvalidOption(f"{wanted.version!r:.80} cannot be a version: {VERSIONS}")
        found = self._locate(wanted)
        return found if wanted.version is None else replace(found, version=wanted.version)

    def _locate(self, wanted: Wanted) -> Located:
        if "://" in wanted.source or "::" in wanted.source:
            return self._at(self._store.find(wanted.source), wanted)
        path = self._path(wanted.source)
        if path is not None:
            return self._at(Place(path), wanted)
        if "#sha256=" in wanted.source:
            location = locate(wanted.source)
            path = self._path(location.url)
            if path is not None:
                check_sha256(path, location)
                return self._at(Place(path), wanted)
        if CALLABLE.match(wanted.source):
            name = wanted.name or wanted.source.rpartition(":")[2].rpartition(".")[2]
            return Located(name, "1", partial(_build_callable, wanted.source), is_code=True)
        if self._store.is_configured and self._store.folder is None:
            return self._at(self._store.find(wanted.source), wanted)
        looked = f"{self._store} and {Path.cwd()}" if self._store.is_configured else str(Path.cwd())
        hint = "; a callable is served as module:function" if MODULE.match(wanted.source) else ""
        raise InvalidModel(f"{wanted.source} does not exist (looked in {looked}){hint}")

    def _at(self, place: Place, wanted: Wanted) -> Located:
        """The archive or model file there. `place` is let go of where it cannot be used."""
        path = place.path
        try:
            packed = path.suffix in (".mar", ".gz", ".tgz", ".zip")
            if is_archive(path) or packed or (wanted.handler is not None and path.is_dir()):
                archive = open_archive(path, handler=wanted.handler, cache=self._cache, bounds=self._bounds)
                try:
                    check_demands(archive, wanted.demands)
                    if runs_in_process(archive):
                        archive.labels()  # what is wrong with them is said before anything is loaded
                except BaseException:
                    archive.close()
                    raise
                name, version = wanted.name or archive.manifest.name or path.stem, archive.manifest.version

                if archive.lease is not None:
                    place.close()  # it has been unpacked elsewhere

                def close() -> None:
                    archive.close()
                    place.close()

                return Located(name, version, partial(_build_archive, archive), close, _is_code(archive))
            if path.suffix in TORCH_FILES:
                archive = _as_archive(path.resolve(), wanted.handler or "tensor")
                return Located(wanted.name or path.stem, "1", partial(_build_archive, archive), place.close, True)
            if wanted.handler is not None:
                raise InvalidOption(f"handler {wanted.handler!r}: archives have handlers, {path.name} is none")
        except BaseException:
            place.close()
            raise
        return Located(wanted.name or path.stem, "1", partial(_build_file, path), place.close)

    def shown(self, source: str) -> str:
        """What a source is called where clients read it: what lies in the model store, by its name there."""
        folder, path = self._store.folder, Path(source)
        if folder is not None and path.is_absolute() and path.parent == folder.absolute():
            return path.name
        return source

    def absolute(self, source: str) -> str:
        """The same, wherever it is said, if it is a path that exists."""
        bare, mark, checksum = source.rpartition("#sha256=")
        for name, rest in ((source, ""), (bare, mark + checksum)) if bare else ((source, ""),):
            if "://" in name or "::" in name:
                continue
            try:
                path = self._path(name)
            except InvalidModel:  # what it was found by cannot be entered now
                continue
            if path is not None:
                return f"{path.absolute()}{rest}"
        return source

    def _path(self, source: str) -> Path | None:
        candidates = [Path(source)]
        if self._store.folder is not None and not Path(source).is_absolute():
            candidates.insert(0, self._store.folder / source)
        try:
            return next((path for path in candidates if path.exists()), None)
        except OSError as error:  # a folder that may not be entered, a name that is too long
            raise InvalidModel(f"{source:.200} cannot be looked for: {error.strerror}") from error


def stem_of(file: str) -> str:
    """What a model is called by its file or folder in the store."""
    for ending in (*PACKED, ".onnx"):
        file = file.removesuffix(ending)
    return file


def _as_archive(path: Path, handler: str) -> Archive:
    """A model file by itself, where it lies, as if it were all there is of an archive."""
    raw = {"runtime": "python", "model": {"handler": handler, "serializedFile": path.name, "modelVersion": "1"}}
    manifest = replace(EMPTY, serialized_file=path.name, raw=raw).registered(handler=handler)
    return Archive(path.parent, manifest, config={})


def _build_file(path: Path, name: str, options: CompileOptions) -> Built:
    return Built(_onnx(str(path), name, options))


def _build_callable(source: str, name: str, options: CompileOptions) -> Built:
    if options.isolation != "thread":
        _says_nothing(name, "is no ONNX model", ("--share-weights", options.share_weights))
        return Built(_in_workers(source, name, options, "python"))
    if options.interpreters.of(name) is not None:
        raise InvalidOption(f"model {name}: --python is for worker processes (--isolation process)")
    return Built(_in_process(import_callable(source), name, options))


def _is_code(archive: Archive) -> bool:
    return archive.manifest.serialized_file is None or not runs_in_process(archive)


def _build_archive(archive: Archive, name: str, options: CompileOptions) -> Built:
    """Here the kinds of handlers part. The built-in one runs at the door; what brings code of its own runs in workers,
    in `archive.folder`, which stays as long as the archive is open."""
    manifest = archive.manifest
    asked = options.interpreters.of(name)
    if asked is not None or manifest.serialized_file is None or _is_code(archive):
        _says_nothing(
            name,
            "runs a handler",
            ("--share-weights", options.share_weights),
            ("--concurrency", options.concurrency != AT_ONCE),
        )
        worker_options = WorkerOptions(
            python=asked,
            response_timeout=options.response_timeout,
            cancel_grace=options.cancel_grace,
            idempotent=options.idempotent,
            memory_limit=options.memory_limit,
            start_timeout=_start_timeout(options),
        )
        model, sequences = start_handler(
            archive,
            name,
            worker_options,
            options.environments,
            workers=options.workers,
            max_batch_size=options.max_batch_size,
            max_batch_delay=options.max_batch_delay,
            num_cores=options.num_cores,
            asked=options.asked,
            envelope=options.service_envelope,
            decode_input_request=options.decode_input_request,
            sequence_headers=options.sequence_headers,
        )
        return Built(model, custom=True, sequence_headers=None if sequences is None else sequences.headers)
    model = _onnx(str(archive.folder / manifest.serialized_file), name, options)
    config = archive.config.get("handler") or {}
    try:
        if not isinstance(config, dict):
            raise InvalidArchive(f"handler: in {manifest.config_file} is a mapping, not {type(config).__name__}")
        return Built(model, ImageClassifier(model.inputs or (), model.outputs or (), archive.labels(), config))
    except BaseException:
        model.close()
        raise


def _onnx(path: str, name: str, options: CompileOptions) -> Model:
    asked = options.max_batch_size
    if asked == 1:  # it is looked at whether its rows may be joined: that may be asked for while it serves
        options = replace(options, max_batch_size=None)
    if options.isolation == "process":
        made = _in_workers(path, name, options, "onnxruntime")
    else:
        made = _in_process(path, name, options)
    if asked == 1 and made.max_batch_size > 1:
        made.rebatch(1)
    return made


def _in_process(model: Any, name: str, options: CompileOptions) -> Model:
    _says_nothing(
        name,
        "runs in the server's process; for worker processes: --isolation process",
        ("--share-weights", options.share_weights),
        ("--memory-limit", options.memory_limit is not None),
        ("--concurrency", options.concurrency != AT_ONCE),
        ("--idempotent", not options.idempotent),
    )
    return _compiled(model, name, options, scheduler=options.scheduler, num_streams=options.num_streams)


def _in_workers(source: str, name: str, options: CompileOptions, backend: str) -> Model:
    _says_nothing(
        name,
        "runs in worker processes: see --workers",
        ("--num-streams", options.num_streams is not None),
        ("--scheduler", options.scheduler != "single_stream"),
    )
    python = options.interpreters.of(name)
    made = start_workers(
        OnnxModel(source) if backend == "onnxruntime" else named(source),
        WorkerOptions(
            python=None if python is None else checked(python, f"model {name}"),
            response_timeout=options.response_timeout,
            cancel_grace=options.cancel_grace,
            start_timeout=_start_timeout(options),
            idempotent=options.idempotent,
            memory_limit=options.memory_limit,
            concurrency=options.concurrency,
        ),
        options.workers,
        num_cores=options.num_cores,
        share_weights=options.share_weights and backend == "onnxruntime",
        max_batch_size=options.max_batch_size,
        max_batch_delay=options.max_batch_delay,
        name=name,
    )
    if not runs_coroutines(made):
        _says_nothing(name, "is no coroutine function", ("--concurrency", options.concurrency != AT_ONCE))
    return made


def _says_nothing(name: str, why: str, *flags: tuple[str, bool]) -> None:
    """Warn of those that were given. `why`: it, the model."""
    for flag, is_given in flags:
        if is_given:
            _log.warning("%s says nothing of model %s, which %s", flag, name, why)


def _start_timeout(options: CompileOptions) -> float:
    """More than none: a manager may say 0, whom nobody waits for any more."""
    return options.start_timeout if options.startup_timeout is None else max(options.startup_timeout, 0.001)


def _compiled(model: Any, name: str, options: CompileOptions, **more: Any) -> Model:
    """With the options that say something wherever it runs, and `more`."""
    return compile_model(
        model,
        num_cores=options.num_cores,
        max_batch_size=options.max_batch_size,
        max_batch_delay=options.max_batch_delay,
        name=name,
        **more,
    )


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
