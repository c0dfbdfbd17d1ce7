"""The memory a worker and its owner share: one sealed memfd, mapped by both, whose pieces the owner gives out.

It has no name that could be left behind or meet another one, and cannot be shrunk under its reader. Pages exist once
they are written, so a large arena costs what is used of it. The first page is for words: what has begun, what was
cancelled. No locks lie in it: who holds one may be killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import weakref
from typing import Any

import numpy as np

from headrace.tensor import Array
from headrace.workers.extents import PAGE, Extents
from headrace.workers.memory import passable

SIZE = 256 << 20
"""Bytes: the most that a worker's requests and answers may have together."""
TRIM = 32 << 20
"""Bytes up to which a piece stays in memory when it is not in use."""
MARKS = 256
"""Words that say which runs are not wanted any more: more than a worker has at a time."""
LENT = 8
"""A part of the arena as large as this may be lent: views of answers that somebody keeps."""
_WORD, _STEP = struct.Struct("<I"), struct.Struct("<II")


class _Lent(weakref.ref[Array]):
    """Of an array that is a piece of the arena: when it and all its views have gone, the piece is free."""

    __slots__ = ("nbytes", "offset")
    nbytes: int
    offset: int


class Arena:
    def __init__(self, size: int = SIZE) -> None:
        """OSError if there is no memory for it."""
        self.size = size
        self.fd = passable(os.memfd_create("headrace-worker", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        try:
            os.ftruncate(self.fd, size)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            self._map = mmap.mmap(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise
        self._memory: Array | None = np.frombuffer(self._map, np.uint8)
        self.extents = Extents(PAGE, size - PAGE)
        self._touched = 0  # bytes given out since it was trimmed
        self._largest = 0
        self._lent: dict[int, _Lent] = {}  # by where they lie
        self._lent_bytes = 0
        self._let_go: list[_Lent] = []  # appended to from any thread, in the middle of anything: a list's own method

    def begun(self) -> int:
        """The id of the run that began last, as the worker says: it may say anything."""
        return int(_WORD.unpack_from(self._map)[0])

    def step(self) -> tuple[int, int]:
        """The id of the run whose step an event loop is at, 0 between two of them; and how many steps there were."""
        id, count = _STEP.unpack_from(self._map, 4)
        return int(id), int(count)

    def mark(self, id: int) -> None:
        """The run with this id is not wanted any more: it need not begin, and may look whether it should go on."""
        _WORD.pack_into(self._map, 64 + 4 * (id % MARKS), id)

    def view(self, offset: int, nbytes: int) -> Array:
        assert self._memory is not None
        return self._memory[offset : offset + nbytes]

    def write(self, offset: int, pickled: bytes, arrays: list[Any], places: list[int]) -> None:
        """A parcel, to a piece that was taken for it."""
        memory = self._memory
        assert memory is not None
        memory[offset : offset + len(pickled)] = np.frombuffer(pickled, np.uint8)
        for array, place in zip(arrays, places):
            if array.nbytes:
                room = memory[offset + place : offset + place + array.nbytes]
                np.copyto(room.view(array.dtype).reshape(array.shape), array)

    def lend(self, offset: int, nbytes: int) -> Array | None:
        """The piece that was taken there as an array, which is given back when nobody has a view of it any more. None
        where too much is lent already: it is still the caller's then."""
        if self._let_go:
            self._take_back()
        if self._lent_bytes + nbytes > self.size // LENT:
            return None
        self.extents.shrink(offset, nbytes)
        array: Array = np.frombuffer(self._map, np.uint8, nbytes, offset)
        lent = _Lent(array, self._let_go.append)
        lent.offset, lent.nbytes = offset, nbytes
        self._lent[offset] = lent
        self._lent_bytes += nbytes
        return array

    def is_lent(self, offset: int) -> bool:
        return offset in self._lent

    def _take_back(self) -> None:
        while self._let_go:
            lent = self._let_go.pop()
            del self._lent[lent.offset]
            self._lent_bytes -= lent.nbytes
            self.give_back(lent.offset)

    def take(self, nbytes: int) -> int | None:
        if self._let_go:
            self._take_back()
        self._touched += nbytes
        self._largest = max(self._largest, nbytes)
        return self.extents.take(nbytes)

    def give_back(self, offset: int) -> None:
        """KeyError for what is not taken."""
        self.extents.give_back(offset)
        if self._touched > TRIM and not self.extents.taken:
            if self._largest > TRIM:  # what is used again and again stays as it is
                self._map.madvise(mmap.MADV_REMOVE, PAGE, self.size - PAGE)
            self._touched = self._largest = 0

    def close(self) -> None:
        self._memory = None
        if self._lent:  # what somebody keeps stays, and nothing else
            for offset, nbytes in self.extents.free():
                self._map.madvise(mmap.MADV_REMOVE, offset, nbytes)
        with contextlib.suppress(BufferError):  # somebody still looks at a piece: the mapping ends with the last view
            self._map.close()
        os.close(self.fd)
