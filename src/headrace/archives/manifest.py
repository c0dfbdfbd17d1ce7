"""What an archive says of itself: `MAR-INF/MANIFEST.json`, as TorchServe and Multi Model Server 1.x write it.

Rule 1: text in, Manifest out; nothing is looked up on disk.
Rule 2: the files that a manifest names lie inside its folder. It was written by whoever made the archive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from headrace.errors import InvalidArchive

# What the archivers of both servers let a model be called; names end up in URLs and in folder names.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_VERSION = re.compile(r"[^\s/\x00-\x1f]+")


@dataclass(frozen=True, slots=True)
class Manifest:
    """`handler` is None where it must come from the registration. `raw` is all that was there."""

    name: str
    version: str
    handler: str | None
    serialized_file: str | None
    model_file: str | None
    requirements_file: str | None
    config_file: str | None
    runtime: str
    raw: dict[str, Any] = field(repr=False)


def parse_manifest(text: bytes | str) -> Manifest:
    """The manifest in `text`. A model without a version has version 1: Multi Model Server's need none."""
    try:
        raw = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidArchive(f"MANIFEST.json is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise InvalidArchive(f"MANIFEST.json must be a JSON object, it is a {type(raw).__name__}")
    model = raw.get("model")
    if model is None:
        raise InvalidArchive("Missing Model entry in manifest file.")
    if not isinstance(model, dict):
        raise InvalidArchive(f"'model' in MANIFEST.json must be an object, it is a {type(model).__name__}")
    name = _text(model, "modelName")
    if name is None:
        raise InvalidArchive("Model name is not defined.")
    if not _NAME.fullmatch(name):
        raise InvalidArchive(
            f"a model cannot be called {name!r}: letters, digits, '_', '.' and '-', the first a letter or a digit"
        )
    version = _text(model, "modelVersion") or "1"
    if not _VERSION.fullmatch(version):
        raise InvalidArchive(f"a model version cannot be {version!r}: it has blanks or slashes")
    handler = _text(model, "handler")
    if handler is not None:
        _inside("handler", handler.partition(":")[0])
    return Manifest(
        name=name,
        version=version,
        handler=handler,
        serialized_file=_file(model, "serializedFile"),
        model_file=_file(model, "modelFile"),
        requirements_file=_file(model, "requirementsFile"),
        config_file=_file(model, "configFile"),
        runtime=_text(raw, "runtime") or "python",
        raw=raw,
    )


def _text(owner: dict[str, Any], key: str) -> str | None:
    value = owner.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidArchive(f"{key!r} in MANIFEST.json must be a string, it is a {type(value).__name__}")
    return value or None


def _file(model: dict[str, Any], key: str) -> str | None:
    name = _text(model, key)
    return None if name is None else _inside(key, name)


def _inside(key: str, name: str) -> str:
    """`name`, if it is a relative path that stays in its folder on every system."""
    if "\0" in name or "\\" in name or ":" in name or {"", ".", ".."} & set(name.split("/")):
        raise InvalidArchive(
            f"{key!r} in MANIFEST.json names {name!r:.120}: it must be a plain relative name inside the archive"
        )
    return name
