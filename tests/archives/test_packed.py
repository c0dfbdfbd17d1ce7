"""Packed archives: what is read, and what is refused before any of it is written."""

from __future__ import annotations

import contextlib
import gzip
import io
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.archives.entries import FREE_OF_RATIO, Bounds
from headrace.archives.packed import members, unpack
from headrace.errors import ArchiveTooLarge, InvalidArchive, UnsafeArchive

MANY = 50 << 20
"""Bytes that no refusal may need."""


def unpacked(path: Path, bounds: Bounds | None = None) -> dict[str, bytes]:
    """What lies in a fresh folder beside `path` afterwards."""
    into = path.with_name(path.name + ".out")
    into.mkdir()
    with path.open("rb") as file:
        unpack(file, path.name, into, bounds or Bounds())
    return {p.relative_to(into).as_posix(): p.read_bytes() for p in into.rglob("*") if p.is_file()}


def zipped(path: Path, *entries: tuple[str, bytes], mode: int = 0, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in entries:
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = name
            info.external_attr, info.compress_type = mode << 16, method
            packed.writestr(info, content)
    return path


def tarred(path: Path, *entries: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            packed.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_unpacked_stored_or_deflated(tmp_path: Path, method: int) -> None:
    large = bytes(range(256)) * 4096
    path = zipped(tmp_path / "m.mar", ("a/b.bin", large), ("d/", b""), ("c", b""), method=method)
    assert unpacked(path) == {"a/b.bin": large, "c": b""}
    assert (tmp_path / "m.mar.out" / "d").is_dir()


def test_a_gzipped_tar_is_unpacked_whatever_it_is_called(tmp_path: Path) -> None:
    large = bytes(range(256)) * 4096  # a multiple of a tar's blocks: where tarfile looks one byte back
    path = tarred(tmp_path / "m.mar", ("m/a", large), ("m/b", b"x" * 511), ("m/c" + "d" * 120, b""), ("m/e", b"y"))
    assert unpacked(path) == {"m/a": large, "m/b": b"x" * 511, "m/c" + "d" * 120: b"", "m/e": b"y"}


def test_files_are_the_owners_alone_and_not_executable(tmp_path: Path) -> None:
    unpacked(zipped(tmp_path / "m.mar", ("a/b", b"x"), mode=stat.S_IFREG | 0o4777))
    assert stat.S_IMODE((tmp_path / "m.mar.out" / "a" / "b").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "m.mar.out" / "a").stat().st_mode) & 0o077 == 0


SLY_NAMES = ["/etc/x", "../x", "a/../../x", "..", "..\\x", "C:\\x", "C:x", "a\0b", "a\nb"]


@pytest.mark.parametrize("name", SLY_NAMES)
@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, make: Callable[..., Path], name: str) -> None:
    if make is tarred and "\0" in name:
        pytest.skip("a tar's names end at a NUL")
    path = make(tmp_path / "m.mar", (name, b"x"), ("fine", b"x"))
    with pytest.raises(UnsafeArchive, match=r"m\.mar: the entry"):
        unpacked(path)
    assert not [p for p in (tmp_path / "m.mar.out").rglob("*") if p.is_file()]
    assert {p.name for p in tmp_path.iterdir()} == {"m.mar", "m.mar.out"}


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["a", "a"], "two entries"),
        (["a", "A"], "differ in case"),
        (["a", "a/b"], "a file and a folder"),
        (["a/b", "./a//b"], "two entries"),
    ],
)
def test_what_overwrites_another_entry_is_refused(
    tmp_path: Path, make: Callable[..., Path], names: list[str], why: str
) -> None:
    with _no_warning():
        path = make(tmp_path / "m.mar", *((name, b"x") for name in names))
    with pytest.raises(UnsafeArchive, match=why):
        unpacked(path)


class _no_warning:
    """zipfile warns when it writes a name twice."""

    def __enter__(self) -> None:
        import warnings

        self._catch = warnings.catch_warnings()
        self._catch.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        self._catch.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        (stat.S_IFLNK | 0o777, "symbolic link"),
        (stat.S_IFCHR, "device"),
        (stat.S_IFBLK, "device"),
        (stat.S_IFIFO, "fifo"),
        (stat.S_IFSOCK, "socket"),
    ],
)
def test_a_zip_with_a_link_or_a_device_is_refused(tmp_path: Path, mode: int, why: str) -> None:
    path = zipped(tmp_path / "m.mar", ("a", b"/etc/passwd"), mode=mode)
    with pytest.raises(UnsafeArchive, match=why):
        unpacked(path)


