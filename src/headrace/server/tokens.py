"""Bearer tokens as TorchServe has them: one key for each API, and one that makes new ones.

Rule 1: the keys are in a file that nobody but its owner may read, written anew as a whole at each change.
Rule 2: a key is compared in the same time whatever is wrong with it, and never logged.
Rule 3: the keys of the APIs expire; the one that renews them does not.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from headrace.errors import InvalidInput, InvalidOption
from headrace.server.status import InvalidToken

MANAGEMENT, INFERENCE, API = "management", "inference", "API"
KINDS = (MANAGEMENT, INFERENCE)


@dataclass(frozen=True)
class _Key:
    text: str
    expires: float | None
    """Seconds since 1970; None: never."""


class Tokens:
    """Makes its keys, and their file, at once. InvalidOption if that cannot be written. `remove` it at the end."""

    def __init__(self, path: Path, lifetime: float, now: Callable[[], float] = time.time) -> None:
        """`lifetime`: seconds until a key expires."""
        self._path, self._lifetime, self._now = path.absolute(), lifetime, now
        self._renewing = threading.Lock()
        self._keys = {kind: self._made() for kind in KINDS}
        self._keys[API] = _Key(_random(), None)
        self._write()

    def check(self, kind: str, authorization: bytes | None) -> None:
        """InvalidToken unless that header is `Bearer` and the key of that kind, which has not expired."""
        scheme, _, came = (authorization or b"").strip().partition(b" ")
        key = self._keys[kind]
        same = hmac.compare_digest(came.strip(), key.text.encode())
        if scheme.lower() != b"bearer" or not same or (key.expires is not None and self._now() >= key.expires):
            raise InvalidToken

    def renew(self, kind: str | None) -> None:
        """A new key from now on. InvalidInput for what is no kind; InvalidOption if the file cannot be written: then
        the old one stays."""
        if kind not in KINDS:
            raise InvalidInput(f"type is {' or '.join(KINDS)}, not {kind!r:.40}")
        with self._renewing:
            before = self._keys
            self._keys = {**before, kind: self._made()}
            try:
                self._write()
            except BaseException:
                self._keys = before
                raise

    def remove(self) -> None:
        """Its keys are of no use any more."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _made(self) -> _Key:
        return _Key(_random(), self._now() + self._lifetime)

    def _write(self) -> None:
        told: dict[str, dict[str, str]] = {}
        for kind, key in self._keys.items():
            told[kind] = {"key": key.text}
            if key.expires is not None:
                until = datetime.fromtimestamp(key.expires, UTC)
                told[kind]["expiration time"] = until.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        half = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            half.unlink(missing_ok=True)
            # Made with its rights, not given them afterwards: nobody can have opened it in between.
            with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(json.dumps(told, indent=2) + "\n")
            half.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                half.unlink(missing_ok=True)
            raise InvalidOption(f"--key-file {self._path} cannot be written: {error.strerror}") from error


def _random() -> str:
    return secrets.token_urlsafe(24)
