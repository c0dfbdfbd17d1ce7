"""What a process says, as outcomes of the requests it was sent. Knows no sockets, threads or clocks.

Rule 1: everything is checked against what the process was sent. An answer to something else, a piece of the arena it
        was not given, a frame that is none here: FrameError, and the process must not go on. What was answered so is in
        hand still, for whoever buries the process.
Rule 2: what was taken back is heard for its memory alone: others do it.
Rule 3: an answer that is no data fails its own request; the process goes on.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from headrace.errors import BackendError, Closed
from headrace.model.failure import failure_of
from headrace.model.pending import Pending
from headrace.workers import frames, messages
from headrace.workers.frames import Frame, FrameError
from headrace.workers.in_hand import InHand, Sent
from headrace.workers.remote_error import CANNOT_ARRIVE, error_of, made
from headrace.workers.values import Raised, Reader, decode

LEFT = ("Overdue", "Withdrawn")
"""What a worker says of runs that it was told to leave, as they took too long, and did."""
WAS_LET_GO = ("CancelledError", "Withdrawn")
"""The same of those that it was told to leave as nobody wants them any more."""


class Answers:
    def __init__(
        self,
        hand: InHand,
        name: str,
        memory_limit: int | None,
        read: Callable[[Sent, int], object] = lambda each, nbytes: None,
        tell: Callable[[object], object] = lambda told: None,
    ) -> None:
        """`read(each, nbytes)` is called on any thread when so many bytes of parts of a run have been read; `tell` with
        the metrics a process tells of, and raises ValueError where they are none."""
        self.hand, self.arena = hand, hand.arena
        self._name, self._memory_limit = name, memory_limit
        self._read, self._tell = read, tell

    def take(self, frame: Frame) -> bytes:
        """What came. What is to be sent in reply, if anything. FrameError if it says what cannot be."""
        kind = frame.kind
        try:
            if kind == frames.ANSWER and frame.runs > 1:
                self._take_several(frame)
            elif kind in (frames.ANSWER, frames.ERROR):
                self._take_one(frame)
            elif kind == frames.NEED:
                return self._grant(frame)
            elif kind == frames.FREED:
                self._give_back(messages.unpack_piece(frame.payload)[0])
            elif kind == frames.PART:
                return self._part(frame)
            elif kind == frames.METRICS:
                self._told(frame.payload)
            else:
                raise FrameError(f"a frame of kind {kind} where an answer was due")
        except messages.MessageError as error:
            raise FrameError(str(error)) from None
        return b""

    def _take_several(self, frame: Frame) -> None:
        count, payload = frame.runs, frame.payload
        if len(payload) < 8 * count:
            raise FrameError(f"{count} answers are cut off")
        times = struct.unpack_from(f"<{count}d", payload)
        hand, read = self.hand, Reader(payload[8 * count :]).read
        pop, ended, plain = hand.pop, hand.ended, not hand.in_lists
        joins = (
            hand.in_lists and hand.outputs is None and not hand.is_dividing
        )  # runs of one request may be among these
        for id, seconds in enumerate(times, frame.id):
            each = pop(id)
            try:
                if not 0 <= seconds < 1e9:
                    raise FrameError(f"a run of {seconds} s")
                value = read()
                if each is None:
                    continue
                if joins:
                    plain = type(value) is list and len(value) == 1 == len(each.requests)
                answer = value[0] if plain and joins else value
                if plain and each.offset < 0 and each.room < 0 and type(answer) is not Raised:
                    request = each.requests[0]
                    request.outcome = [answer]  # as `_give` and `finish`, without the calls
                    if not request._done:
                        try:
                            request.outcome = request.answer(request.outcome)
                        except BaseException as error:
                            request.failure = failure_of("answered with what cannot be given:", error)
                    ended.append((each.work, seconds))
                    continue
                self._give(each, value)
            except BaseException as error:  # the rest cannot be read either
                hand.put_back(each)
                if isinstance(error, FrameError):
                    raise
                raise FrameError(f"an answer that cannot be read: {type(error).__name__}") from None
            if each.offset >= 0 or each.room >= 0:
                hand.release(each)
            hand.finish(each, seconds)

    def _take_one(self, frame: Frame) -> None:
        kept = bool(frame.flags)
        hand = self.hand
        each = hand.pop(frame.id, kept)
        if each is None:
            return
        error = None
        try:
            seconds = messages.unpack_seconds(frame.payload)
            if frame.kind == frames.ANSWER:
                self._answer(each, frame.payload)
            else:
                error = error_of(frame.payload[messages.SECONDS_SIZE :], self._memory_limit)
        except BaseException:
            hand.put_back(each)
            raise
        if each.offset >= 0 or each.room >= 0:
            hand.release(each, kept)
        if error is not None:
            if each.overdue is not None and type(error.__cause__).__name__ in LEFT:
                each.overdue.stack = str(error.__cause__)
                error = each.overdue
            elif each.stop_at is not None and type(error.__cause__).__name__ in WAS_LET_GO:
                error = Closed("the model or the engine was closed")  # else nobody would wait for it
            elif each.goes_together and type(error.__cause__).__name__ == CANNOT_ARRIVE:
                hand.send_alone(each)
                return
            elif len(each.requests) > 1 and hand.divides:
                hand.divide(each, error)
                return
            for request in each.requests:
                request.failure = error
        hand.finish(each, seconds)

    def _answer(self, each: Sent, payload: bytes) -> None:
        small = messages.unpack_small(payload, messages.SECONDS_SIZE)
        try:
            if small is not None:
                value = decode(small, (), trusting=False, own=False)
            else:
                parcel, at = messages.unpack_parcel(payload, messages.SECONDS_SIZE, self.arena.size)
                memory, is_lent = self._memory(each, parcel, payload, at)
                places = messages.places_of(parcel.pickled, parcel.arrays)
                buffers = [memory[place : place + nbytes] for place, nbytes in zip(places, parcel.arrays)]
                value = decode(bytes(memory[: parcel.pickled]), buffers, trusting=False, own=not is_lent)
        except (messages.MessageError, FrameError):
            raise
        except BaseException as error:
            failure = BackendError(
                f"the answer of model {self._name} cannot leave its worker: it has to be data (numbers, text, bytes, "
                f"lists, dicts, arrays), and there is something else in it: {error}"
            )
            for request in each.requests:
                request.failure = failure
            return
        self._give(each, value)

    def _memory(self, each: Sent, parcel: messages.Parcel, payload: bytes, at: int) -> tuple[Any, bool]:
        """And whether its arrays may be views of it."""
        if not parcel.in_arena:
            return np.frombuffer(payload, np.uint8, parcel.nbytes, at), False
        nbytes = parcel.nbytes
        if parcel.offset != each.room or not self.arena.extents.holds(parcel.offset, nbytes):
            raise FrameError("an answer that lies where it was not allowed to")
        if nbytes > self.hand.answer_room:  # the next one need not ask
            self.hand.answer_room = min(nbytes + nbytes // 4, self.arena.size // 8)
        lent = self.arena.lend(parcel.offset, nbytes) if parcel.arrays else None
        if lent is None:
            return self.arena.view(parcel.offset, nbytes), False
        each.room = -1  # it comes back with the last view
        return lent, True

    def _give(self, each: Sent, value: Any) -> None:
        if not self.hand.in_lists:
            if type(value) is Raised:
                each.requests[0].failure = made(value)
            else:
                each.requests[0].outcome = [value]  # as `_give`, without the call
            return
        if not isinstance(value, list) or len(value) != len(each.requests):
            raise FrameError("an answer to a batch that has not as many members")
        if self.hand.outputs is None:
            for request, part in zip(each.requests, value):
                _give(request, part)
            return
        for request, part in zip(each.requests, value):
            if type(part) is not list or len(part) != self.hand.outputs:
                raise FrameError(f"an answer that is not the {self.hand.outputs} outputs of its model")
            if not all(isinstance(output, np.ndarray) for output in part):
                raise FrameError("an output that is no array")
            request.outcome = part

    def _part(self, frame: Frame) -> bytes:
        """One more part of an answer. What nobody takes has been read."""
        each = self.hand.sent.get(frame.id)
        if each is None:
            if not self.hand.knows(frame.id):
                raise FrameError(f"a part of an answer to run {frame.id}, which it does not have")
            return b""  # its run has ended, or was taken back
        if frame.runs >= len(each.requests):
            raise FrameError(f"a part of answer {frame.runs} of a batch of {len(each.requests)}")
        request, nbytes = each.requests[frame.runs], len(frame.payload)
        try:
            part = decode(frame.payload, (), trusting=False, own=False)
        except BaseException as error:
            request.failure = BackendError(f"a part of an answer of model {self._name} is no data: {error}")
        else:
            if request.take_part(part, nbytes, partial(self._read, each)):
                return b""
        return frames.encode(frames.MORE, messages.pack_piece(0, nbytes), id=frame.id, generation=self.hand.generation)

    def _told(self, payload: bytes) -> None:
        try:
            self._tell(json.loads(payload))
        except (ValueError, RecursionError) as error:
            raise FrameError(f"metrics that are none: {error}") from None

    def _grant(self, frame: Frame) -> bytes:
        """It has a large answer, and asks where to write it."""
        each = self.hand.sent.get(frame.id) or self.hand.withdrawn.get(frame.id)
        if each is None:
            raise FrameError(f"it asks for room for run {frame.id}, which it does not have")
        _, nbytes = messages.unpack_piece(frame.payload)
        if each.room >= 0:
            self._give_back(each.room)
            each.room = -1
        room = self.arena.take(nbytes) if nbytes <= self.arena.size else None
        if room is None:
            payload = messages.pack_piece(0, self.arena.extents.largest())
        else:
            each.room = room
            payload = messages.pack_piece(room, nbytes)
        return frames.encode(frames.GRANT, payload, id=frame.id, generation=self.hand.generation)

    def _give_back(self, offset: int) -> None:
        try:
            if self.arena.is_lent(offset):  # it is no more the process's to say
                raise KeyError(offset)
            self.arena.give_back(offset)
        except KeyError:
            raise FrameError(f"it gives back {offset:,}, which it does not have") from None


def _give(request: Pending, part: Any) -> None:
    if type(part) is Raised:
        request.failure = made(part)
    else:
        request.outcome = [part]
