"""What the server serves, on disk: so that one that was killed comes back with it.

Rule 1: the file is whole at every moment, whatever ends the process: a new one is written beside it, flushed to the
        disk, and put in its place.
Rule 2: it is written before whoever asked for a change hears that it was made. What is half done is not in it.
Rule 3: a person can read it, and mend it. What is wrong with it is said with the place where it is.
"""

from __future__ import annotations

import glob
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headrace.errors import InvalidOption

FORMAT = 1
HALF = ".half"
"""How the name of one that is being written ends. An editor's own files beside it are left alone."""


@dataclass(frozen=True)
class Kept:
    """One version of one model, as it was asked for."""

    name: str
    version: str
    source: str
    """A path, a URL or `module:function`."""
    default: bool
    min_workers: int
    max_workers: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What is not as the server's own options say."""
    handler: str | None = None
    url: str | None = None
    """What a manager called its source."""


def text_of(models: Sequence[Kept], written: str) -> str:
    """`written`: when, for whoever reads it."""
    return (
        json.dumps({"format": FORMAT, "written": written, "models": [asdict(one) for one in models]}, indent=2) + "\n"
    )


def read(text: str, where: str) -> list[Kept]:
    """InvalidOption says what is wrong, and where."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidOption(f"{where} is no snapshot: it is not JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("models"), list):
        raise InvalidOption(f"{where} is no snapshot: an object with `format` and a list `models` was expected")
    if found.get("format") != FORMAT:
        raise InvalidOption(f"{where} is a snapshot of format {found.get('format')!r:.50}; this version reads {FORMAT}")
    return [_kept(one, f"{where}: models[{i}]") for i, one in enumerate(found["models"])]


_TYPES: dict[str, type] = {
    "name": str, "version": str, "source": str, "default": bool, "min_workers": int, "max_workers": int,
    "settings": dict,
}  # fmt: skip
_MAY_BE_NULL = ("handler", "url")


def _kept(found: Any, where: str) -> Kept:
    if not isinstance(found, dict):
        raise InvalidOption(f"{where} is a {type(found).__name__}, an object was expected")
    for key, kind in _TYPES.items():
        value = found.get(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InvalidOption(f"{where}: {key!r} must be a {kind.__name__}, it is {value!r:.100}")
    for key in _MAY_BE_NULL:
        if not isinstance(found.get(key), str | None):
            raise InvalidOption(f"{where}: {key!r} must be a str or null, it is {found[key]!r:.100}")
    unknown = found.keys() - _TYPES.keys() - set(_MAY_BE_NULL)
    if unknown:
        raise InvalidOption(f"{where} has {sorted(unknown)[0]!r:.100}, which nobody knows")
    low, high = found["min_workers"], found["max_workers"]
    if not 0 <= low <= high:
        raise InvalidOption(
            f"{where}: 'min_workers' is from 0 up, and 'max_workers' no less; they are {low} and {high}"
        )
    return Kept(**found)


def write(path: Path, text: str) -> None:
    """OSError where that cannot be; then what was there is there still."""
    descriptor, half = tempfile.mkstemp(prefix=f".{path.name}.", suffix=HALF, dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, path)
    except BaseException:
        Path(half).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else the name may still be the old file's after a power cut
    finally:
        os.close(folder)


def sweep(path: Path) -> None:
    """Halves that a server which was killed has left beside it."""
    for half in path.parent.glob(f".{glob.escape(path.name)}.*{HALF}"):
        half.unlink(missing_ok=True)
