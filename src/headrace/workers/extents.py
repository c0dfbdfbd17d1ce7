"""Which pieces of an arena are in use. Pure: first fit, and neighbours that are free are one.

The lowest piece that fits is taken, so that what is used again and again is the same memory, and warm.
"""

from __future__ import annotations

from bisect import bisect_left, insort

PAGE = 4096


class Extents:
    """`size` bytes from `start` on; both are whole pages."""

    def __init__(self, start: int, size: int) -> None:
        self.start, self.size = start, size
        self._free: list[tuple[int, int]] = [(start, size)] if size else []  # (offset, bytes), in their order
        self._taken: dict[int, int] = {}

    def take(self, nbytes: int) -> int | None:
        """The offset of a piece of `nbytes`; None if there is none so large."""
        nbytes = max(PAGE, -(-nbytes // PAGE) * PAGE)
        for i, (offset, room) in enumerate(self._free):
            if room >= nbytes:
                if room == nbytes:
                    del self._free[i]
                else:
                    self._free[i] = (offset + nbytes, room - nbytes)
                self._taken[offset] = nbytes
                return offset
        return None

    def give_back(self, offset: int) -> int:
        """The bytes that are free again. KeyError for what is not taken: it may come from a worker."""
        nbytes = self._taken.pop(offset)
        i = bisect_left(self._free, (offset, 0))
        begin, room = offset, nbytes
        if i < len(self._free) and self._free[i][0] == offset + nbytes:
            room += self._free.pop(i)[1]
        if i and sum(self._free[i - 1]) == offset:
            begin, before = self._free.pop(i - 1)
            room += before
        insort(self._free, (begin, room))
        return nbytes

    def shrink(self, offset: int, nbytes: int) -> None:
        """Give back what the piece at `offset`, which is taken, has beyond `nbytes`."""
        nbytes = max(PAGE, -(-nbytes // PAGE) * PAGE)
        had = self._taken[offset]
        if nbytes < had:
            self._taken[offset] = nbytes
            self._taken[offset + nbytes] = had - nbytes
            self.give_back(offset + nbytes)

    def holds(self, offset: int, nbytes: int) -> bool:
        """Whether so many bytes from `offset` on lie within a piece that is taken from there."""
        return nbytes <= self._taken.get(offset, -1)

    def free(self) -> tuple[tuple[int, int], ...]:
        """Offset and bytes of each free piece."""
        return tuple(self._free)

    def largest(self) -> int:
        """Bytes of the largest free piece."""
        return max((room for _, room in self._free), default=0)

    @property
    def taken(self) -> int:
        """Bytes in use."""
        return sum(self._taken.values())
