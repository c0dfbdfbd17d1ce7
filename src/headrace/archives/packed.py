"""Packed archives: zip (`.mar`, `.model`) and gzipped tar (`.tar.gz`, `.tgz`), read as a stream of entries.

Rule 1: no entry is given out before `entries` has found it harmless; of a zip, whose list is at its end, before all of
        them are.
Rule 2: plain files and folders only: no link, device, fifo or hole; nothing encrypted. A zip is stored or deflated.
Rule 3: memory stays small whatever a header says: no single read of what it announces is larger than is allowed.
Rule 4: what the file is decides its content, not its name.
Rule 5: a gzipped tar is read to its end, where its checksum is: what is damaged or cut is never taken for whole.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from headrace.archives.entries import DEFAULT_BOUNDS, Bounds, Tally, parts_of
from headrace.errors import ArchiveTooLarge, InvalidArchive, UnsafeArchive

PACKED = (".mar", ".tar.gz", ".tgz", ".model")
"""The endings of packed archives; `.model` is MMS 0.4's."""
CHUNK = 1 << 18
_MAX_HEADER = 1 << 20
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, UnicodeError, struct.error)


@dataclass(frozen=True, slots=True)
class Member:
    """One entry. `chunks` is to be used up before the next entry is asked for; a folder has none."""

    parts: tuple[str, ...]
    folder: bool
    chunks: Iterator[bytes]


