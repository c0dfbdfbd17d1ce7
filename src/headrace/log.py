"""Logging: the standard library's, under the name `headrace`. The library adds no handler; the server does, once."""

from __future__ import annotations

import logging
import sys

LEVELS = ("debug", "info", "warning", "error")


def log_to_stderr(level: str) -> None:
    """Have everything of `level` and above written to stderr, one line for each record."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("headrace")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
    # What the event loop says of a callback that raised, in our form too.
    loop = logging.getLogger("asyncio")
    loop.handlers[:] = [handler]
    loop.setLevel("WARNING" if level != "error" else "ERROR")
    loop.propagate = False
