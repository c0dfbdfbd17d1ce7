"""The body of a PATCH: a JSON object, and strictly so. Pure."""

from __future__ import annotations

import json
from typing import Any

from headrace.errors import InvalidInput


def read(body: bytes) -> dict[str, Any]:
    """InvalidInput for what is no object, or says one thing twice: parsers differ in which of the two they take."""
    try:
        found = json.loads(body, object_pairs_hook=_once, parse_constant=_no_number)
    except InvalidInput:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the body is not JSON: {error}; an object of settings was expected") from None
    if not isinstance(found, dict):
        raise InvalidInput(f"the body is an object of settings, not {type(found).__name__}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidInput(f"{name!r:.60} came twice")
        found[name] = value
    return found


def _no_number(text: str) -> None:
    raise InvalidInput(f"{text} is no number of JSON")
