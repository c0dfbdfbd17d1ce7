"""The access log: a line for each request, written by a thread from a bounded queue. The event loop only hands over."""

from __future__ import annotations

import json
import logging
import sys
from typing import NamedTuple

from headrace.errors import InvalidOption
from headrace.lines import Lines
from headrace.log import timestamp

LONGEST = 1024
"""Characters of a path that are kept: what waits to be written is bounded."""
_log = logging.getLogger("headrace.server")


class Access(NamedTuple):
    time: float
    client: str | None
    method: str
    path: str
    """As it was sent, as far as that is known."""
    status: int
    bytes: int
    """Of the answer's body."""
    seconds: float
    request_id: str


def access_log(target: str, form: str) -> Lines[Access] | None:
    """`off`: None; `on`: to stdout; else to that file, opened now: InvalidOption if it cannot be."""
    if target == "off":
        return None
    render = as_json if form == "json" else as_text
    if target == "on":
        try:
            return Lines(render, fd=sys.stdout.fileno(), say=_log.warning)
        except (AttributeError, OSError, ValueError) as error:
            raise InvalidOption("--access-log on: stdout is no file here; give a file") from error
    try:
        return Lines(render, path=target, say=_log.warning)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidOption(f"--access-log {target!r:.200} cannot be written: {why}") from error


def as_text(line: Access) -> str:
    """What a client has sent is quoted: a line break in it must not make a line."""
    asked = f"{_printable(line.method)} {_printable(line.path)}"
    return (
        f'{timestamp(line.time)} {line.client or "-"} "{asked}" {line.status} {line.bytes} '
        f"{line.seconds * 1000:.3f} {line.request_id}"
    )


def as_json(line: Access) -> str:
    return json.dumps(
        {
            "time": timestamp(line.time),
            "client": line.client,
            "method": line.method,
            "path": line.path,
            "status": line.status,
            "bytes": line.bytes,
            "milliseconds": round(line.seconds * 1000, 3),
            "request_id": line.request_id,
        }
    )


def _printable(text: str) -> str:
    return json.dumps(text)[1:-1]