@pytest.mark.parametrize(
    ("kind", "link", "why"),
    [
        (tarfile.SYMTYPE, "/etc/passwd", "is a link"),
        (tarfile.SYMTYPE, "inside", "is a link"),
        (tarfile.LNKTYPE, "/etc/passwd", "is a link"),
        (tarfile.CHRTYPE, "", "device"),
        (tarfile.BLKTYPE, "", "device"),
        (tarfile.FIFOTYPE, "", "fifo"),
        (b"V", "", "unknown kind"),
        (tarfile.GNUTYPE_SPARSE, "", "holes"),
    ],
)
def test_a_tar_with_a_link_or_a_device_is_refused(tmp_path: Path, kind: bytes, link: str, why: str) -> None:
    with pytest.raises(UnsafeArchive, match=why):
        unpacked(tarred(tmp_path / "m.tar.gz", ("m/a", b""), kind=kind, link=link))


def test_encrypted_and_strangely_compressed_entries_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m.mar", ("a", b"x" * 100))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UnsafeArchive, match="'a' is encrypted"):
        unpacked(path)
    with pytest.raises(InvalidArchive, match="compressed by method 12"):
        unpacked(zipped(tmp_path / "b.mar", ("a", b"x" * 100), method=zipfile.ZIP_BZIP2))


@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_bomb_is_stopped_while_it_goes_off(tmp_path: Path, make: Callable[..., Path]) -> None:
    path = make(tmp_path / "m.mar", ("a", bytes(FREE_OF_RATIO + (8 << 20))))
    with pytest.raises(ArchiveTooLarge, match="times its packed size"):
        unpacked(path)
    written = sum(p.stat().st_size for p in (tmp_path / "m.mar.out").rglob("*") if p.is_file())
    assert written <= FREE_OF_RATIO


@pytest.mark.parametrize("make", [zipped, tarred])
def test_size_and_count_are_bounded(tmp_path: Path, make: Callable[..., Path]) -> None:
    path = make(tmp_path / "m.mar", *((f"{n}", b"x" * 100) for n in range(20)))
    with pytest.raises(ArchiveTooLarge, match="more than 1,000 bytes"):
        unpacked(path, Bounds(max_bytes=1000))
    path = path.rename(tmp_path / "n.mar")
    with pytest.raises(ArchiveTooLarge, match="more than 19 files"):
        unpacked(path, Bounds(max_files=19))
    assert len(unpacked(path.rename(tmp_path / "o.mar"), Bounds(max_files=20))) == 20


@pytest.mark.parametrize(
    ("last", "bounds"),
    [("z", Bounds(max_files=20)), ("../z", Bounds()), ("A/B", Bounds())],
    ids=["many", "out", "case"],
)
def test_what_a_zips_list_shows_is_refused_before_anything_is_written(
    tmp_path: Path, last: str, bounds: Bounds
) -> None:
    path = zipped(tmp_path / "m.mar", ("a/b", b"x"), *((f"{n}", b"x") for n in range(19)), (last, b"x"))
    with pytest.raises(InvalidArchive):
        unpacked(path, bounds)
    assert list((tmp_path / "m.mar.out").iterdir()) == []


def test_a_zip_that_lies_about_its_sizes_is_measured(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m.mar", ("a", bytes(1 << 20)))
    content = path.read_bytes()
    lie = (1 << 20).to_bytes(4, "little")
    path.write_bytes(content.replace(lie, (10).to_bytes(4, "little")))
    with pytest.raises(InvalidArchive):
        unpacked(path, Bounds(max_bytes=1000))
    assert sum(p.stat().st_size for p in (tmp_path / "m.mar.out").rglob("*")) <= 1000


def memory_for(refused: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArchive):
            refused()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_tar_header_that_announces_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.tar.gz"
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 4 << 30  # a pax header, which is read at once
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(80):
            out.write(bytes(1 << 20))
    assert memory_for(lambda: unpacked(path)) < MANY


def test_a_zip_with_an_endless_list_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.mar"
    with zipfile.ZipFile(path, "w") as packed:
        for number in range(30_000):
            packed.writestr(f"{number}" + "x" * 200, b"")
    with pytest.raises(ArchiveTooLarge, match="bytes of names"):
        unpacked(path)


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, make: Callable[..., Path], share: float) -> None:
    import random

    path = make(tmp_path / "m.mar", ("m/a", random.Random(1).randbytes(100_000)), ("m/b", b"x"))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InvalidArchive, match=r"damaged, or was cut short|cannot be unpacked"):
        unpacked(path)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m.mar", ("a", b"x" * 1000), method=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(InvalidArchive, match="damaged"):
        unpacked(path)


