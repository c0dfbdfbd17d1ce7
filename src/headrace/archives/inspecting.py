"""What is in an archive, without unpacking it: its manifest, and each file with its size.

The same reader as for unpacking, with the same refusals; what is damaged is found here as well.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from headrace.archives.archive import MANIFEST, MAX_TEXT, OLD_MANIFEST, check_links
from headrace.archives.entries import DEFAULT_BOUNDS, Bounds
from headrace.archives.manifest import Manifest, parse_manifest
from headrace.archives.packed import members
from headrace.errors import InvalidArchive


@dataclass(frozen=True)
class Found:
    """`kind`: `zip`, `tar.gz` or `folder`. `manifest`: None where there is none. `files`: name and bytes of each."""

    kind: str
    manifest: Manifest | None
    files: tuple[tuple[str, int], ...]

    @property
    def nbytes(self) -> int:
        return sum(nbytes for _, nbytes in self.files)


def inspect(path: str | os.PathLike[str], bounds: Bounds = DEFAULT_BOUNDS) -> Found:
    """Raises InvalidArchive, and its like, as `open_archive` would."""
    path = Path(path)
    if not path.exists():
        raise InvalidArchive(f"no such archive: {path}")
    sizes: dict[tuple[str, ...], int] = {}
    manifests: dict[tuple[str, ...], bytes] = {}
    kind = "folder" if path.is_dir() else "tar.gz"
    if path.is_dir():
        check_links(path.resolve())
        for file in (file for file in path.rglob("*") if file.is_file()):
            parts = file.relative_to(path).parts
            sizes[parts] = file.stat().st_size
            if _is_manifest(parts):
                manifests[parts] = file.read_bytes()[:MAX_TEXT]
    else:
        try:
            with path.open("rb") as opened:
                kind = "zip" if opened.read(2) == b"PK" else "tar.gz"
                for member in members(opened, str(path), bounds):
                    if member.folder:
                        continue
                    sizes[member.parts], kept = 0, bytearray()
                    for chunk in member.chunks:
                        sizes[member.parts] += len(chunk)
                        if _is_manifest(member.parts) and len(kept) < MAX_TEXT:
                            kept += chunk
                    if _is_manifest(member.parts):
                        manifests[member.parts] = bytes(kept)
        except OSError as error:
            raise InvalidArchive(f"{path} cannot be read: {error.strerror or error}") from error
    where = min(manifests, key=_rank, default=None)
    return Found(
        kind,
        None if where is None else parse_manifest(manifests[where], legacy=_rank(where)[1]),
        tuple(sorted(("/".join(parts), size) for parts, size in sizes.items())),
    )


def _rank(parts: tuple[str, ...]) -> tuple[int, bool]:
    """What the archive's reader looks at first: how deep the folder is that has the manifest; whether it is of 0.4."""
    legacy = parts[-2:] != MANIFEST.parts
    return len(parts) - (1 if legacy else 2), legacy


def _is_manifest(parts: tuple[str, ...]) -> bool:
    return parts[-1:] == OLD_MANIFEST.parts and _rank(parts)[0] <= 1
