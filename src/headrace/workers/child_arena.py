"""Values in the memory a worker process shares with its owner: read where they lie, written where it may.

Loaded by its path there (`child`): the standard library and NumPy alone.

Rule 1: what a callable is given is the memory itself. If it keeps a reference, its owner is told (`kept`), and the
        piece is not used again until the reference has gone; of what would take all the room it is given copies.
Rule 2: an answer lies where its owner said it may; what is larger asks for room first, and waits.
"""

from __future__ import annotations

import mmap
import sys
from typing import Any

KEPT = 32 << 20
"""Bytes of inputs that a callable may keep where they lie; it gets copies of the others."""


class NoRoom(ValueError):
    """For an answer, in what a worker shares with its owner."""


class Shared:
    def __init__(self, child: Any, arena: mmap.mmap) -> None:
        self.child, self.arena, self.messages = child, arena, child.messages
        self.kept: list[tuple[int, Any]] = []
        """Inputs the callable has kept, and where they lie."""

    def unpack(self, frame: Any, parcel: Any, at: int) -> Any:
        """(what owns its memory, where that is the arena's; its value)."""
        import numpy as np

        is_shared = parcel.in_arena
        if is_shared:
            root = np.frombuffer(self.arena, np.uint8, parcel.nbytes, parcel.offset)
            if self.kept and sum(kept.nbytes for _, kept in self.kept) + parcel.nbytes > KEPT:
                root, is_shared = root.copy(), False  # else what it keeps would take all the room there is
        else:
            root = np.frombuffer(bytearray(frame.payload[at : at + parcel.nbytes]), np.uint8)
        places = self.messages.places_of(parcel.pickled, parcel.arrays)
        buffers = [root[place : place + nbytes] for place, nbytes in zip(places, parcel.arrays)]
        value = self.child.values.decode(bytes(root[: parcel.pickled]), buffers, trusting=True, own=False)
        return (root if is_shared else None), value

    def pack(self, id: int, frame: Any, pickled: bytes, arrays: list[Any]) -> bytes:
        messages = self.messages
        sizes = tuple(array.nbytes for array in arrays)
        if len(sizes) > messages.MAX_ARRAYS:
            raise ValueError(f"an answer has at most {messages.MAX_ARRAYS:,} arrays, not {len(sizes):,}")
        total = messages.size_of(len(pickled), sizes)
        places = messages.places_of(len(pickled), sizes)
        if total <= messages.INLINE:
            parcel = messages.Parcel(False, 0, len(pickled), sizes)
            data = bytearray(total)
            self.write(data, 0, pickled, arrays, places)
            return messages.pack_parcel(parcel) + bytes(data)  # type: ignore[no-any-return]
        offset, room = messages.unpack_piece(frame.payload)
        if room < total or frame.runs > 1:
            offset = self.ask_for_room(id, total)
        parcel = messages.Parcel(True, offset, len(pickled), sizes)
        self.write(self.arena, offset, pickled, arrays, places)
        return messages.pack_parcel(parcel)  # type: ignore[no-any-return]

    def write(self, target: Any, offset: int, pickled: bytes, arrays: list[Any], places: list[int]) -> None:
        import numpy as np

        memory = np.frombuffer(target, np.uint8)
        memory[offset : offset + len(pickled)] = np.frombuffer(pickled, np.uint8)
        for array, place in zip(arrays, places):
            if array.nbytes:
                room = memory[offset + place : offset + place + array.nbytes]
                np.copyto(room.view(array.dtype).reshape(array.shape), array)

    def ask_for_room(self, id: int, total: int) -> int:
        """Where in the arena `total` bytes may be written. What else comes meanwhile waits."""
        child = self.child
        child.send(child.frames.NEED, self.messages.pack_piece(0, total), id=id)
        child.flush()
        while True:
            for i, other in enumerate(child.waiting):
                if other.kind == child.frames.GRANT and other.id == id:
                    del child.waiting[i]
                    offset, room = self.messages.unpack_piece(other.payload)
                    if room < total:
                        raise NoRoom(
                            f"an answer of {total:,} bytes does not fit: {room:,} bytes are the most a worker may give"
                        )
                    return int(offset)
            if not child.receive():
                child.gone = True
                raise EOFError("the owner has gone")

    def look_at_kept(self) -> None:
        """Inputs the callable has let go of meanwhile: their memory may be used again."""
        still = []
        for offset, root in self.kept:
            if sys.getrefcount(root) > 3:  # the tuple's, this loop's, and the call's
                still.append((offset, root))
            else:
                self.child.send(self.child.frames.FREED, self.messages.pack_piece(offset, 0))
        self.kept[:] = still
        self.child.flush()
