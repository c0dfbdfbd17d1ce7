"""What has come, changed and gone in a folder that is watched. Pure: it is told what is there, again and again.

Rule 1: something has come, or has changed, once it was the same at two looks: who is still copying it is left alone.
Rule 2: what could not be served is not tried again before it changes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Seen:
    """By name, sorted."""

    come: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


class Watching:
    """`there`: what is known to be there from the start, with what tells one state of it from another."""

    def __init__(self, there: Mapping[str, Hashable] | None = None) -> None:
        self._known = dict(there or {})
        self._last: Mapping[str, Hashable] = dict(self._known)

    def look(self, there: Mapping[str, Hashable]) -> Seen:
        """`there`: by name, what tells one state of it from another: times and sizes, say."""
        still = {name: state for name, state in there.items() if self._last.get(name) == state}
        come = sorted(name for name in still if name not in self._known)
        changed = sorted(name for name, state in still.items() if name in self._known and self._known[name] != state)
        gone = sorted(name for name in self._known if name not in there and name not in self._last)
        for name in gone:
            del self._known[name]
        self._known.update({name: still[name] for name in (*come, *changed)})
        self._last = dict(there)
        return Seen(tuple(come), tuple(changed), tuple(gone))
