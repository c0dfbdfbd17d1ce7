"""Seconds as people read them: a unit that fits, few digits, and round steps for an axis. Pure."""

from __future__ import annotations

from math import floor, log10


def unit_of(seconds: float) -> tuple[str, float]:
    if seconds >= 20:
        return "s", 1.0
    return ("ms", 1e3) if seconds >= 1e-3 else ("us", 1e6)


def as_time(seconds: float) -> str:
    unit, scale = unit_of(seconds)
    value = seconds * scale
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def step_of(least: float) -> float:
    """1, 2 or 5 times a power of ten."""
    power: float = 10.0 ** floor(log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
