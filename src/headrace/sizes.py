"""How large values are, as far as that can be told without knowing what they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def nbytes_of(values: Iterable[Any]) -> int:
    """Bytes the values hold: arrays and tensors, bytes and text, and those in a list, tuple or dict.

    Raises nothing: what cannot say how large it is counts as nothing.
    """
    total = 0
    for value in values:
        try:
            if isinstance(value, list | tuple):
                total += sum(map(_nbytes, value))
            elif isinstance(value, dict):
                total += sum(map(_nbytes, value.values()))
            else:
                total += _nbytes(value)
        except KeyboardInterrupt:
            raise
        except BaseException:  # the value's own code, which may raise what it likes
            continue
    return total


def _nbytes(value: object) -> int:
    nbytes = getattr(value, "nbytes", None)  # what NumPy, PyTorch and memoryview call it
    if isinstance(nbytes, int):
        return max(0, nbytes)
    return len(value) if isinstance(value, bytes | bytearray | str) else 0
