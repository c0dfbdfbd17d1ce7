"""What may come out of a packed archive: names that stay in their folder, and no more than is allowed.

Rule 1: a name is judged as what any system might take it for: `\\` is a slash, `C:` a drive, `A` and `a` one file.
Rule 2: what is counted is what comes out. Sizes in headers were written by whoever made the archive.
Rule 3: no files here. Whoever unpacks asks before it writes.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from headrace.errors import ArchiveTooLarge, UnsafeArchive

GIB = 1 << 30
FREE_OF_RATIO = 64 << 20
"""Bytes below which no ratio is looked at: what is small does no harm, and an empty text packs well."""
LONGEST_NAME, LONGEST_PART = 1024, 255
"""Bytes. The second is what file systems allow."""
_LISTED = 512
"""Bytes of list that each allowed file may cost in a zip's directory, on average."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one archive may be when it is unpacked.

    `max_ratio`: how many times its packed size. Deflate can do 1,032; models, also sparse ones, stay below 100.
    """

    max_files: int = 10_000
    max_bytes: int = 16 * GIB
    max_ratio: int = 200

    @property
    def max_listing(self) -> int:
        """Bytes that the list of files may have."""
        return max(1 << 17, self.max_files * _LISTED)


DEFAULT_BOUNDS = Bounds()


def parts_of(name: str, archive: str) -> tuple[str, ...]:
    """The folders and the file an entry's name means, all inside the archive. UnsafeArchive says why it means none."""
    why = _wrong_with(name)
    if why is not None:
        raise UnsafeArchive(f"{archive}: the entry {name!r:.200} {why}; such archives are not unpacked")
    return tuple(part for part in name.split("/") if part not in ("", "."))


def _wrong_with(name: str) -> str | None:
    if "\0" in name:
        return "has a NUL in its name"
    if "\\" in name:
        return "has a backslash in its name, which is a folder's end on Windows"
    if name.startswith("/"):
        return "is an absolute path"
    parts = name.split("/")
    if ".." in parts:
        return "leads out of the archive"
    if any(part[1:2] == ":" for part in parts):
        return "names a drive"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "has control characters or broken text in its name"
    if len(name.encode()) > LONGEST_NAME or any(len(part.encode()) > LONGEST_PART for part in parts):
        return f"has a name of more than {LONGEST_NAME} bytes, or a part of more than {LONGEST_PART}"
    return None


class Tally:
    """Told what comes out of one archive; raises before there is too much of it, or the same twice."""

    def __init__(self, archive: str, packed_size: int, bounds: Bounds = DEFAULT_BOUNDS) -> None:
        self._archive, self._bounds = archive, bounds
        self._max_unpacked = max(packed_size * bounds.max_ratio, FREE_OF_RATIO)
        self._entries = self.nbytes = 0
        self._seen: dict[tuple[str, ...], tuple[tuple[str, ...], bool]] = {}

    def enter(self, parts: tuple[str, ...], *, folder: bool) -> None:
        """An entry of that name is next. A folder may come again, a file may not, nor what differs in case alone."""
        self._entries += 1
        if self._entries > self._bounds.max_files:
            raise self._too_many()
        for depth in range(1, len(parts)):
            self._claim(parts[:depth], folder=True)
        self._claim(parts, folder=folder)

    def _claim(self, parts: tuple[str, ...], *, folder: bool) -> None:
        alike = tuple(unicodedata.normalize("NFC", part).casefold() for part in parts)
        before = self._seen.get(alike)
        name = "/".join(parts)
        if before is None:
            if len(self._seen) >= 4 * self._bounds.max_files:  # with folders that are only named on the way to files
                raise self._too_many()
            self._seen[alike] = (parts, folder)
        elif before[0] != parts:
            raise UnsafeArchive(
                f"{self._archive}: the entries {'/'.join(before[0])!r:.200} and {name!r:.200} differ in case or "
                "accents alone, and are one file on many systems"
            )
        elif before[1] != folder:
            raise UnsafeArchive(f"{self._archive}: {name!r:.200} is a file and a folder at once")
        elif not folder:
            raise UnsafeArchive(f"{self._archive}: there are two entries {name!r:.200}; one would overwrite the other")

    def _too_many(self) -> ArchiveTooLarge:
        return ArchiveTooLarge(
            self._archive, limit=self._bounds.max_files, unit="files", mend="--max-archive-files allows more."
        )

    def came(self, nbytes: int) -> None:
        """So many more bytes have come out of it."""
        self.nbytes += nbytes
        if self.nbytes > self._bounds.max_bytes:
            raise ArchiveTooLarge(
                self._archive, limit=self._bounds.max_bytes, unit="bytes", mend="--max-archive-size allows more."
            )
        if self.nbytes > self._max_unpacked:
            raise ArchiveTooLarge(
                self._archive,
                limit=self._bounds.max_ratio,
                unit="times its packed size",
                mend="That is what a decompression bomb does; --max-archive-ratio allows more.",
            )
