"""Writing archives: which files of the user's go where in one, and the file or folder it becomes.

Rule 1: whoever reads sees the old archive or the new one, whole. It is written beside its place and renamed into it.
Rule 2: nothing is overwritten unless asked for, and never what is being packed.
Rule 3: with SOURCE_DATE_EPOCH set, the same files give the same bytes.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import os
import secrets
import shutil
import stat
import tarfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from headrace.archives.archive import MANIFEST
from headrace.archives.declaration import FORMATS, OURS, handler_file, is_left_out, text_of
from headrace.errors import InvalidArchive, InvalidOption

_WILD = "*?["
_OLDEST = 315532800  # 1980-01-01, which is where the time of a zip entry begins


@dataclass
class Contents:
    """What goes into one archive: names in it, with slashes, and the files they are made of."""

    files: dict[str, Path] = field(default_factory=dict)

    def add(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """One file, at the top unless `name` says where. InvalidOption if it is none; InvalidArchive if its place is
        taken by another one."""
        path = Path(path)
        if not path.is_file():
            raise InvalidOption(f"{path} is no file; give one that exists")
        name = name or path.name
        before = self.files.setdefault(name, path)
        if before.resolve() != path.resolve():
            raise InvalidArchive(f"{before} and {path} would both be {name} in the archive; rename one")

    def add_folder(
        self,
        folder: Path,
        *,
        without: frozenset[str] = frozenset(),
        endings: tuple[str, ...] = (),
        besides: Path | None = None,
    ) -> None:
        """What is in a folder, as it lies there, but what `is_left_out`, files called as one `without` or that end with
        one of `endings`, and the folder or file `besides`."""
        for parent, folders, files in os.walk(folder):
            inside = Path(parent).relative_to(folder)
            for name in [*folders]:
                # A link to a folder is followed by none of the readers; a file that is one is packed as what it is.
                if Path(parent, name).is_symlink() and not is_left_out((*inside.parts, name, "x")):
                    raise InvalidArchive(
                        f"{Path(parent, name)} is a link to a folder; put the folder there, or remove it"
                    )
            folders[:] = sorted(f for f in folders if not is_left_out((f, "x")) and Path(parent, f) != besides)
            for name in sorted(files):
                path = Path(parent, name)
                unwanted = is_left_out((name,)) or name in without or name.endswith(endings or "\0")
                if not unwanted and path != besides:
                    self.add(path, (inside / name).as_posix())

    def add_extra(self, words: str) -> None:
        """`--extra-files`: comma-separated files, folders (what is in them goes to the top) and patterns."""
        for word in filter(None, (word.strip() for word in words.split(","))):
            wild = any(character in word for character in _WILD) and not os.path.exists(word)
            found = sorted(glob.glob(word)) if wild else [word]
            if not found:
                raise InvalidOption(f"--extra-files {word}: nothing is called so")
            for one in found:
                name, is_folder = os.path.basename(one), os.path.isdir(one)
                if wild and is_left_out((name, "x") if is_folder else (name,)):
                    continue  # nobody has asked for it by name
                if is_folder:
                    self.add_folder(Path(one))
                else:
                    self.add(one)

    def add_handler(self, handler: str, runtime: str = "python") -> None:
        """The file of a handler, unless it is a built-in one."""
        file = handler_file(handler, runtime)
        if file is None:
            return
        if not Path(file).is_file():
            if handler in OURS:
                return
            raise InvalidOption(f"--handler {handler}: there is no {file}, and no built-in handler is called so")
        self.add(file)


def created_now() -> datetime:
    """When an archive says it was made: now, here; or what SOURCE_DATE_EPOCH says, in UTC."""
    epoch = _epoch()
    return datetime.now() if epoch is None else datetime.fromtimestamp(epoch, UTC)


def target_of(name: str, archive_format: str, export_path: str | os.PathLike[str], *, force: bool) -> Path:
    """Where the archive will be. InvalidOption if that cannot be, or if something is there and `force` is not said."""
    folder = Path(export_path)
    if not folder.is_dir():
        raise InvalidOption(f"--export-path {folder} is not a folder")
    target = folder.absolute() / (name + FORMATS[archive_format])
    if os.path.lexists(target) and not force:
        raise InvalidOption(f"{target} already exists. Please specify --force/-f option to overwrite it.")
    return target


def write_archive(
    target: Path, name: str, contents: Contents, manifest: dict[str, Any], archive_format: str, *, force: bool = False
) -> None:
    """The archive at `target`, which `target_of` gave. InvalidArchive if it cannot be written; then nothing is."""
    if any(Path(part).parts[0].lower() == "mar-inf" for part in contents.files):
        raise InvalidArchive("MAR-INF is the archive's own folder; take it out of what is packed")
    text = text_of(manifest).encode()
    try:
        if archive_format == "no-archive":
            _write_folder(target, contents, text, force=force)
            return
        with _beside(target, force=force) as beside:
            if archive_format == "tgz":
                _write_tar(beside, name, contents, text)
            else:
                stored = archive_format == "zip-store"
                _write_zip(beside, contents, text, zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)
    except OSError as error:
        raise InvalidArchive(f"{target} cannot be written: {error.strerror or error}") from error


def _beside_name(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(6)}")


@contextlib.contextmanager
def _beside(target: Path, *, force: bool) -> Iterator[Path]:
    beside = _beside_name(target)
    beside.open("xb").close()
    try:
        yield beside
        if force:
            os.replace(beside, target)
            return
        try:
            os.link(beside, target)  # which does not overwrite what has come meanwhile
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if os.path.lexists(target):
                raise
            os.rename(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def _write_folder(target: Path, contents: Contents, text: bytes, *, force: bool) -> None:
    inside = [path for path in contents.files.values() if path.resolve().is_relative_to(target.resolve())]
    if inside:
        if len(inside) == len(contents.files) and all(
            (target / name).resolve() == path.resolve() for name, path in contents.files.items()
        ):
            _write_manifest(target, text)  # the model's folder is the archive's
            return
        raise InvalidOption(
            f"{inside[0]} is packed and lies in {target}, which would be replaced; choose another place"
        )
    beside = _beside_name(target)
    beside.mkdir()
    try:
        for name, path in contents.files.items():
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, beside / name)
        _write_manifest(beside, text)
        if force and os.path.lexists(target):
            _exchange(beside, target)
        else:
            os.rename(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _exchange(beside: Path, target: Path) -> None:
    """Two steps: there is no one that replaces a folder. What was there comes back if the second fails."""
    if target.is_symlink() or not target.is_dir():
        target.unlink()
        os.rename(beside, target)
        return
    old = _beside_name(target)
    os.rename(target, old)
    try:
        os.rename(beside, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write_manifest(folder: Path, text: bytes) -> None:
    (folder / MANIFEST).parent.mkdir(exist_ok=True)
    beside = (folder / MANIFEST).with_name(".MANIFEST.json")
    beside.write_bytes(text)
    os.replace(beside, folder / MANIFEST)


def _write_zip(path: Path, contents: Contents, text: bytes, method: int) -> None:
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, source in sorted(contents.files.items()):
            status = source.stat()
            info = _zip_entry(name, status.st_mtime, method, status.st_mode)
            info.file_size = status.st_size  # so that it knows whether it needs the fields for large files
            with source.open("rb") as file, packed.open(info, "w") as out:
                shutil.copyfileobj(file, out, 1 << 20)
        packed.writestr(_zip_entry(MANIFEST.as_posix(), time.time(), method, 0o644), text)


def _zip_entry(name: str, modified: float, method: int, mode: int) -> zipfile.ZipInfo:
    epoch = _epoch()
    when = time.gmtime(max(epoch, _OLDEST)) if epoch is not None else time.localtime(max(modified, _OLDEST + 86400))
    info = zipfile.ZipInfo(name, when[:6])
    info.compress_type, info.create_system = method, 3
    info.external_attr = (stat.S_IFREG | _mode(mode)) << 16
    return info


def _write_tar(path: Path, name: str, contents: Contents, text: bytes) -> None:
    epoch = _epoch()
    with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=epoch or int(time.time())) as deflated:
        with tarfile.open(fileobj=deflated, mode="w", format=tarfile.PAX_FORMAT) as packed:
            for inside, source in sorted(contents.files.items()):
                with source.open("rb") as opened:
                    status = os.fstat(opened.fileno())
                    info = _tar_entry(f"{name}/{inside}", status.st_size, status.st_mtime, status.st_mode)
                    packed.addfile(info, opened)
            packed.addfile(_tar_entry(f"{name}/{MANIFEST.as_posix()}", len(text), time.time(), 0o644), BytesIO(text))


def _tar_entry(name: str, size: int, modified: float, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    epoch = _epoch()
    info.size, info.mode, info.mtime = size, _mode(mode), int(modified) if epoch is None else epoch
    return info


def _mode(mode: int) -> int:
    return 0o755 if mode & 0o100 else 0o644


def _epoch() -> int | None:
    said = os.environ.get("SOURCE_DATE_EPOCH")
    if not said:
        return None
    if not said.isascii() or not said.isdigit() or int(said[:20]) >= 1 << 32:
        raise InvalidOption(f"SOURCE_DATE_EPOCH is seconds since 1970, not {said!r:.60}")
    return int(said)
