"""The names of the schedulers, and what else people call them.

Rule 1: a name is a whole name. DeepSparse looked for substrings, and took "e" for elastic.
Rule 2: case does not matter; everything else does, and whoever misses by little is told what it may have meant.
"""

from __future__ import annotations

import enum
from difflib import get_close_matches

from headrace.errors import InvalidOption


class Scheduler(enum.StrEnum):
    """How a model's requests share its cores."""

    single_stream = "single_stream"  # one request at a time, on all cores
    multi_stream = "multi_stream"  # several at once, on disjoint cores
    elastic = "elastic"  # at most one on each NUMA node; where there is one node, on each L3
    naive = "naive"  # in the caller's thread: the oracle, and what a debugger can step through
    default = "single_stream"  # DeepSparse has this member: another name for the first

    @classmethod
    def of(cls, value: str | Scheduler | None) -> Scheduler:
        """The scheduler of that name or synonym; the default for None."""
        return cls.default if value is None else cls.from_str(value)

    @classmethod
    def from_str(cls, key: str) -> Scheduler:
        """The scheduler of that name or synonym. InvalidOption, which is a ValueError, for anything else."""
        name = key.lower() if isinstance(key, str) else ""
        if name in _NAMES:
            return _NAMES[name]
        if name in _LATER:
            raise InvalidOption(f"scheduler {key!r} is not available in this version yet; choose {_CHOICES}")
        raise InvalidOption(f"there is no scheduler {key!r}; {_did_you_mean(name)}choose {_CHOICES}")


# The first of each is its own name, the others are DeepSparse's: its users bring their scripts.
_SYNONYMS = {
    Scheduler.single_stream: ("single_stream", "default", "single", "sync"),
    Scheduler.multi_stream: ("multi_stream", "multi", "async"),
    Scheduler.elastic: ("elastic",),
    Scheduler.naive: ("naive",),
}
_NAMES = {name: scheduler for scheduler, names in _SYNONYMS.items() for name in names}
_LATER = frozenset({"auto"})
_CHOICES = ", ".join(
    f"{name} (also: {', '.join(synonyms)})" if synonyms else name for name, *synonyms in _SYNONYMS.values()
)


def _did_you_mean(name: str) -> str:
    short = name.removesuffix("_stream")  # elastic_stream: more like multi_stream than like what was meant
    near = [short] if short in _NAMES else get_close_matches(name, _NAMES, n=1)
    return f"did you mean {near[0]!r}? " if near else ""
