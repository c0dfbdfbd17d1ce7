"""An archive on disk: a folder with `MAR-INF/MANIFEST.json`, the model's files, its labels and its settings.

Rule 1: nothing in an archive leads out of its folder: no name in the manifest, no symbolic link.
Rule 2: opening reads and checks; it runs no code from the archive and changes nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

from headrace.archives.manifest import Manifest, parse_manifest
from headrace.errors import InvalidArchive

MANIFEST = Path("MAR-INF") / "MANIFEST.json"
LABELS = "index_to_name.json"
_PACKED = (".mar", ".tar.gz", ".tgz")


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive that has been checked. `folder` is absolute, without links, and holds `MAR-INF`.

    `labels`: class index, as text, to name; None if the archive has none. `config`: the model's YAML, {} without one.
    """

    folder: Path
    manifest: Manifest
    labels: dict[str, str] | None
    config: dict[str, object]


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is for `open_archive`: a folder with a manifest. A packed one too: its message helps."""
    path = Path(path)
    return _home(path) is not None if path.is_dir() else path.is_file() and path.name.endswith(_PACKED)


def open_archive(path: str | os.PathLike[str]) -> Archive:
    """The archive in a folder, or in the only folder inside that folder. InvalidArchive says what is wrong with it."""
    path = Path(path)
    if not path.exists():
        raise InvalidArchive(f"no such archive: {path}")
    if not path.is_dir():
        _refuse_file(path)
    root = path.resolve()
    _check_links(root)
    folder = _home(root)
    if folder is None:
        raise InvalidArchive(f"{path} is no archive: it has no {MANIFEST}")
    manifest = parse_manifest(_read(folder / MANIFEST))
    for name in (manifest.serialized_file, manifest.model_file, manifest.requirements_file, manifest.config_file):
        if name is not None and not (folder / name).is_file():
            raise InvalidArchive(f"the manifest names {name!r}, but there is no such file in {folder}")
    return Archive(
        folder=folder,
        manifest=manifest,
        labels=_labels(folder / LABELS) if (folder / LABELS).is_file() else None,
        config=_config(folder / manifest.config_file) if manifest.config_file is not None else {},
    )


def _refuse_file(path: Path) -> None:
    if path.name.endswith(".mar"):
        unpack = f"python -m zipfile -e {path} FOLDER"
    elif path.name.endswith(_PACKED):
        unpack = f"mkdir FOLDER && tar -xzf {path} -C FOLDER"
    else:
        raise InvalidArchive(f"{path} is no archive: a folder with {MANIFEST} was expected")
    raise InvalidArchive(f"this version reads unpacked archive folders, {path} is packed; unpack it with: {unpack}")


def _home(path: Path) -> Path | None:
    """The folder that holds the manifest: `path`, or the only folder in it."""
    if (path / MANIFEST).is_file():
        return path
    try:
        inside = [entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    except OSError:
        return None
    return inside[0] if len(inside) == 1 and (inside[0] / MANIFEST).is_file() else None


def _check_links(root: Path) -> None:
    def unreadable(error: OSError) -> None:
        raise InvalidArchive(f"{error.filename} cannot be read: {error.strerror}") from error

    for parent, folders, files in os.walk(root, onerror=unreadable):
        for link in (Path(parent, name) for name in (*folders, *files)):
            if not link.is_symlink():
                continue
            try:
                inside = link.resolve().is_relative_to(root)
            except (OSError, RuntimeError):  # a circle of links
                inside = False
            if not inside:
                raise InvalidArchive(f"{link} is a symbolic link that leads out of the archive")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArchive(f"{path} cannot be read: {error.strerror}") from error


def _labels(path: Path) -> dict[str, str]:
    """{"0": "cat"}; TorchServe also has {"0": ["n02123045", "cat"]} and {"object_type_names": ["cat", "dog"]}."""
    try:
        found: Any = orjson.loads(_read(path))
    except orjson.JSONDecodeError as error:
        raise InvalidArchive(f"{path} is not JSON: {error}") from error
    if isinstance(found, dict) and isinstance(names := found.get("object_type_names"), list):
        found = {str(index): name for index, name in enumerate(names)}
    if not isinstance(found, dict):
        raise InvalidArchive(f"{path} must be a JSON object of class indices and their names")
    labels: dict[str, str] = {}
    for index, label in found.items():
        if isinstance(label, list) and label:
            label = label[-1]
        if not isinstance(label, str):
            raise InvalidArchive(
                f"{path}: the name of class {index!r:.60} must be a string, it is a {type(label).__name__}"
            )
        labels[index] = label
    return labels


def _config(path: Path) -> dict[str, object]:
    try:
        found = yaml.safe_load(_read(path))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InvalidArchive(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise InvalidArchive(f"{path} must be a YAML mapping with text for keys")
    return found
