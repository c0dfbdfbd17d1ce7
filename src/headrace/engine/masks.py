"""Cores as bits of an int, which is how leases count them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.engine.topology import Core


def bits_of(mask: int) -> set[int]:
    return {cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1}


def mask_of(cores: Iterable[Core]) -> int:
    """The cores as bits of an int."""
    mask = 0
    for core in cores:
        mask |= 1 << core.cpu
    return mask
