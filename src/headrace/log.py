"""Logging: the standard library's, under the name `headrace`. The library adds no handler; the server does, once.

A line that belongs to a request says so: `_log.error(…, extra=of_request(id, model))`. Both formats show it. Nothing is
set per request: only one that is logged pays for it.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from headrace.lines import Lines

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
LONGEST = 64 * 1024
"""Characters of one record: what waits to be written is bounded."""


def of_request(request_id: str, model: str | None = None) -> Mapping[str, Any]:
    """The `extra` of a line that belongs to a request."""
    return {"request_id": request_id, "model": model}


def log_to_stderr(level: str, form: str = "text") -> None:
    """Have everything of `level` and above written to stderr, one line for each record, by a thread of its own."""
    formatter = JsonFormatter() if form == "json" else TextFormatter()
    handler = _handler()
    handler.setFormatter(formatter)
    root = logging.getLogger("headrace")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
    # What the event loop says of a callback that raised, in our form too.
    loop = logging.getLogger("asyncio")
    loop.handlers[:] = [handler]
    loop.setLevel("WARNING" if level != "error" else "ERROR")
    loop.propagate = False


def flush() -> None:
    """Before an end that runs no exit handlers."""
    for handler in logging.getLogger("headrace").handlers:
        handler.flush()


def lost_lines() -> int:
    """Lines of the log that were lost, because nobody took them from stderr."""
    handlers = logging.getLogger("headrace").handlers
    return sum(handler.lines.dropped for handler in handlers if isinstance(handler, LinesHandler))


def timestamp(seconds: float) -> str:
    """RFC 3339, UTC, with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class LinesHandler(logging.Handler):
    """Formats where the record is made, and has it written by a thread.

    Formatting later would keep what an exception keeps: through its traceback, the request's body.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.lines: Lines[str] = Lines(str, fd=fd, gather=0, capacity=4096, say=self._say)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.lines.put(self.format(record))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        self.lines.flush()

    def close(self) -> None:
        self.lines.close()
        super().close()

    def _say(self, what: str) -> None:
        self.lines.note(self.format(logging.makeLogRecord({"name": __name__, "levelname": "WARNING", "msg": what})))


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record)[:LONGEST]

    def formatMessage(self, record: logging.LogRecord) -> str:
        said = super().formatMessage(record)
        request_id, model = getattr(record, "request_id", None), getattr(record, "model", None)
        if model is not None:
            said += f" [model {model}]"
        return said if request_id is None else f"{said} [request id {request_id}]"


class JsonFormatter(logging.Formatter):
    """One object on one line: time, level, logger, message; request_id, model, exception where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[: LONGEST // 4],
        }
        for name in ("request_id", "model"):
            value = getattr(record, name, None)
            if value is not None:
                line[name] = value
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)[: LONGEST // 2]
        return json.dumps(line)


def _handler() -> logging.Handler:
    try:
        return LinesHandler(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # replaced by what is no file, as tests do
        return logging.StreamHandler(sys.stderr)
