"""What workers print, in our log: how much of it, and how it is fetched."""

import logging
import os
import threading
import time
from types import SimpleNamespace
from typing import BinaryIO

import pytest

from headrace.workers import output
from headrace.workers.output import BURST, Allowance, Output

PATIENCE = 60.0


def pipe() -> tuple[BinaryIO, int]:
    reading, writing = os.pipe()
    return open(reading, "rb", buffering=0), writing


def pipe_with(data: bytes) -> BinaryIO:
    reading, writing = pipe()
    os.write(writing, data)
    os.close(writing)
    return reading


def test_a_flood_of_lines_is_let_through_at_a_rate_and_counted() -> None:
    allowance = Allowance(0.0, rate=10, burst=5)
    assert [allowance.take(3, 0.0), allowance.take(97, 0.0)] == [3, 2]
    assert allowance.is_used_up
    assert allowance.take_lost() == 95
    assert allowance.take(100, 1.0) == 5  # never more than at once
    assert allowance.take_lost() == 95
    assert allowance.take_lost() == 0


def test_what_a_terminal_would_obey_is_escaped_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    out = pipe_with(b"\x1eid-1\x1e\x1b[2Jgone\0\tbell\x07\n\x1eno mark\n" + "é\x9b2J\x7f\n".encode())
    with caplog.at_level(logging.INFO, "headrace.workers"):
        output = Output((out, pipe_with(b"\x1eid-2\x1eWhy\x1b\n")), "m", "worker 1")
        output.close(60)
    said = {(record.getMessage(), record.__dict__["request_id"]) for record in caplog.records}
    assert said == {
        ("worker 1: \\x1b[2Jgone\\x00\tbell\\x07", "id-1"),
        ("worker 1: \\x1eno mark", None),
        ("worker 1: é\\x9b2J\\x7f", None),
        ("worker 1: Why\\x1b", "id-2"),
    }
    assert list(output.last) == ["Why\\x1b"]


def test_a_flood_is_fetched_in_large_pieces_and_said_at_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read takes the interpreter from those who serve: a flood of single lines must not become as many reads."""
    lines = 10_000
    written, paused, said = threading.Event(), threading.Event(), threading.Event()
    reads: list[int] = []

    def read(fd: int, most: int) -> bytes:
        data = os.read(fd, most)
        if paused.is_set() and data:
            reads.append(len(data))
        return data

    def sleep(seconds: float) -> None:
        paused.set()
        assert written.wait(PATIENCE)

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "not logged" in record.getMessage():
                said.set()

    monkeypatch.setattr(output, "os", SimpleNamespace(read=read))
    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    reading, writing = pipe()
    handler, logger = Said(), logging.getLogger("headrace.workers")
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "headrace.workers"):
            reader = Output((reading, pipe_with(b"")), "m", "worker 1")
            for _ in range(lines):
                os.write(writing, b"line\n")
            written.set()
            assert said.wait(PATIENCE)  # while the pipe is open: not only once its process has ended
            os.close(writing)
            reader.close(PATIENCE)
    finally:
        logger.removeHandler(handler)
    assert len(reads) <= 2
    logged = [record.getMessage() for record in caplog.records]
    assert logged[: int(BURST)] == ["worker 1: line"] * int(BURST)
    lost = sum(int(line.split()[2].replace(",", "")) for line in logged if "not logged" in line)
    assert logged.count("worker 1: line") + lost == lines
