"""A file that tells whoever waits for the server that it is there, and where."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from headrace.errors import InvalidOption


class ReadyFile:
    """`path` None: nobody wants one."""

    def __init__(self, path: str | None) -> None:
        """Who waits for it must not find that of a server that was killed. InvalidOption where it could not be
        written."""
        self._path = None if path is None else Path(path)
        if self._path is None:
            return
        if not self._path.parent.is_dir() or self._path.is_dir():
            raise InvalidOption(f"--ready-file {path}: a file in a folder that exists is wanted")
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise InvalidOption(f"--ready-file {path}: {error.strerror}") from error

    def write(self, ready: dict[str, Any]) -> None:
        """InvalidOption."""
        if self._path is None:
            return
        # Whoever waits for the file must never read half of it.
        half = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            half.write_text(json.dumps(ready) + "\n")
            half.replace(self._path)
        except OSError as error:
            half.unlink(missing_ok=True)
            raise InvalidOption(f"--ready-file {self._path} cannot be written: {error.strerror}") from error

    def remove(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
