"""What is to be served, as it is said: `[NAME=]SOURCE`. Pure.

SOURCE is an ONNX file, a file of torch's, an archive (packed or a folder), a URL of one of these, or `module:function`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from headrace.errors import InvalidOption

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*\Z")  # what torch-model-archiver allows
NAMES = "letters, digits, '_', '.' and '-', the first a letter or a digit"
VERSION = re.compile(r"(?!all\Z)[A-Za-z0-9][A-Za-z0-9_.+\-]*\Z")  # `all` is every one, where managers ask
VERSIONS = "letters, digits, '_', '.', '+' and '-', and not `all`"
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")
CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")
TORCH_FILES = (".pt", ".pth", ".pt2")
"""Served by the handler `tensor`, in an environment with torch."""


@dataclass(frozen=True)
class Wanted:
    """One model to serve: its name (None: the source's own), and where it is. `version`, `handler`: in place of the
    source's own. `demands`: what its archive has to say (`archives.demands`)."""

    name: str | None
    source: str
    version: str | None = None
    handler: str | None = None
    demands: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Wanted:
        name, equals, source = text.partition("=")
        if not equals or "#" in name or "://" in name:  # it is of a checksum, or of a URL's query
            equals, name, source = "", "", text
        if not source or (equals and not NAME.match(name)):
            raise InvalidOption(
                f"{text!r} is not [NAME=]SOURCE: NAME has letters, digits, '_', '-' and '.', and SOURCE is an ONNX "
                "file, an archive, a URL of one, or module:function"
            )
        return cls(name or None, source)
