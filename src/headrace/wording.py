"""How numbers are said: one core, 2 cores."""

from __future__ import annotations


def count_of(number: int, what: str) -> str:
    """`1 core`, `2 cores`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def are(number: int) -> str:
    """What follows so many: `1 core is`, `2 cores are`."""
    return "is" if number == 1 else "are"


def were(number: int) -> str:
    return "was" if number == 1 else "were"


def up_to(number: int) -> str:
    """Which counts there can be: `1`, `1 to 4`."""
    return "1" if number <= 1 else f"1 to {number}"


def size_of(nbytes: int) -> str:
    return f"{nbytes / (1 << 30):.1f} GiB" if nbytes >= 1 << 30 else f"{nbytes / (1 << 20):.0f} MiB"
