"""What is asked of a management API, in its words and units. Pure.

Rule 1: what cannot be is an InvalidOption before anything is sent.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any
from urllib.parse import quote

from headrace.errors import InvalidOption, ModelNotFound


def path(name: str, version: str | None) -> str:
    """Of a model, or of a version of it. ModelNotFound for what no server could know."""
    for what, text in (("name", name), ("version", version)):
        if text is not None and (not text or text in (".", "..")):
            raise InvalidOption(f"a model's {what} cannot be {text!r}")
    if "/" in name or "/" in (version or ""):  # a server would take it for a path
        error = ModelNotFound(name, version)
        error.args = (f"{error}: no name has a slash, and a version is said by itself",)
        raise error
    return f"/models/{quote(name, safe='')}" + ("" if version is None else f"/{quote(version, safe='')}")


def settings(reset: Collection[str], **said: Any) -> dict[str, Any]:
    """What a PATCH says: nothing of what is None, and null of what is to be `reset`."""
    wanted = {name: value for name, value in said.items() if value is not None}
    for each in reset:
        if each in wanted:
            raise InvalidOption(f"{each} cannot be set and reset at once")
    wanted |= dict.fromkeys(reset)
    if not wanted:
        raise InvalidOption("nothing is to be changed: name a setting")
    return wanted


def count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidOption(f"{name} is a count, from 0 up, not {value!r:.40}")
    return value


def whole(name: str, seconds: float | None, factor: int, unit: str, *, low: int = 0) -> int | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not math.isfinite(seconds) or not low <= seconds <= 1e6:
        raise InvalidOption(f"{name} is in seconds, from {low} to 1,000,000, not {seconds!r:.40}")
    number = round(seconds * factor)
    if not math.isclose(number, seconds * factor, abs_tol=1e-6):
        raise InvalidOption(f"{name} is counted in whole {unit} by the server; {seconds:g} s is not")
    return number
