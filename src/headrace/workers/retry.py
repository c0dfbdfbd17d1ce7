"""What becomes of the requests that were with a worker when it died. Pure.

Rule 1: what had not begun waits again, where it did: it has cost nobody anything.
Rule 2: what had begun may be why the worker died. It is run once more, alone, if that is allowed (`idempotent`); if
        that worker dies too, or it is not allowed, the request gets the error.
Rule 3: of a batch that had begun nobody knows which member it was: each is run once more alone, so one of them cannot
        cost the others their answer.
Rule 4: where several had begun at once, and nothing says which of them it was (coroutine functions), all are run once
        more as they were, among others: most such deaths come from outside. Only those that had begun when a worker
        dies so again are run once more alone.
Rule 5: what nobody waits for any more is not run again.
"""

from __future__ import annotations

import enum


class Fate(enum.Enum):
    WAITS_AGAIN = enum.auto()
    ALONE = enum.auto()
    """It waits again, and is joined with no other."""
    AMONG_OTHERS = enum.auto()
    """It waits again, and will have been tried."""
    FAILS = enum.auto()


def fate(*, begun: bool, tried: bool, idempotent: bool, wanted: bool, one_of_many: bool = False) -> Fate:
    """`tried`: it has been run once more already. `wanted`: somebody waits for its answer. `one_of_many`: it is not
    known which of several that had begun it was, and this one has not been alone yet."""
    if not wanted:
        return Fate.FAILS
    if not begun:
        return Fate.ALONE if tried else Fate.WAITS_AGAIN
    if idempotent and one_of_many:
        return Fate.ALONE if tried else Fate.AMONG_OTHERS
    return Fate.ALONE if idempotent and not tried else Fate.FAILS


def has_begun(id: int, started: int) -> bool:
    """Whether the run with this id had begun, as the worker wrote the id of the last that had: runs begin in order.

    What a worker writes is a number out of memory that it may have ruined: one that is not sensible counts as begun.
    """
    return id <= started