def damaged(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-4],  # of gzip's own end
        lambda content: content[:-8] + bytes([content[-8] ^ 1]) + content[-7:],  # its checksum
        lambda content: content + b"junk",
        lambda content: content + content,
        lambda content: gzip.compress(gzip.decompress(content).rstrip(b"\0") + b"\0" * 2048 + b"x"),
        lambda content: gzip.compress(gzip.decompress(content)[:1024] + b"no header" * 512),
    ],
    ids=["cut", "checksum", "junk", "twice", "after", "no header"],
)
def test_a_gzipped_tar_is_read_to_its_end(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = damaged(tarred(tmp_path / "m.tar.gz", ("m/a", b"what is in it")), change)
    with pytest.raises(InvalidArchive, match="damaged"):
        unpacked(path)


def test_padding_behind_a_tar_is_no_damage(tmp_path: Path) -> None:
    def padded(content: bytes) -> bytes:
        return gzip.compress(gzip.decompress(content) + bytes(50_000)) + bytes(512)

    path = damaged(tarred(tmp_path / "m.tar.gz", ("m/a", b"what is in it")), padded)
    assert unpacked(path) == {"m/a": b"what is in it"}


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "is empty"), (b"hello", "neither a zip file nor a gzipped tar"), (b"\x1f\x8b", "damaged")],
)
def test_what_is_no_archive_says_so(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "m.mar").write_bytes(content)
    with pytest.raises(InvalidArchive, match=why):
        unpacked(tmp_path / "m.mar")


@pytest.mark.parametrize("make", [zipped, tarred])
def test_an_archive_without_files_is_refused(tmp_path: Path, make: Callable[..., Path]) -> None:
    with pytest.raises(InvalidArchive, match=r"no files|cut short"):
        unpacked(make(tmp_path / "m.mar"))


def test_a_folder_that_cannot_be_written_is_an_error_of_the_archive(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m.mar", ("a/b", b"x"))
    (tmp_path / "file").touch()
    with path.open("rb") as file, pytest.raises(InvalidArchive, match=r"cannot be unpacked into .*: Not a directory"):
        unpack(file, "m.mar", tmp_path / "file")


NAMES = st.lists(
    st.sampled_from(["..", ".", "", "a", "A", "b", "C:", "\\", "\0", "é", "x" * 300, "MAR-INF"]), min_size=1, max_size=4
).map("/".join)


@pytest.mark.parametrize("make", [zipped, tarred])
@given(entries=st.lists(st.tuples(NAMES, st.binary(max_size=8)), min_size=1, max_size=6), leading=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_is_ever_written_outside(
    tmp_path_factory: pytest.TempPathFactory,
    make: Callable[..., Path],
    entries: list[tuple[str, bytes]],
    leading: bool,
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    with _no_warning():
        path = make(folder / "m.mar", *((("/" if leading else "") + name, content) for name, content in entries))
    try:
        found = unpacked(path)
    except InvalidArchive:
        pass
    else:
        assert len(found) == len(entries)
    assert {p.name for p in folder.iterdir()} == {"m.mar", "m.mar.out"}


@pytest.mark.parametrize("make", [zipped, tarred])
@given(data=st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_of_any_kind_is_a_named_error_or_none(
    tmp_path_factory: pytest.TempPathFactory, make: Callable[..., Path], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    path = make(folder / "m.mar", ("m/a", b"hello" * 50), ("m/b", b"x"))
    content = bytearray(path.read_bytes())
    if make is tarred and data.draw(st.booleans()):
        content = bytearray(gzip.decompress(content))
        for where in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
            content[where] = data.draw(st.integers(0, 255))
        content = bytearray(gzip.compress(content))
    else:
        for where in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
            content[where] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with path.open("rb") as file, contextlib.suppress(InvalidArchive):
        for member in members(file, "m.mar"):
            for _ in member.chunks:
                pass
