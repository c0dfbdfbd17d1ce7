"""Keeps what the server serves on disk, and brings it back (`snapshot`)."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headrace.errors import HeadraceError, InvalidOption
from headrace.serving.changing import OVER_YAML, priorities
from headrace.serving.compile_options import CompileOptions
from headrace.serving.kept_file import KeptFile
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.registration import Registration
from headrace.serving.registry import Entry
from headrace.serving.served import Served
from headrace.serving.settings import bounds_of
from headrace.serving.snapshot import Kept, read, sweep, text_of
from headrace.serving.wanted import NAME, NAMES, VERSION, VERSIONS, Wanted

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
        self._file = KeptFile(path, self._text)
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
        # All of it before anything is loaded: a slip of whoever has mended it is said at once.
        options = [self._options(kept, f"{self._path}: models[{i}]") for i, kept in enumerate(models)]
        for kept, each in zip(models, options):
            self._restore(kept, each)
        return len(models)

    def begin(self) -> None:
        """What is served by now is complete."""
        self._lifecycle.on_change = self.write
        self.write()

    def write(self) -> None:
        """Where that cannot be it is logged, and tried again by itself."""
        self._file.write()

    def close(self) -> None:
        """The end. What could not be written so far is tried once more."""
        self._file.close()

    def _text(self) -> str:
        registry = self._lifecycle.service.registry
        models = [self._kept(entry, registry.is_default(entry)) for entry in registry if entry.about.is_complete]
        return text_of(models, datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"))

    def _kept(self, entry: Entry[Served], is_default: bool) -> Kept:
        about: Registration = entry.about
        source = self._lifecycle.sources.absolute(about.wanted.source)  # the next server may be started elsewhere
        usual = self._lifecycle.options
        settings = {
            name: getattr(about.options, name)
            for name in SETTINGS
            if name in about.options.asked
            # A time for the load that nobody asked for is the server's: it must not go over what an archive says.
            or (name != "startup_timeout" and getattr(about.options, name) != getattr(usual, name))
        }
        return Kept(
            entry.name, entry.version, source, is_default, about.min_workers, about.max_workers, settings,
            about.wanted.handler, about.url,
        )  # fmt: skip

    def _options(self, kept: Kept, where: str) -> CompileOptions:
        """With its settings. InvalidOption for what cannot be, of these and of its names."""
        if not NAME.match(kept.name):
            raise InvalidOption(f"{where}: {kept.name!r:.80} cannot be the name of a model: {NAMES}")
        if not VERSION.match(kept.version):
            raise InvalidOption(f"{where}: {kept.version!r:.80} cannot be a version: {VERSIONS}")
        options = replace(self._lifecycle.options, **_checked(kept, where))
        try:
            priorities(options)
        except InvalidOption as error:
            raise InvalidOption(f"{where}: {error}") from error
        return replace(options, asked=tuple(name for name in OVER_YAML if name in kept.settings))

    def _restore(self, kept: Kept, options: CompileOptions) -> None:
        lifecycle = self._lifecycle
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


def _checked(kept: Kept, where: str) -> dict[str, Any]:
    kinds = {field.name: str(field.type) for field in fields(CompileOptions)}
    strange = kept.settings.keys() - set(SETTINGS)
    if strange:
        raise InvalidOption(f"{where} has the setting {sorted(strange)[0]!r}: nobody knows it")
    for name, value in kept.settings.items():
        if value is None and "None" in kinds[name]:
            continue
        whole = "float" not in kinds[name]
        what = f"{where}: the setting {name!r} of {kept.name}:{kept.version} must be a number"
        if not isinstance(value, int if whole else int | float) or isinstance(value, bool):
            raise InvalidOption(f"{what}, it is {value!r:.100}")
        low, high = bounds_of(name)
        if not low <= value <= high:
            raise InvalidOption(f"{what} from {low:,g} to {high:,g}, it is {value!r:.100}")
    return dict(kept.settings)
