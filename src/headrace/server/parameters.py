"""What managers say in a query, or in a JSON body. Pure.

Rule 1: the old servers' query parameters are read as they read them: a number that is none is as if it had not been
        given, only `true` (in any case) is true, of a name that comes twice the first counts, and what is not known is
        ignored.
Rule 2: JSON has types, so there it is told what is wrong: a number is a number, a flag is true or false. Who speaks as
        an old server (`texts`) takes both as text, too, as theirs did. Parameters of our own are strict in both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

import orjson

from headrace.errors import InvalidInput

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}\Z")
_LOW, _HIGH = -(2**31), 2**31 - 1  # they were Java's
MOST = 1000
"""Parameters of one query."""


class Parameters:
    """Of one request. Where a body and the query both name one, the body's counts. `texts`: in the body, too, numbers
    and flags may be written as text."""

    def __init__(self, query: str, body: Mapping[str, object] | None = None, *, texts: bool = False) -> None:
        self._texts = texts
        try:
            pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MOST, errors="replace")
        except ValueError as error:
            raise InvalidInput(f"the query has more than {MOST:,} parameters") from error
        self._query: dict[str, str] = {}
        for name, value in pairs:
            self._query.setdefault(name, value)
        self._body = {} if body is None else {name: value for name, value in body.items() if value is not None}

    @classmethod
    def of(cls, query: str, body: bytes, content_type: str | None, *, texts: bool = False) -> Parameters:
        """InvalidInput for a JSON body that is no object. What is not JSON is not looked at."""
        if not body or (content_type or "").partition(";")[0].strip().lower() != "application/json":
            return cls(query)
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"the body is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise InvalidInput(f"the body is an object of parameters, not {type(value).__name__}")
        return cls(query, value, texts=texts)

    def __contains__(self, name: str) -> bool:
        return name in self._body or name in self._query

    def is_in_body(self, name: str) -> bool:
        return name in self._body

    def told(self, name: str) -> object:
        """As it came; for messages."""
        return self._body.get(name, self._query.get(name))

    def text(self, name: str) -> str | None:
        """None where it was not given, or is empty."""
        value = self._body.get(name)
        if value is None:
            return self._query.get(name) or None
        if not isinstance(value, str):
            raise InvalidInput(f"{name} is text, not {_shown(value)}")
        return value or None

    def integer(self, *names: str) -> int | None:
        """Under the first of its names that was given; None where that says no whole number of 32 bits."""
        for name in names:
            if name in self._body:
                value = self._body[name]
                found = None if isinstance(value, str) and not self._texts else _whole(value)
                if found is None:
                    raise InvalidInput(f"{name} is a whole number, not {_shown(value)}")
                return found
            if name in self._query:
                return _whole(self._query[name])
        return None

    def is_true(self, name: str, default: bool) -> bool:
        if name in self._body:
            value = self._body[name]
            if isinstance(value, bool):
                return value
            if isinstance(value, str) and self._texts:
                return value.lower() == "true"
            raise InvalidInput(f"{name} is true or false, not {_shown(value)}")
        value = self._query.get(name)
        return default if value is None else value.lower() == "true"

    def of_ours(self, flag: str, seconds: str) -> tuple[bool, float | None]:
        """A query that is all our own, and so strict: whether `flag` is true (it is, where nothing is said), and
        `seconds`. InvalidInput for anything else."""
        for name in self._query:
            if name not in (flag, seconds):
                raise InvalidInput(f"the query takes {flag} and {seconds}, not {name!r:.60}")
        said = self._query.get(flag, "true").lower()
        if said not in ("true", "false"):
            raise InvalidInput(f"{flag} is true or false, not {said!r:.60}")
        return said == "true", self.seconds(seconds) if seconds in self._query else None

    def seconds(self, name: str) -> float | None:
        """One of our own: strict. Above 0, and less than a million."""
        if name not in self:
            return None
        value = self.told(name)
        try:
            if isinstance(value, bool) or not isinstance(value, int | float if name in self._body else str):
                raise ValueError
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds <= 1e6:
            raise InvalidInput(f"{name} is in seconds, above 0 and at most 1,000,000, not {_shown(value)}")
        return seconds


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if not _INTEGER.match(value):
            return None
        value = int(value)
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and _LOW <= value <= _HIGH else None


def _shown(value: object) -> str:
    return f"{value!r:.60}"
