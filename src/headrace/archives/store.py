"""The model store: a folder, or any place fsspec knows, in which models are found by name; and what URLs bring.

Rule 1: a name is of a file or folder directly inside the store. Nothing is ever written into the store.
Rule 2: a local model is used where it is. What was fetched lies in the cache while it is in use, and then goes.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from headrace.archives.archive import default_cache, is_archive
from headrace.archives.cache import Cache, Lease
from headrace.archives.download import DownloadLimits, check_sha256, fetch, open_place
from headrace.archives.location import AllowList, Location, locate, name_in_store, shown
from headrace.archives.packed import PACKED
from headrace.errors import InvalidOption, SourceNotFound

MODEL_FILES = (".onnx",)
"""Plain model files that are served as they are. TorchScript and `.pt2` are for the handlers that need no code."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is on this machine, until `close`."""

    path: Path
    lease: Lease | None = None

    def close(self) -> None:
        if self.lease is not None:
            self.lease.close()


class Store:
    """`root`: a folder, a URL, or None: no store. `allowed`: patterns of the URLs that may be fetched; by default none.

    The store itself is the operator's choice and needs no pattern. Raises InvalidOption.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        allowed: Sequence[str] = (),
        limits: DownloadLimits | None = None,
        cache: Cache | None = None,
    ) -> None:
        self._allowed = AllowList(allowed)
        self._limits = limits or DownloadLimits()
        self._cache = cache
        self.folder: Path | None = None
        """Of a store that is one; absolute."""
        self._url: str | None = None
        if root is None:
            return
        text = os.fspath(root)
        if "://" in text:
            if text.lower().startswith(("http://", "https://")):
                raise InvalidOption(f"--model-store {shown(text)}: http cannot list; give the models by their URLs")
            self._url = text.rstrip("/")
        else:
            self.folder = Path(root).absolute()
            if not self.folder.is_dir():
                raise InvalidOption(f"--model-store {text} is not a folder")

    def __str__(self) -> str:
        return str(self.folder) if self.folder is not None else shown(self._url or "no model store")

    @property
    def is_configured(self) -> bool:
        return self.folder is not None or self._url is not None

    def names(self) -> list[str]:
        """What can be served of the store, by name. OSError where it cannot be listed."""
        if self.folder is not None:
            return sorted(entry.name for entry in self.folder.iterdir() if _is_model(entry))
        system, path = self._system()
        try:
            listed = system.ls(path, detail=True)
        except OSError:
            raise
        except Exception as error:  # each implementation has errors of its own
            raise OSError(f"{type(error).__name__}: {error}") from error
        found = {entry["name"].rstrip("/").rpartition("/")[2]: entry["type"] for entry in listed}
        return sorted(
            name
            for name, kind in found.items()
            if not name.startswith(".")
            and ((kind == "directory" and self._has_manifest(name)) or name.endswith((*PACKED, *MODEL_FILES)))
        )

    def find(self, source: str) -> Place:
        """The model called so in the store, or at that URL, which is fetched. Close it when it is used no more.

        Raises SourceNotFound, UrlNotAllowed, DownloadFailed, with the messages of the servers before us.
        """
        location = locate(source)
        if location.scheme == "file":
            self._allowed.check(location)
            return self._checked(self._local(location), location)
        if location.scheme is not None:
            return self._fetched(location, self._allowed)
        if not self.is_configured:
            raise SourceNotFound("Model store has not been configured.", source)
        name = name_in_store(location)
        if self.folder is not None:
            path = self.folder / name
            if not _exists(path):
                raise SourceNotFound(f"Model not found in model store: {location.url}", source)
            return self._checked(path, location)
        return self._fetched(Location(f"{self._url}/{name}", name, "store", location.sha256), None)

    def _checked(self, path: Path, location: Location) -> Place:
        if location.sha256 is not None:
            check_sha256(path, location)
        return Place(path)

    def _local(self, location: Location) -> Path:
        parts = urlsplit(location.url)
        path = Path(unquote(parts.path))
        if parts.netloc not in ("", "localhost") or not _exists(path):
            raise SourceNotFound(f"Model not found at: {location.shown}", location.url)
        return path

    def _fetched(self, location: Location, allowed: AllowList | None) -> Place:
        if allowed is not None:
            allowed.check(location)  # before anything is made for it
        cache = self._cache or default_cache()
        lease = cache.hold(f"fetched-{uuid.uuid4().hex}", lambda folder: fetch(location, folder, allowed, self._limits))
        return Place(lease.folder / location.name, lease)

    def _system(self) -> tuple[Any, str]:
        if self._url is None:
            raise SourceNotFound("Model store has not been configured.", "all")
        return open_place(self._url, lambda why: InvalidOption(f"--model-store {self}: {why}"))

    def _has_manifest(self, name: str) -> bool:
        system, path = self._system()
        return any(
            system.exists(f"{path}/{name}/{manifest}") for manifest in ("MAR-INF/MANIFEST.json", "MANIFEST.json")
        )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def _is_model(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return path.is_file() if path.suffix in MODEL_FILES else is_archive(path)
