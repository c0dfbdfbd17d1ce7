"""A body that comes in parts. Pure.

Rule 1: what is held of it costs at most a few times its bytes, however small its parts are: each object has a price of
        its own, some 50 bytes, and a client chooses the size of its chunks.
"""

from __future__ import annotations

from typing import Protocol

SMALL = 1024
"""Bytes from which on a part is worth an object of its own."""


class Parts(Protocol):
    """A list or a deque of them. The first of a body is always as it came, so one part alone is never copied."""

    def append(self, part: bytes | bytearray, /) -> None: ...

    def __getitem__(self, index: int, /) -> bytes | bytearray: ...

    def __len__(self) -> int: ...


def gather(parts: Parts, part: bytes) -> None:
    """Add `part` to `parts`: a small one to those before it."""
    if len(part) >= SMALL or not parts:
        parts.append(part)
        return
    last = parts[-1]
    if type(last) is bytearray:
        last += part
    else:
        parts.append(bytearray(part))
