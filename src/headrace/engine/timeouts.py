"""How long a caller is ready to wait: seconds, None for ever. Pure.

Rule 1: what is no number (TypeError), and what is NaN (InvalidOption), is refused by name before anything is waited
        for: a NaN ends no comparison, and a text would be found by whatever waits, some calls later.
Rule 2: less than 0 is 0, as everywhere in Python: who has no time left looks once.
Rule 3: longer than a clock can measure is for ever.
"""

from __future__ import annotations

import threading
from math import isnan
from numbers import Real

from headrace.errors import InvalidOption

LONGEST = threading.TIMEOUT_MAX
"""Seconds a lock can wait. Two centuries and more; an event loop takes less."""
LONGEST_OF_A_LOOP = 86400.0 * 365
"""Seconds. Who waits for longer than a year on an event loop waits for ever there: its own clock may overflow."""


def check_timeout(timeout: object) -> None:
    """TypeError for what is neither None nor a number of seconds; InvalidOption for NaN."""
    if timeout is not None and not is_number(timeout) and not isinstance(timeout, int):  # an int may be too large
        what = f"timeout is a number of seconds, or None for ever, not {shown(timeout)}"
        raise InvalidOption(what) if isinstance(timeout, Real) else TypeError(what)


def checked(timeout: float | None) -> float | None:
    """Seconds, or None for ever; raises as `check_timeout`."""
    check_timeout(timeout)
    return None if timeout is None or timeout > LONGEST else float(max(timeout, 0))


def seconds_of(timeout: float | None) -> float:
    """What a lock is given to wait for so long."""
    seconds = checked(timeout)
    return -1 if seconds is None else seconds


def loop_seconds_of(timeout: float | None) -> float | None:
    """The same for an event loop's timer; None: no timer."""
    seconds = checked(timeout)
    return None if seconds is None or seconds > LONGEST_OF_A_LOOP else seconds


def until_of(timeout: float, now: float) -> float:
    """When so many seconds from `now` are over."""
    return now + float(min(max(timeout, 0), LONGEST))


def shown(value: object) -> str:
    """How a message shows it: Python does not write numbers of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length():,} bits"
    return repr(value)


def is_number(value: object) -> bool:
    """Whether it can be compared and added to seconds: NaN would leave a heap without an order."""
    try:
        return isinstance(value, Real) and not isnan(float(value))
    except OverflowError:
        return False
