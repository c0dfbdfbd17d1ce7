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
    # uvicorn's warnings are of broken HTTP, and of packages it would like to have: errors only, in our form.
    uvicorn = logging.getLogger("uvicorn")
    uvicorn.handlers[:] = [handler]
    uvicorn.setLevel("ERROR" if level != "debug" else "DEBUG")
    uvicorn.propagate = False
