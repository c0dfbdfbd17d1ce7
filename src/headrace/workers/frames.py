"""Frames between a process and its workers: bytes in, frames out. Pure; worker processes load this file by its path.

Rule 1: a frame is a header of fixed size, and as many bytes as that says. Half of one waits for the rest; half of one
        at the end is an error, never a silence.
Rule 2: what a header says is believed only within limits, and before anything is kept for it: a length that lies, a
        kind that nobody sends, or a frame of another generation is refused.
Rule 3: after an error a decoder reads nothing more: where the next frame begins nobody knows.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER = struct.Struct("<IBBHII")
"""Bytes of the payload; kind; flags; how many requests; generation; id of the run."""
MAX_PAYLOAD = 1 << 20
"""Bytes. What is larger lies in the arena."""

# From a worker's owner:
SETUP, RUN, GRANT, STOP, CANCEL, MORE = 1, 2, 3, 4, 5, 6
"""MORE: so many bytes of the parts a run has sent were read."""
# From the worker:
READY, FAILED, ANSWER, ERROR, NEED, FREED, PART, METRICS = 16, 17, 18, 19, 20, 21, 22, 23
"""PART: one more part of an answer that is not there yet; `runs` says whose, counted within its batch."""
CAREFUL = 1
"""A flag of RUN: each answer leaves before the next run begins. One that is held would be lost with the process."""
OVERDUE = 1
"""A flag of CANCEL: the run takes too long, and is to say where it was."""
KEPT = 1
"""A flag of ANSWER and ERROR: the callable has kept its input, whose memory is not to be used again yet."""
TO_WORKER = frozenset((SETUP, RUN, GRANT, STOP, CANCEL, MORE))
FROM_WORKER = frozenset((READY, FAILED, ANSWER, ERROR, NEED, FREED, PART, METRICS))


class FrameError(Exception):
    """What came is no frame."""


class Frame(NamedTuple):
    kind: int
    flags: int
    runs: int
    generation: int
    id: int
    payload: bytes


def encode(
    kind: int, payload: bytes = b"", *, id: int = 0, generation: int = 0, count: int = 0, flags: int = 0
) -> bytes:
    """FrameError if the payload is over MAX_PAYLOAD."""
    if len(payload) > MAX_PAYLOAD:
        raise FrameError(f"a frame has at most {MAX_PAYLOAD:,} bytes, not {len(payload):,}")
    return HEADER.pack(len(payload), kind, flags, count, generation, id) + payload


class Decoder:
    """Takes bytes as they come. `kinds`: which may come; `generation`: None takes any."""

    def __init__(self, kinds: frozenset[int], generation: int | None = None) -> None:
        self._kinds, self._generation = kinds, generation
        self._rest = b""
        self._error: str | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """The frames that are complete now. FrameError for what is none; then nothing more is read."""
        if self._error is not None:
            raise FrameError(self._error)
        buffer = self._rest + bytes(data) if self._rest else bytes(data)
        frames = []
        at, end, size = 0, len(buffer), HEADER.size
        unpack, new = HEADER.unpack_from, tuple.__new__
        while end - at >= size:
            length, kind, flags, count, generation, id = unpack(buffer, at)
            if length > MAX_PAYLOAD or kind not in self._kinds:
                self._fail(f"kind {kind} with {length:,} bytes is no frame")
            if self._generation is not None and generation != self._generation:
                self._fail(f"a frame of generation {generation} came to generation {self._generation}")
            stop = at + size + length
            if stop > end:
                break
            # As `Frame(...)`, without the call of Python's that a named tuple makes.
            frames.append(new(Frame, (kind, flags, count, generation, id, buffer[at + size : stop])))
            at = stop
        self._rest = buffer[at:]
        return frames

    @property
    def unread(self) -> int:
        """Bytes of a frame that is not complete."""
        return len(self._rest)

    def close(self) -> None:
        """Nothing more comes. FrameError if that is in the middle of a frame."""
        if self._rest:
            self._fail(f"the other end closed with {len(self._rest)} bytes of a frame unread")

    def _fail(self, why: str) -> None:
        self._error, self._rest = why, b""
        raise FrameError(why)
