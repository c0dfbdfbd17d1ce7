"""Lines that a thread writes: nobody waits for it, nothing is lost in silence, and it ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.lines import Lines
from headrace.testing import Gate

PATIENCE = 30.0


def until(met: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + PATIENCE
    while not met():
        assert time.monotonic() < give_up, what


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_what_is_put_is_in_the_file_in_its_order(tmp_path: Path) -> None:
    lines: Lines[int] = Lines(str, path=str(tmp_path / "log"), gather=0)
    for number in range(5000):
        lines.put(number)
    assert lines.close(PATIENCE)
    assert (tmp_path / "log").read_text() == "".join(f"{number}\n" for number in range(5000))
    assert (lines.written, lines.dropped) == (5000, 0)


def test_it_starts_no_thread_before_the_first_line_and_leaves_none_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    lines: Lines[str] = Lines(str, path=str(tmp_path / "log"))
    assert set(threading.enumerate()) == before
    lines.put("x")
    assert len(set(threading.enumerate()) - before) == 1
    assert lines.close(PATIENCE)
    assert set(threading.enumerate()) == before


def test_it_appends_to_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    lines: Lines[str] = Lines(str, path=str(tmp_path / "log"))
    lines.put("after")
    assert lines.close(PATIENCE)
    assert (tmp_path / "log").read_text() == "before\nafter\n"


def test_rotation_loses_nothing(tmp_path: Path) -> None:
    """The file is moved away while lines come; what comes after `reopen` is in a new one."""
    path, moved = tmp_path / "log", tmp_path / "log.1"
    lines: Lines[int] = Lines(str, path=str(path), gather=0)
    for number in range(2000):
        lines.put(number)
        if number == 1000:
            path.rename(moved)
            lines.reopen()
    assert lines.close(PATIENCE)
    both = moved.read_text() + path.read_text()
    assert [int(line) for line in both.split()] == list(range(2000))
    assert path.read_text()


def test_a_file_that_cannot_be_opened_again_is_said_and_the_old_one_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "folder"
    folder.mkdir()
    lines: Lines[str] = Lines(str, path=str(folder / "log"), gather=0, say=said.append)
    (folder / "log").rename(tmp_path / "moved")
    folder.rmdir()
    lines.reopen()
    lines.put("x")
    assert lines.close(PATIENCE)
    assert (tmp_path / "moved").read_text() == "x\n"
    assert len(said) == 1
    assert "cannot be opened again" in said[0]


def test_who_puts_never_waits_for_a_reader_and_what_is_lost_is_counted_and_said(fifo: Path) -> None:
    said: list[str] = []
    lines: Lines[str] = Lines(lambda line: line, path=str(fifo), gather=0, capacity=100, say=said.append)
    line = "x" * 999
    for _ in range(1000):
        lines.put(line)  # a pipe takes 64 KiB
    assert lines.dropped >= 1000 - 100 - 66
    assert not lines.flush(0.01)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    read = b""

    def drained() -> bool:
        nonlocal read
        read += os.read(reader, 1 << 16)
        return lines.flush(0.01)

    until(drained, "it does not go on")
    lines.put("the last")
    until(lambda: lines.flush(0.01), "it does not go on")
    assert lines.close(PATIENCE)
    read += os.read(reader, 1 << 16)
    os.close(reader)
    assert read.endswith(b"\nthe last\n")
    assert (read.count(b"\n"), lines.written + lines.dropped) == (lines.written, 1001)
    lost = sum(int(text.split()[0].replace(",", "")) for text in said)
    assert lost == lines.dropped, said


def test_it_can_be_ended_while_nobody_reads(fifo: Path) -> None:
    before = set(threading.enumerate())
    lines: Lines[str] = Lines(str, path=str(fifo), gather=0)
    for _ in range(200):
        lines.put("x" * 1000)
    assert not lines.close(0.01)
    assert set(threading.enumerate()) == before


def test_a_full_disk_is_said_once_and_counted() -> None:
    said: list[str] = []
    lines: Lines[str] = Lines(str, path="/dev/full", gather=0, say=said.append)
    for _ in range(3):
        lines.put("x")
        assert lines.flush(PATIENCE)
    assert (lines.dropped, lines.written) == (3, 0)
    assert said == ["/dev/full cannot be written: No space left on device"]
    lines.close()


def test_one_line_that_cannot_be_rendered_costs_the_others_nothing(tmp_path: Path) -> None:
    def render(line: int) -> str:
        return f"{1 / line:g}"

    lines: Lines[int] = Lines(render, path=str(tmp_path / "log"))
    for number in 1, 0, 2:
        lines.put(number)
    assert lines.close(PATIENCE)
    assert (tmp_path / "log").read_text().splitlines() == [
        "1", "a line could not be written: ZeroDivisionError: division by zero", "0.5",
    ]  # fmt: skip


def test_a_line_longer_than_a_pipe_takes_at_once_arrives_whole(fifo: Path) -> None:
    lines: Lines[str] = Lines(str, path=str(fifo), gather=0)
    reader = os.open(fifo, os.O_RDONLY)
    lines.put("y" * 200_000)
    read = b""
    while not read.endswith(b"\n"):
        read += os.read(reader, 1 << 16)
    os.close(reader)
    assert read == b"y" * 200_000 + b"\n"
    assert lines.close(PATIENCE)


def test_many_lines_wake_the_writer_once(tmp_path: Path) -> None:
    gate = Gate()
    rendered: list[int] = []

    def render(line: int) -> str:
        if not rendered:
            gate()
        rendered.append(line)
        return str(line)

    lines: Lines[int] = Lines(render, path=str(tmp_path / "log"), gather=0)
    lines.put(0)
    gate.wait()
    woken = 0
    ring = lines._bell.set

    def counting() -> None:
        nonlocal woken
        woken += 1
        ring()

    lines._bell.set = counting  # type: ignore[method-assign]
    for number in range(1, 1000):
        lines.put(number)
    gate.open()
    assert lines.flush(PATIENCE)
    assert rendered == list(range(1000))
    assert woken == 1
    assert lines.close(PATIENCE)
