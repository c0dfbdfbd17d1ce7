"""The names of the schedulers, and what else people call them."""

from __future__ import annotations

import enum
from difflib import get_close_matches

from headrace.errors import InvalidOption


class Scheduler(enum.StrEnum):
    """How a model's requests share its cores."""

    single_stream = "single_stream"  # one request at a time, on all cores
    multi_stream = "multi_stream"  # several at once, on disjoint cores
    naive = "naive"  # in the caller's thread: the oracle, and what a debugger can step through

    @classmethod
    def of(cls, value: str | Scheduler | None) -> Scheduler:
        """The scheduler of that name or synonym, exactly as written; the default for None."""
        if value is None:
            return cls.single_stream
        if isinstance(value, str) and value in _NAMES:
            return _NAMES[value]
        if isinstance(value, str) and value in _LATER:
            raise InvalidOption(f"scheduler {value!r} is not available in this version; choose {_CHOICES}")
        raise InvalidOption(f"there is no scheduler {value!r}; choose {_CHOICES}{_did_you_mean(value)}")


# DeepSparse's synonyms: its users bring their scripts.
_NAMES = {
    "single_stream": Scheduler.single_stream,
    "multi_stream": Scheduler.multi_stream,
    "naive": Scheduler.naive,
    "default": Scheduler.single_stream,
    "sync": Scheduler.single_stream,
    "single": Scheduler.single_stream,
    "async": Scheduler.multi_stream,
    "multi": Scheduler.multi_stream,
}
_LATER = frozenset({"elastic", "auto"})
_CHOICES = "single_stream (also: default, single, sync), multi_stream (also: multi, async) or naive"


def _did_you_mean(value: object) -> str:
    # Case is what most near misses get wrong, so it is left out of the comparison.
    near = get_close_matches(value.lower(), _NAMES, n=1) if isinstance(value, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""
