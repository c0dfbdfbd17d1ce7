"""Keeps what the server serves on disk, and brings it back (`snapshot`)."""

from __future__ import annotations

import logging
import threading
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headrace.errors import HeadraceError, InvalidOption
from headrace.serving.changing import OVER_YAML
from headrace.serving.lifecycle import Lifecycle, Registration
from headrace.serving.registry import Entry
from headrace.serving.served import Served
from headrace.serving.snapshot import Kept, read, sweep, text_of, write
from headrace.serving.sources import CompileOptions, Wanted

SETTINGS = (
    *("max_batch_size", "max_batch_delay", "queue", "response_timeout", "startup_timeout"),
    *("priority_levels", "default_priority_level"),
)
"""Of CompileOptions: what a model may have of its own."""
_log = logging.getLogger("headrace.serving")


class Keeping:
    """Writes `path` after each change of a model from `begin` on, before whoever asked for it hears of it."""

    def __init__(self, lifecycle: Lifecycle, path: Path) -> None:
        """InvalidOption where it could not be written."""
        self._lifecycle, self._path = lifecycle, path
        self._writing = threading.Lock()
        if not path.parent.is_dir() or path.is_dir():
            raise InvalidOption(f"--snapshot {path}: a file in a folder that exists is wanted")
        sweep(path)

    def restore(self) -> int | None:
        """Have what the file says served: how many versions. None: there is no file.

        One that cannot be loaded any more is FAILED, and the others come. InvalidOption for a file that is none.
        """
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidOption(f"--snapshot {self._path} cannot be read: {error}") from error
        models = read(text, str(self._path))
        for i, kept in enumerate(models):
            strange = kept.settings.keys() - set(SETTINGS)
            if strange:
                raise InvalidOption(
                    f"{self._path}: models[{i}] has the setting {sorted(strange)[0]!r}: nobody knows it"
                )
        for kept in models:
            self._restore(kept)
        return len(models)

    def begin(self) -> None:
        """What is served by now is complete."""
        self._lifecycle.on_change = self.write
        self.write()

    def write(self) -> None:
        """A disk that is full must not keep anybody from managing: it is logged, and the old file stays."""
        with self._writing:
            registry = self._lifecycle.service.registry
            models = [self._kept(entry, registry.is_default(entry)) for entry in registry if entry.about.is_complete]
            written = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            try:
                write(self._path, text_of(models, written))
            except OSError as error:
                _log.error("the snapshot %s cannot be written, and is not what is served: %s", self._path, error)

    def _kept(self, entry: Entry[Served], is_default: bool) -> Kept:
        about: Registration = entry.about
        source = self._lifecycle.sources.absolute(about.wanted.source)  # the next server may be started elsewhere
        usual = self._lifecycle.options
        settings = {
            name: getattr(about.options, name)
            for name in SETTINGS
            if getattr(about.options, name) != getattr(usual, name) or name in about.options.asked
        }
        return Kept(
            entry.name, entry.version, source, is_default, about.min_workers, about.max_workers, settings,
            about.wanted.handler, about.url,
        )  # fmt: skip

    def _restore(self, kept: Kept) -> None:
        lifecycle = self._lifecycle
        options = replace(lifecycle.options, **_of_their_types(kept, self._path))
        options = replace(options, asked=tuple(name for name in OVER_YAML if name in kept.settings))
        wanted = Wanted(kept.name, kept.source, kept.version, kept.handler)
        try:
            lifecycle.register(
                wanted,
                options=options,
                min_workers=kept.min_workers,
                max_workers=kept.max_workers,
                at_startup=True,
                url=kept.url,
            )
        except HeadraceError as error:
            _log.error("model %s:%s was served before, and cannot be now: %s", kept.name, kept.version, error)
            lifecycle.remember(wanted, options, kept.min_workers, kept.max_workers, kept.url, str(error))
        if kept.default:
            lifecycle.set_default(kept.name, kept.version)


def _of_their_types(kept: Kept, path: Path) -> dict[str, Any]:
    kinds = {field.name: str(field.type) for field in fields(CompileOptions)}
    for name, value in kept.settings.items():
        whole = "float" not in kinds[name]
        fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not fits and not (value is None and "None" in kinds[name]):
            raise InvalidOption(
                f"{path}: the setting {name!r} of {kept.name}:{kept.version} must be a number, it is {value!r:.100}"
            )
    return dict(kept.settings)
