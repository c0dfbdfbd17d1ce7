"""The log's two forms, and that a line that belongs to a request says so in both."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from headrace import log
from headrace.log import JsonFormatter, LinesHandler, TextFormatter, of_request


def record(
    message: str = "hello %s", *args: Any, error: BaseException | None = None, **extra: Any
) -> logging.LogRecord:
    logger = logging.getLogger("headrace.test")
    info = None if error is None else (type(error), error, error.__traceback__)
    return logger.makeRecord("headrace.test", logging.ERROR, "file", 1, message, args, info, extra=extra)


def raised() -> Exception:
    try:
        raise ValueError("it broke\nhere")
    except ValueError as error:
        return error


def test_json_is_one_object_on_one_line_whatever_is_in_it() -> None:
    text = JsonFormatter().format(record("a\nb \ud800 %s", "é", error=raised(), **of_request("id-1", "cat:2")))
    assert "\n" not in text
    line = json.loads(text)
    assert line["message"] == "a\nb \ud800 é"
    assert (line["level"], line["logger"], line["request_id"], line["model"]) == (
        "error", "headrace.test", "id-1", "cat:2",
    )  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert line["exception"].startswith("Traceback")
    assert "it broke\nhere" in line["exception"]


def test_json_leaves_out_what_there_is_not() -> None:
    line = json.loads(JsonFormatter().format(record("plain")))
    assert list(line) == ["time", "level", "logger", "message"]


def test_text_names_the_request_and_its_model_before_the_traceback() -> None:
    text = TextFormatter().format(record("broken", error=raised(), **of_request("id-1", "cat:2")))
    first, *rest = text.splitlines()
    assert first.endswith("ERROR headrace.test: broken [model cat:2] [request id id-1]")
    assert rest[0].startswith("Traceback")
    assert TextFormatter().format(record("plain")).endswith("headrace.test: plain")


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "1970-01-01T00:00:00.000Z"), (1.9996, "1970-01-01T00:00:01.999Z")])
def test_a_time_is_rfc_3339_with_milliseconds(seconds: float, text: str) -> None:
    assert log.timestamp(seconds) == text


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_who_logs_does_not_wait_for_a_reader_and_what_is_lost_is_said(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    handler = LinesHandler(writer)
    handler.setFormatter(JsonFormatter())
    for number in range(6000):
        handler.handle(record("%d %s", number, "x" * 500))
    assert handler.lines.dropped > 0
    os.set_blocking(reader, False)
    read = b""
    while not handler.lines.flush(0.01):
        read += os.read(reader, 1 << 20)
    handler.close()
    read += os.read(reader, 1 << 20)
    lines = [json.loads(line) for line in read.splitlines()]  # each is whole
    said = [line for line in lines if line["logger"] == "headrace.log"]
    assert [line["level"] for line in said] == ["warning"] * len(said)
    lost = sum(int(line["message"].split()[0].replace(",", "")) for line in said)
    assert lost == handler.lines.dropped == 6000 - (len(lines) - len(said))


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_line_has_an_end(formatter: logging.Formatter) -> None:
    long = ValueError("y" * 1_000_000)
    text = formatter.format(record("x" * 1_000_000, error=long))
    assert len(text) <= log.LONGEST
    if isinstance(formatter, JsonFormatter):
        assert set(json.loads(text)["message"]) == {"x"}
