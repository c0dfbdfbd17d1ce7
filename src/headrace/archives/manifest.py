"""What an archive says of itself: `MAR-INF/MANIFEST.json`, as TorchServe and Multi Model Server 1.x write it, and the
`MANIFEST.json` at the top that Multi Model Server 0.4 wrote, which becomes one of those.

Rule 1: text in, Manifest out; nothing is looked up on disk.
Rule 2: the files that a manifest names lie inside its folder. It was written by whoever made the archive.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from headrace.errors import NO_JSON, InvalidArchive

# What the archivers of both servers let a model be called; names end up in URLs and in folder names.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
RUNTIMES = ("python", "python2", "python3", "LSP")
"""What the archivers write; case does not matter. LSP is TorchServe's C++."""
VERSION = re.compile(r"[^\s/\x00-\x1f]+( [^\s/\x00-\x1f]+)*")


@dataclass(frozen=True, slots=True)
class Manifest:
    """`handler` is None where it must come from the registration, and so is `name`, in an archive without a manifest.

    `raw` is all that was there: None without a manifest; of the 0.4 layout, what it became.
    """

    name: str | None
    version: str
    handler: str | None
    serialized_file: str | None
    model_file: str | None
    requirements_file: str | None
    config_file: str | None
    runtime: str
    raw: dict[str, Any] | None = field(repr=False)

    def registered(self, name: str | None = None, handler: str | None = None) -> Manifest:
        """With what the registration says, which goes before what the archive says. InvalidArchive where it cannot."""
        if name is not None:
            _check_name(name)
        if handler is not None:
            handler = _handler(handler)
        return replace(self, name=name or self.name, handler=handler or self.handler)


EMPTY = Manifest(
    name=None,
    version="1",
    handler=None,
    serialized_file=None,
    model_file=None,
    requirements_file=None,
    config_file=None,
    runtime="python",
    raw=None,
)
"""Of an archive without a manifest: name and handler come from the registration."""


def parse_manifest(text: bytes | str, *, legacy: bool = False, where: str = "MANIFEST.json") -> Manifest:
    """The manifest in `text`. A model without a version has version 1: Multi Model Server's need none.

    `legacy`: it lies at the top of the archive, where Multi Model Server 0.4 had it. `where`: what it is called where
    it is no JSON.
    """
    try:
        raw = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidArchive(f"{where} is not JSON: {error}", NO_JSON) from error
    if not isinstance(raw, dict):
        raise InvalidArchive(f"MANIFEST.json must be a JSON object, it is a {type(raw).__name__}")
    if legacy and "model" not in raw:
        raw = _migrated(raw)
    model = raw.get("model")
    if model is None:
        raise InvalidArchive("Missing Model entry in manifest file.")
    if not isinstance(model, dict):
        raise InvalidArchive(f"'model' in MANIFEST.json must be an object, it is a {type(model).__name__}")
    name = _text(model, "modelName")
    if name is None:
        raise InvalidArchive("Model name is not defined.")
    _check_name(name)
    version = _version(model, text) or "1"
    if not VERSION.fullmatch(version):
        raise InvalidArchive(f"a model version cannot be {version!r}: it has slashes, or blanks at an end")
    handler = _text(model, "handler")
    if handler is not None:
        handler = _handler(handler)
    engine = raw.get("engine")
    if engine is not None and not (isinstance(engine, dict) and engine.get("engineName")):
        raise InvalidArchive("engineName is required in <engine>.")
    runtime = _text(raw, "runtime") or "python"
    if runtime.lower() not in [known.lower() for known in RUNTIMES]:
        raise InvalidArchive("Runtime is not defined or invalid.")
    return Manifest(
        name=name,
        version=version,
        handler=handler,
        serialized_file=_file(model, "serializedFile"),
        model_file=_file(model, "modelFile"),
        requirements_file=_file(model, "requirementsFile"),
        config_file=_file(model, "configFile"),
        runtime=runtime,
        raw=raw,
    )


def _migrated(old: dict[str, Any]) -> dict[str, Any]:
    """What the 0.4 layout said, in the words of 1.0. Its model has the version "snapshot", as the old server had it."""
    new: dict[str, Any] = {"runtime": "python"}
    for word, of_old in (("description", "Model-Archive-Description"), ("license", "License")):
        if old.get(of_old) is not None:
            new[word] = old[of_old]
    author = old.get("Created-By")
    if isinstance(author, dict):
        new["publisher"] = {"author": author.get("Author"), "email": author.get("Author-Email")}
    model = old.get("Model")
    if isinstance(model, dict):
        words = (
            ("modelName", "Model-Name"),
            ("description", "Description"),
            ("handler", "Service"),
            ("modelFormat", "Model-Format"),
            ("parametersFile", "Parameters"),
            ("symbolFile", "Symbol"),
        )
        new["model"] = {word: model[of_old] for word, of_old in words if model.get(of_old) is not None}
        new["model"]["modelVersion"] = "snapshot"
    new["specificationVersion"] = "1.0"
    return new


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise InvalidArchive(
            f"a model cannot be called {name!r}: letters, digits, '_', '.' and '-', the first a letter or a digit"
        )


def _handler(said: str) -> str:
    """`said`, its path inside the archive: of one that leads elsewhere the last part counts, as `model-archiver` writes
    what it was told (`./service.py:handle`, `/home/me/model/service:handle`), and its server looks at no more."""
    path, colon, function = said.partition(":")
    parts = path.split("/")
    if {"", ".", ".."} & set(parts):
        path = parts[-1]
    return _inside("handler", path) + colon + function


def _text(owner: dict[str, Any], key: str) -> str | None:
    value = owner.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidArchive(f"{key!r} in MANIFEST.json must be a string, it is a {type(value).__name__}")
    return value or None


def _version(model: dict[str, Any], text: bytes | str) -> str | None:
    """Also of a number, as both servers took it: in the digits that stand there, so that 1.10 is not 1.1."""
    if type(model.get("modelVersion")) not in (int, float):
        return _text(model, "modelVersion")
    return str(json.loads(text, parse_float=str, parse_int=str)["model"]["modelVersion"])


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