def members(file: IO[bytes], archive: str, bounds: Bounds = DEFAULT_BOUNDS) -> Iterator[Member]:
    """The entries of the packed archive in `file`, which errors call `archive`. Raises InvalidArchive and its like."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    magic = file.read(4)
    file.seek(0)
    tally = Tally(archive, size, bounds)
    if magic[:2] == b"\x1f\x8b":
        found = _of_tar(file, archive, tally)
    elif magic in (b"PK\x03\x04", b"PK\x05\x06"):
        found = _of_zip(file, archive, tally, bounds)
    else:
        kind = "is empty" if not size else "is neither a zip file nor a gzipped tar file"
        raise InvalidArchive(f"{archive} {kind}; archives are made with: headrace archive")
    with _explained(archive):
        yield from found


@contextlib.contextmanager
def _explained(archive: str) -> Iterator[None]:
    """What the libraries raise of what is in the file becomes InvalidArchive."""
    try:
        yield
    except InvalidArchive:
        raise
    except _BROKEN as error:
        raise InvalidArchive(f"{archive} is damaged, or was cut short: {error}") from error
    except (NotImplementedError, RuntimeError, ValueError, OverflowError, OSError) as error:
        raise InvalidArchive(f"{archive} cannot be unpacked: {error}") from error


def unpack(file: IO[bytes], archive: str, into: Path, bounds: Bounds = DEFAULT_BOUNDS) -> None:
    """Every entry as a file below `into`, an empty folder. What was written stays if it fails: `into` is to be removed.

    Files are the owner's alone and not executable. InvalidArchive also where the disk is full.
    """
    empty = True
    try:
        for member in members(file, archive, bounds):
            target = into.joinpath(*member.parts)
            if member.folder:
                target.mkdir(0o700, parents=True, exist_ok=True)
                continue
            empty = False
            target.parent.mkdir(0o700, parents=True, exist_ok=True)
            # O_EXCL: nothing is ever written through something that is there already.
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as out:
                for chunk in member.chunks:
                    out.write(chunk)
    except OSError as error:
        raise InvalidArchive(f"{archive} cannot be unpacked into {into}: {error.strerror or error}") from error
    if empty:
        raise InvalidArchive(f"{archive} has no files in it")


def _counted(source: IO[bytes], tally: Tally, archive: str) -> Iterator[bytes]:
    with _explained(archive):
        while chunk := source.read(CHUNK):
            tally.came(len(chunk))
            yield chunk


def _of_zip(file: IO[bytes], archive: str, tally: Tally, bounds: Bounds) -> Iterator[Member]:
    guarded = cast(IO[bytes], _Guarded(file, archive, bounds.max_listing))
    with zipfile.ZipFile(guarded) as packed:
        # Its list is at its end: all of it is judged before anything is given out.
        listed = [(info, _listed(info, archive, tally)) for info in packed.infolist()]
        for info, parts in listed:
            if info.orig_filename.endswith("/"):
                if parts:  # else the top folder itself
                    yield Member(parts, True, iter(()))
                continue
            with packed.open(info) as source:
                yield Member(parts, False, _counted(source, tally, archive))


def _listed(info: zipfile.ZipInfo, archive: str, tally: Tally) -> tuple[str, ...]:
    """The name of an entry that a zip lists, in its parts; ArchiveTooLarge for one too many."""
    name = info.orig_filename  # `filename` ends at a NUL; this is what other tools read
    parts, folder = parts_of(name, archive), name.endswith("/")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if stat.S_ISLNK(kind):
        raise UnsafeArchive(f"{archive}: the entry {name!r:.200} is a symbolic link; archives have none")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UnsafeArchive(f"{archive}: the entry {name!r:.200} is a device, a socket or a fifo")
    if info.flag_bits & 0x41:
        raise UnsafeArchive(f"{archive}: the entry {name!r:.200} is encrypted; nobody here has the password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidArchive(
            f"{archive}: the entry {name!r:.200} is compressed by method {info.compress_type}; stored and deflated "
            "ones are read"
        )
    if parts:
        tally.enter(parts, folder=folder)
    elif not folder:
        raise UnsafeArchive(f"{archive}: there is an entry without a name")
    return parts


def _of_tar(file: IO[bytes], archive: str, tally: Tally) -> Iterator[Member]:
    with gzip.GzipFile(fileobj=file, mode="rb") as inflated:
        forward = _Forward(inflated, archive, tally)
        with tarfile.open(fileobj=cast(IO[bytes], forward), mode="r:", encoding="utf-8", errors="strict") as packed:
            while (info := packed.next()) is not None:
                packed.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                parts, name = parts_of(info.name, archive), info.name
                if info.issym() or info.islnk():
                    raise UnsafeArchive(f"{archive}: the entry {name!r:.200} is a link; archives have none")
                if info.issparse():
                    raise UnsafeArchive(f"{archive}: the entry {name!r:.200} has holes; archives have plain files")
                if not (info.isreg() or info.isdir()):
                    raise UnsafeArchive(f"{archive}: the entry {name!r:.200} is a device, a fifo or of an unknown kind")
                if not parts:
                    if info.isdir():
                        continue
                    raise UnsafeArchive(f"{archive}: there is an entry without a name")
                tally.enter(parts, folder=info.isdir())
                source = None if info.isdir() else packed.extractfile(info)
                if source is None:
                    yield Member(parts, True, iter(()))
                    continue
                with source:
                    yield Member(parts, False, _pieces(source, info.size, archive))
            # tarfile ends at the first block that is no header, whatever it is; gzip looks at its checksum at its end.
            rest = forward.last_read
            while rest:
                if rest.strip(b"\0"):
                    raise InvalidArchive(f"{archive} is damaged: behind its last entry there is something that is none")
                rest = forward.read(CHUNK)


def _pieces(source: IO[bytes], size: int, archive: str) -> Iterator[bytes]:
    """What `_Forward` has counted already; short of what its header says, it was cut."""
    with _explained(archive):
        while chunk := source.read(CHUNK):
            size -= len(chunk)
            yield chunk
    if size:
        raise InvalidArchive(f"{archive} is damaged, or was cut short: {size:,} bytes of a file are missing")


class _Guarded:
    """A file whose single reads are bounded: a zip's list of files is read at once, however long it says it is."""

    def __init__(self, file: IO[bytes], archive: str, limit: int) -> None:
        self._file, self._archive, self._limit = file, archive, limit
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        found = self._file.read(self._limit + 1 if size < 0 or size > self._limit else size)
        if len(found) > self._limit:
            raise ArchiveTooLarge(
                self._archive, limit=self._limit, unit="bytes of names", mend="--max-archive-files allows more."
            )
        return found


class _Forward:
    """An inflated stream that tarfile can read as a file: forwards, and one byte back. Counts all that comes out."""

    def __init__(self, inflated: gzip.GzipFile, archive: str, tally: Tally) -> None:
        self._inflated, self._archive, self._tally = inflated, archive, tally
        self._position = 0
        self._last = self._again = b""
        self.last_read = b""

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = 0) -> int:
        if whence or position < self._position - 1:
            raise InvalidArchive(f"{self._archive} is damaged: an entry begins before the end of another")
        if position == self._position - 1:
            # Where the next header should begin, tarfile looks at the byte before: was the stream cut?
            self._position, self._again = position, self._last
        while position > self._position and self.read(min(position - self._position, CHUNK)):
            pass
        return self._position

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _MAX_HEADER:
            raise ArchiveTooLarge(
                self._archive, limit=_MAX_HEADER, unit="bytes in one header", mend="No archiver writes such headers."
            )
        if not size:
            return b""
        found, self._again = self._again, b""
        if size > len(found):
            came = self._inflated.read(size - len(found))
            self._tally.came(len(came))
            found += came
        self._position += len(found)
        self._last = found[-1:] or self._last
        self.last_read = found
        return found
