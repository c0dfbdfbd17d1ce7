"""What a handler prints, with the id of the request it is printed for. Loaded by its path in workers.

The owner reads lines (`workers/output`); one that begins with MARK, an id and MARK again belongs to that request.
Nothing is marked while several requests are one batch: nobody knows for which of them it is printed.
"""

from __future__ import annotations

import io
import sys
from typing import Any

MARK = "\x1e"


class Printed(io.TextIOWrapper):
    """In place of `sys.stdout`. `request_id`: of the request that runs alone, or empty."""

    request_id = ""
    _begins = True

    def write(self, text: str) -> int:
        marked = text
        if self.request_id and text:
            mark = MARK + self.request_id + MARK
            marked = text[:-1].replace("\n", "\n" + mark) + text[-1]
            if self._begins:
                marked = mark + marked
        if text:
            self._begins = text[-1] == "\n"
        super().write(marked)
        return len(text)


def put_in_place() -> Any:
    """The Printed that `sys.stdout` is from now on. What was there stays open, for those who have kept it."""
    if isinstance(sys.stdout, Printed):
        return sys.stdout
    out = sys.stdout
    out.flush()
    sys.stdout = Printed(
        out.buffer, encoding=out.encoding, errors="backslashreplace", newline="\n", line_buffering=True
    )
    return sys.stdout
