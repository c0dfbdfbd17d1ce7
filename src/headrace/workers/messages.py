"""What the payloads of frames say. Pure; worker processes load this file by its path.

A parcel is a pickled value and the arrays it refers to: all of it inline, or all of it in one piece of the arena.
Whoever unpacks one believes no number in it before it is checked.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

INLINE = 16 << 10
"""Bytes of a parcel that go with the frame; copying more through a socket is slower than through the arena."""
ALIGN = 64
"""Bytes. Arrays in a parcel begin at multiples of it, for the sake of vector instructions."""
MAX_ARRAYS = 4096
"""In one parcel."""
PART_SIZE = 128 << 10
"""Bytes of an answer's body that go in one part; more is cut."""
WINDOW = 512 << 10
"""Bytes of parts that a run may have sent and nobody has read: then it waits."""

_PARCEL = struct.Struct("<IIQQ")  # arrays; whether in the arena; bytes of the pickle; where it lies in the arena
_PIECE = struct.Struct("<QQ")  # offset, bytes
_SECONDS = struct.Struct("<d")
_SMALL = _PARCEL.pack


class MessageError(Exception):
    """A payload is not what its kind of frame says."""


class Parcel(NamedTuple):
    in_arena: bool
    offset: int
    pickled: int
    """Bytes."""
    arrays: tuple[int, ...]
    """Bytes of each."""

    @property
    def nbytes(self) -> int:
        return size_of(self.pickled, self.arrays)


def padded(nbytes: int) -> int:
    return -(-nbytes // ALIGN) * ALIGN


def size_of(pickled: int, arrays: Sequence[int]) -> int:
    """Bytes a parcel takes, inline or in the arena."""
    return padded(pickled) + sum(map(padded, arrays)) if arrays else pickled


def places_of(pickled: int, arrays: Sequence[int]) -> list[int]:
    """Where each array begins, from the beginning of the parcel's bytes."""
    at, places = padded(pickled), []
    for nbytes in arrays:
        places.append(at)
        at += padded(nbytes)
    return places


def pack_parcel(parcel: Parcel) -> bytes:
    """Its description; inline, its bytes follow."""
    head = _PARCEL.pack(len(parcel.arrays), parcel.in_arena, parcel.pickled, parcel.offset)
    return head + struct.pack(f"<{len(parcel.arrays)}Q", *parcel.arrays) if parcel.arrays else head


def pack_small(pickled: bytes) -> bytes:
    """A parcel without arrays, inline: what happens most."""
    return _SMALL(0, 0, len(pickled), 0) + pickled


def unpack_parcel(payload: bytes, at: int, arena: int) -> tuple[Parcel, int]:
    """The parcel described at `at`, and where its inline bytes begin. `arena`: bytes there are. MessageError."""
    try:
        count, in_arena, pickled, offset = _PARCEL.unpack_from(payload, at)
        at += _PARCEL.size
        if count > MAX_ARRAYS or in_arena > 1:
            raise MessageError(f"a parcel of {count:,} arrays")
        arrays: tuple[int, ...] = ()
        if count:
            arrays = struct.unpack_from(f"<{count}Q", payload, at)
            at += 8 * count
    except struct.error:
        raise MessageError("the description of a parcel is cut off") from None
    parcel = Parcel(bool(in_arena), offset, pickled, arrays)
    have = arena - offset if in_arena else len(payload) - at
    if parcel.nbytes > have or offset > arena:
        raise MessageError(f"a parcel of {parcel.nbytes:,} bytes, where {max(0, have):,} are")
    return parcel, at


def unpack_small(payload: bytes, at: int) -> bytes | None:
    """The pickle of a parcel that `pack_small` has made; None: it is another, or what `unpack_parcel` says."""
    if len(payload) < at + _PARCEL.size:
        return None
    count, in_arena, pickled, offset = _PARCEL.unpack_from(payload, at)
    at += _PARCEL.size
    is_one = not (count or in_arena or offset) and pickled <= len(payload) - at
    return payload[at : at + pickled] if is_one else None


NO_PIECE = _PIECE.pack(0, 0)


def pack_piece(offset: int, nbytes: int) -> bytes:
    """Of the arena: what a worker may write its answer to; or what it needs, or no longer uses."""
    return _PIECE.pack(offset, nbytes)


def unpack_piece(payload: bytes, at: int = 0) -> tuple[int, int]:
    try:
        offset, nbytes = _PIECE.unpack_from(payload, at)
    except struct.error:
        raise MessageError("a piece of the arena is cut off") from None
    return offset, nbytes


PIECE_SIZE, SECONDS_SIZE = _PIECE.size, _SECONDS.size
pack_seconds = _SECONDS.pack


def unpack_seconds(payload: bytes) -> float:
    """How long a run took. MessageError if that is no time."""
    try:
        (seconds,) = _SECONDS.unpack_from(payload)
    except struct.error:
        raise MessageError("an answer is cut off") from None
    if not 0 <= seconds < 1e9:
        raise MessageError(f"a run of {seconds} s")
    return float(seconds)
