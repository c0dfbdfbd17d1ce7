"""Priorities as clients say them, and as the engine has them. Pure.

Clients say a level, as Triton's do: 1 is the highest, `levels` the lowest, 0 (or nothing) the default one. The engine
has the larger first. The default level is its 0, which is what costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.errors import InvalidInput, InvalidOption

MOST = 1000
"""Levels. A step is worth a second of waiting (`engine.ready_queue`), so more mean nothing."""


@dataclass(frozen=True)
class Priorities:
    """Of one model."""

    levels: int
    default: int

    def of(self, level: int) -> int:
        """What the engine is told of a request that says so; a level there is not is the default one, as in Triton."""
        return self.default - level if 0 < level <= self.levels else 0


def priorities_of(levels: int, default: int | None) -> Priorities | None:
    """None: there are none (0 levels). `default` None: the one in the middle. InvalidOption for what cannot be."""
    if not 0 <= levels <= MOST:
        raise InvalidOption(f"priority_levels is from 0 (none) to {MOST:,}, not {levels}")
    if default is not None and not 1 <= default <= levels:
        there = f"from 1 to {levels} (priority_levels)" if levels else "only there with priority_levels above 0"
        raise InvalidOption(f"default_priority_level is {there}, not {default}")
    return Priorities(levels, default or (levels + 1) // 2) if levels else None


def level_of(said: object, where: str) -> int:
    """The level that a request says in `where`: a whole number from 0 up, also as text. InvalidInput."""
    level = said
    if isinstance(said, bytes | str) and said.isascii() and said.isdigit() and len(said) < 20:
        level = int(said)
    if isinstance(level, bool) or not isinstance(level, int) or level < 0:
        shown = said.decode("latin-1") if isinstance(said, bytes) else said
        raise InvalidInput(f"{where} is a whole number: 1 is the highest level, 0 the default one; {shown!r:.60} came")
    return level
