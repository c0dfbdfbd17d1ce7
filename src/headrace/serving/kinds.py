"""How each kind of source becomes what answers requests: a file, a callable, an archive.

What runs in workers has options that say nothing in this process, and the other way round: who has given one where it
says nothing is told.
"""

from __future__ import annotations

import importlib
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from headrace.archives.archive import Archive
from headrace.archives.handlers.image_classifier import ImageClassifier
from headrace.archives.interpreter import checked
from headrace.archives.manifest import EMPTY
from headrace.errors import HeadraceError, InvalidArchive, InvalidModel, InvalidOption
from headrace.model.model import Model
from headrace.serving.compile_options import CompileOptions
from headrace.serving.handlers import runs_in_process, start_handler
from headrace.serving.located import Built
from headrace.workers.compile import compile_model
from headrace.workers.naming import named
from headrace.workers.onnx_model import OnnxModel
from headrace.workers.options import AT_ONCE, WorkerOptions
from headrace.workers.start import runs_coroutines, start_workers

_log = logging.getLogger("headrace.serving")


def as_archive(path: Path, handler: str) -> Archive:
    """A model file by itself, where it lies, as if it were all there is of an archive."""
    raw = {"runtime": "python", "model": {"handler": handler, "serializedFile": path.name, "modelVersion": "1"}}
    manifest = replace(EMPTY, serialized_file=path.name, raw=raw).registered(handler=handler)
    return Archive(path.parent, manifest, config={})


def build_file(path: Path, name: str, options: CompileOptions) -> Built:
    return Built(_onnx(str(path), name, options))


def build_callable(source: str, name: str, options: CompileOptions) -> Built:
    if options.isolation != "thread":
        _says_nothing(name, "is no ONNX model", ("--share-weights", options.share_weights))
        return Built(_in_workers(source, name, options, "python"))
    if options.interpreters.of(name) is not None:
        raise InvalidOption(f"model {name}: --python is for worker processes (--isolation process)")
    return Built(_in_process(import_callable(source), name, options))


def is_code(archive: Archive) -> bool:
    return archive.manifest.serialized_file is None or not runs_in_process(archive)


def build_archive(archive: Archive, name: str, options: CompileOptions) -> Built:
    """Here the kinds of handlers part. The built-in one runs at the door; what brings code of its own runs in workers,
    in `archive.folder`, which stays as long as the archive is open."""
    manifest = archive.manifest
    asked = options.interpreters.of(name)
    if asked is not None or manifest.serialized_file is None or is_code(archive):
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
