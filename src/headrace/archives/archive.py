"""An archive: a folder with `MAR-INF/MANIFEST.json`, the model's files, its labels and its settings; or that, packed.

Rule 1: nothing in an archive leads out of its folder: no name in the manifest, no symbolic link.
Rule 2: opening reads and checks; it runs no code from the archive and changes nothing of it.
Rule 3: a folder is used where it is. What is packed is unpacked once for all who have it open, into a folder called
        after the digest of the file, which goes when the last of them closes it.
"""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from headrace.archives.cache import Cache, Lease
from headrace.archives.entries import DEFAULT_BOUNDS, Bounds
from headrace.archives.manifest import EMPTY, Manifest, parse_manifest
from headrace.archives.packed import PACKED, unpack
from headrace.archives.yaml_file import MAX_BYTES, parse_yaml
from headrace.errors import NO_MANIFEST, InvalidArchive

MANIFEST = Path("MAR-INF") / "MANIFEST.json"
OLD_MANIFEST = Path("MANIFEST.json")
"""Where Multi Model Server 0.4 had it."""
MAX_TEXT = 16 << 20
"""Bytes of a manifest or of labels."""
LABELS = "index_to_name.json"


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive that has been checked. `folder` is absolute, without links, and holds all of it.

    `config`: the model's YAML, {} without one. Close it when nothing of it is used any more, or use it in a `with`; the
    folder may then be gone.
    """

    folder: Path
    manifest: Manifest
    config: dict[str, object]
    lease: Lease | None = field(default=None, repr=False, compare=False)

    def labels(self) -> dict[str, str] | None:
        """Class index, as text, to name; None if the archive has none. InvalidArchive for what is not of that form:
        to a handler of the archive's own the file may mean something else, so only who needs labels asks for them."""
        file = self.folder / LABELS
        return _labels(file) if file.is_file() else None

    def close(self) -> None:
        if self.lease is not None:
            self.lease.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@functools.cache
def default_cache() -> Cache:
    """What archives are unpacked in where nobody says another place."""
    return Cache()


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether `path` looks like one for `open_archive`: a folder with a manifest, a file called as packed ones are."""
    path = Path(path)
    return _home(path) is not None if path.is_dir() else path.is_file() and path.name.endswith(PACKED)


def open_archive(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    handler: str | None = None,
    cache: Cache | None = None,
    bounds: Bounds = DEFAULT_BOUNDS,
) -> Archive:
    """The archive in a folder, in the only folder inside that folder, or packed in a file.

    `name`, `handler`: what the registration says, which goes before the manifest; an archive without a manifest needs
    the handler, and its name is the file's otherwise. InvalidArchive says what is wrong with it; of its kinds,
    UnsafeArchive: something in it would lead out of it; ArchiveTooLarge: it is beyond `bounds`.
    """
    path = Path(path)
    if not path.exists():
        raise InvalidArchive(f"no such archive: {path}")
    if path.is_dir():
        root = path.resolve()
        check_links(root)
        return _opened(path, root, name, handler, None)
    if not path.is_file():
        raise InvalidArchive(f"{path} is no archive: it is neither a file nor a folder")
    if path.suffix == ".onnx":
        raise InvalidArchive(
            f"{path} is no archive, it is a model file: serve it as it is, or pack it with an archiver"
        )
    lease = _unpacked(path, cache or default_cache(), bounds)
    try:
        return _opened(path, lease.folder, name, handler, lease)
    except BaseException:
        lease.close()
        raise


def _unpacked(path: Path, cache: Cache, bounds: Bounds) -> Lease:
    try:
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()

            def build(folder: Path) -> None:
                unpack(file, str(path), folder, bounds)
                after = os.fstat(file.fileno())
                if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                    raise InvalidArchive(f"{path} was written to while it was read; put archives in place by renaming")

            return cache.hold(digest, build)
    except OSError as error:
        raise InvalidArchive(f"{path} cannot be read: {error.strerror or error}") from error


def _opened(path: Path, root: Path, name: str | None, handler: str | None, lease: Lease | None) -> Archive:
    folder = _home(root)
    if folder is not None:
        legacy = not (folder / MANIFEST).is_file()
        file = OLD_MANIFEST if legacy else MANIFEST
        manifest = parse_manifest(_read(folder / file), legacy=legacy, where=f"{path.name}: {file}")
    elif handler is None:
        raise InvalidArchive(
            f"{path} has no {MANIFEST}: its handler must then be given when it is registered", NO_MANIFEST
        )
    else:
        folder = _only_folder(root) or root
        manifest = EMPTY.registered(name or _stem(path))
    manifest = manifest.registered(name, handler)
    for named in (manifest.serialized_file, manifest.model_file, manifest.requirements_file, manifest.config_file):
        if named is not None and not (folder / named).is_file():
            raise InvalidArchive(f"the manifest names {named!r}, but there is no such file in {path}")
    named = manifest.config_file
    return Archive(
        folder=folder,
        manifest=manifest,
        config={} if named is None else _config(folder / named, f"{path.name}: {named}"),
        lease=lease,
    )


def _stem(path: Path) -> str:
    ending = next((ending for ending in PACKED if path.name.endswith(ending)), "")
    return path.resolve().name.removesuffix(ending)


def _home(path: Path) -> Path | None:
    """The folder that holds the manifest: `path`, or the only folder in it."""
    for folder in (path, _only_folder(path)):
        if folder is not None and any((folder / manifest).is_file() for manifest in (MANIFEST, OLD_MANIFEST)):
            return folder
    return None


def _only_folder(path: Path) -> Path | None:
    try:
        inside = [entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    except OSError:
        return None
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else None


def check_links(root: Path) -> None:
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


def _read(path: Path, most: int = MAX_TEXT) -> bytes:
    try:
        with path.open("rb") as file:
            found = file.read(most + 1)
    except OSError as error:
        raise InvalidArchive(f"{path} cannot be read: {error.strerror}") from error
    if len(found) > most:
        raise InvalidArchive(f"{path} has more than {most:,} bytes; that is no manifest, list of labels or YAML")
    return found


def _labels(path: Path) -> dict[str, str]:
    """{"0": "cat"}; TorchServe also has {"0": ["n02123045", "cat"]} and {"object_type_names": ["cat", "dog"]}."""
    try:
        found: Any = orjson.loads(_read(path))
    except orjson.JSONDecodeError as error:
        raise InvalidArchive(f"{LABELS} is not JSON: {error}") from error
    if isinstance(found, dict) and isinstance(names := found.get("object_type_names"), list):
        found = {str(index): name for index, name in enumerate(names)}
    if not isinstance(found, dict):
        raise InvalidArchive(f"{LABELS} must be a JSON object of class indices and their names")
    labels: dict[str, str] = {}
    for index, label in found.items():
        if isinstance(label, list) and label:
            label = label[-1]
        if not isinstance(label, str):
            raise InvalidArchive(
                f"{LABELS}: the name of class {index!r:.60} must be a string, it is a {type(label).__name__}"
            )
        labels[index] = label
    return labels


def _config(path: Path, where: str) -> dict[str, object]:
    try:
        found = parse_yaml(_read(path, MAX_BYTES))
    except ValueError as error:
        raise InvalidArchive(f"{where} is not YAML: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise InvalidArchive(f"{where} must be a YAML mapping with text for keys")
    return found
