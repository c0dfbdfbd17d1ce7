"""How an archive is run: in the server's process where nothing of it is code, else in workers of an environment it has.

How its requests are joined is what the server was told, else what the archive's YAML says; how long a run may take is
what a manager asked for of this model, else what the YAML says, else what the server was told. How long a load may
take, and how many requests there is room for, comes with `options` and with whoever serves it (`Located.own`).
"""

from __future__ import annotations

import logging
from collections.abc import Container
from dataclasses import replace

from headrace.archives.archive import Archive
from headrace.archives.environments import EnvironmentOptions, Environments
from headrace.errors import InvalidArchive
from headrace.model.model import Model
from headrace.serving.model_yaml import SILENT, number
from headrace.serving.sequencing import sequencing_of
from headrace.workers.options import WorkerOptions
from headrace.workers.sequenced import SequenceHeaders, Sequencing
from headrace.workers.served_handler import HandlerArchive
from headrace.workers.start import start_workers

_log = logging.getLogger("headrace.serving")


def runs_in_process(archive: Archive) -> bool:
    """Whether a picture classifier and an ONNX model are all there is of it."""
    manifest = archive.manifest
    return (
        manifest.handler == "image_classifier"
        and manifest.serialized_file is not None
        and manifest.serialized_file.endswith(".onnx")
        and not (archive.folder / "image_classifier.py").exists()
    )


def start_handler(
    archive: Archive,
    name: str,
    options: WorkerOptions,
    environments: EnvironmentOptions,
    *,
    workers: int,
    max_batch_size: int | None,
    max_batch_delay: float,
    num_cores: int | None,
    asked: Container[str] = (),
    envelope: str | None = None,
    decode_input_request: bool = True,
    sequence_headers: SequenceHeaders = SequenceHeaders(),  # noqa: B008 - it is frozen
) -> tuple[Model, Sequencing | None]:
    """Its workers, ready, and how its requests come in sequences, if they do.

    `options.python`: what the operator wants it to be run by; None: what the archive asks for.
    `asked`: what counts whatever the YAML says.

    InvalidEnvironment, InvalidArchive, InvalidModel, InvalidOption say what is wrong.
    """
    config = archive.config
    if archive.manifest.runtime.upper() == "LSP":
        raise InvalidArchive(f"model {name}: its runtime is LSP: handlers written in C++ are not served")
    _check_kind(config, name)
    silent = [key for key in SILENT if key in config]
    if silent:
        _log.warning("model %s: what its YAML says of %s is not listened to", name, ", ".join(silent))
    for key in ("minWorkers", "maxWorkers"):  # how many there are is the server's affair; nonsense is told all the same
        number(config, key, 0, name, whole=True, least=0)
    size = int(number(config, "batchSize", 1, name, whole=True))
    if max_batch_size:
        size = max_batch_size
    delay = number(config, "maxBatchDelay", 0, name) / 1000
    if max_batch_delay or "max_batch_delay" in asked:
        delay = max_batch_delay
    timeout = number(config, "responseTimeout", options.response_timeout, name)
    if "response_timeout" in asked:
        timeout = options.response_timeout
    python = Environments(environments).python_of(archive, name, options.python)
    sequences = sequencing_of(
        config, name, sequence_headers, lambda key, usual: number(config, key, usual, name, least=0)
    )
    options = replace(options, python=python, response_timeout=timeout)
    if sequences is not None:  # what was begun has changed a state: it is not done twice, nor cut off for who has left
        options = replace(options, idempotent=False, cancel_grace=timeout)
    model = start_workers(
        HandlerArchive(
            archive,
            model_name=name,
            batch_size=size,
            sequences=sequences,
            envelope=envelope,
            decode_input_request=decode_input_request,
        ),
        options,
        workers,
        num_cores=num_cores,
        max_batch_size=size,
        max_batch_delay=delay,
        name=name,
    )
    return model, sequences


def _check_kind(config: dict[str, object], name: str) -> None:
    """InvalidArchive for what such a handler would wait for in vain."""
    for key in ("asyncCommunication", "continuousBatching"):
        if config.get(key) is True:
            raise InvalidArchive(
                f"model {name}: {key}: true in its YAML is not served yet: a handler is given one batch after the "
                "other, and returns its answers, or sends them in parts"
            )
    if config.get("parallelType") in ("pp", "tp", "pptp"):
        raise InvalidArchive(
            f"model {name}: parallelType: {config['parallelType']} in its YAML is not served yet: a worker is one "
            "process (custom, for a handler that starts others itself)"
        )
