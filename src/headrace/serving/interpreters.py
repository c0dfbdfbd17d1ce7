"""Which interpreter the operator wants a model's workers to run: `[NAME=]PATH`, of any number of models.

Rule 1: what names a model counts for that one, what names none for all others.
Rule 2: what is said of a model that has no workers is likely a mistake, and so it is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from headrace.errors import InvalidOption

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.\-]*)=(.+)", re.DOTALL)


class Interpreters:
    """`named`: by model; None: of the others."""

    def __init__(self, named: Mapping[str | None, str]) -> None:
        self._named = dict(named)
        self._unused = {name for name in named if name is not None}

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Interpreters:
        named: dict[str | None, str] = {}
        for text in texts:
            match = _NAMED.fullmatch(text)
            name, path = match.groups() if match else (None, text)
            if not path or "\0" in path:
                raise InvalidOption(
                    f"--python is [NAME=]PATH, an interpreter or the folder of an environment, not {text!r}"
                )
            if named.setdefault(name, path) != path:
                whose = "every model" if name is None else f"model {name}"
                raise InvalidOption(f"--python says two things of {whose}: {named[name]} and {path}")
        return cls(named)

    def of(self, name: str) -> str | None:
        """The path for the workers of model `name`; None: the operator has said nothing."""
        self._unused.discard(name)
        return self._named.get(name, self._named.get(None))

    @property
    def unused(self) -> list[str]:
        """The models something is said of that have not asked for it. One may be registered later."""
        return sorted(self._unused)
