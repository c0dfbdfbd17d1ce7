"""What may come out of a packed archive, judged without any file."""

from __future__ import annotations

import posixpath
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.archives.entries import FREE_OF_RATIO, Bounds, Tally, parts_of
from headrace.errors import ArchiveTooLarge, InvalidArchive, UnsafeArchive

SLY = st.sampled_from(
    [
        "..",
        ".",
        "",
        "a",
        "A",
        "b",
        "C:",
        "c:x",
        "\\",
        "..\\",
        "\0",
        "~",
        "é",
        "e\u0301",
        "\n",
        "\ud800",
        " ",
        "con",
        "x" * 300,
    ]
)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a", ("a",)),
        ("a/b.py", ("a", "b.py")),
        ("./a//b/", ("a", "b")),
        ("..a/b..", ("..a", "b..")),
        ("~/.x", ("~", ".x")),
        ("ü b", ("ü b",)),
        (".", ()),
        ("", ()),
    ],
)
def test_a_plain_name_is_the_parts_it_has(name: str, parts: tuple[str, ...]) -> None:
    assert parts_of(name, "m.mar") == parts


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/etc/passwd", "absolute path"),
        ("//host/share", "absolute path"),
        ("../x", "leads out"),
        ("a/../../x", "leads out"),
        ("a/..", "leads out"),
        ("..", "leads out"),
        ("..\\x", "backslash"),
        ("a\\b", "backslash"),
        ("C:/x", "drive"),
        ("a/C:x", "drive"),
        ("x\0.py", "NUL"),
        ("a\nb", "control characters"),
        ("a\ud800", "broken text"),
        ("x" * 256, "more than 1024 bytes"),
        ("a/" * 600 + "b", "more than 1024 bytes"),
    ],
)
def test_a_name_that_could_lead_elsewhere_is_refused(name: str, why: str) -> None:
    with pytest.raises(UnsafeArchive, match=f"m.mar: the entry .*{why}"):
        parts_of(name, "m.mar")


@given(st.lists(SLY, min_size=1, max_size=6).map("/".join) | st.text(max_size=30))
def test_whatever_a_name_is_made_of_it_stays_inside_or_is_refused(name: str) -> None:
    try:
        parts = parts_of(name, "m.mar")
    except UnsafeArchive:
        return
    path = posixpath.normpath(posixpath.join("/store/m", *parts))
    assert path == "/store/m" or path.startswith("/store/m/")
    assert not {"", ".", ".."} & set(parts)
    assert not any(set(part) & set("/\\\0") or part[1:2] == ":" for part in parts)


@given(st.lists(st.tuples(st.lists(SLY, min_size=1, max_size=4).map("/".join), st.booleans()), max_size=12))
def test_no_two_entries_are_one_file_on_any_system(entries: list[tuple[str, bool]]) -> None:
    tally = Tally("m.mar", 1000)
    files: list[tuple[str, ...]] = []
    folders: set[tuple[str, ...]] = set()
    for name, folder in entries:
        try:
            parts = parts_of(name, "m.mar")
            if not parts:
                continue
            tally.enter(parts, folder=folder)
        except UnsafeArchive:
            break
        folders |= {parts[:depth] for depth in range(1, len(parts) + folder)}
        if not folder:
            files.append(parts)
    alike = [tuple(unicodedata.normalize("NFC", part).casefold() for part in parts) for parts in [*files, *folders]]
    assert len(set(alike)) == len(alike)


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([("a", False), ("a", False)], "two entries 'a'"),
        ([("a/b", False), ("a/b", False)], "two entries 'a/b'"),
        ([("a", False), ("A", False)], "differ in case or accents alone"),
        ([("a/x", False), ("A/y", False)], "differ in case"),
        ([("é", False), ("e\u0301", False)], "differ in case or accents"),
        ([("a", False), ("a/b", False)], "a file and a folder at once"),
        ([("a/b", False), ("a", False)], "a file and a folder at once"),
        ([("a", True), ("a", False)], "a file and a folder at once"),
    ],
)
def test_what_would_overwrite_another_is_refused(entries: list[tuple[str, bool]], why: str) -> None:
    tally = Tally("m.mar", 1000)
    *before, (name, folder) = entries
    for one, is_folder in before:
        tally.enter(parts_of(one, "m.mar"), folder=is_folder)
    with pytest.raises(UnsafeArchive, match=why):
        tally.enter(parts_of(name, "m.mar"), folder=folder)


def test_a_folder_may_come_twice() -> None:
    tally = Tally("m.mar", 1000)
    for name, folder in (("a", True), ("a/b", False), ("a", True), ("a/c", False)):
        tally.enter(parts_of(name, "m.mar"), folder=folder)


def test_entries_are_counted() -> None:
    tally = Tally("m.mar", 1000, Bounds(max_files=3))
    for name in "abc":
        tally.enter((name,), folder=False)
    with pytest.raises(ArchiveTooLarge, match=r"m.mar holds more than 3 files.*--max-archive-files") as raised:
        tally.enter(("d",), folder=False)
    assert (raised.value.limit, raised.value.unit) == (3, "files")
    assert isinstance(raised.value, InvalidArchive)


def test_folders_that_are_only_named_on_the_way_are_counted_too() -> None:
    tally = Tally("m.mar", 1000, Bounds(max_files=10))
    for number in range(4):
        tally.enter((*(f"{number}.{depth}" for depth in range(9)), "x"), folder=False)
    with pytest.raises(ArchiveTooLarge, match="more than 10 files"):
        tally.enter(("one more",), folder=False)


def test_bytes_are_counted_as_they_come() -> None:
    tally = Tally("m.mar", 1 << 30, Bounds(max_bytes=100))
    tally.came(60)
    tally.came(40)
    with pytest.raises(ArchiveTooLarge, match=r"more than 100 bytes.*--max-archive-size") as raised:
        tally.came(1)
    assert (raised.value.limit, raised.value.unit) == (100, "bytes")


def test_the_ratio_counts_from_where_it_can_do_harm() -> None:
    tally = Tally("m.mar", 1000, Bounds(max_ratio=10))
    tally.came(FREE_OF_RATIO)
    with pytest.raises(ArchiveTooLarge, match=r"more than 10 times its packed size.*bomb.*--max-archive-ratio"):
        tally.came(1)
    large = Tally("m.mar", FREE_OF_RATIO, Bounds(max_ratio=10))
    large.came(10 * FREE_OF_RATIO)
