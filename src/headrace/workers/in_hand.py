"""What is with a worker's process: runs as frames, and answers back to requests. Knows no sockets, threads or clocks.

Rule 1: short requests that go together go in one frame, as one pickle. What has arrays, or is large, has a frame and a
        piece of the arena of its own, which comes back with its answer.
Rule 2: whatever the process says is checked against what it was sent. An answer to something else, a piece of the arena
        it was not given: FrameError, and the process must not go on.
Rule 3: a batch that fails is divided: its members are run by themselves, so that one bad request fails alone.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from headrace.errors import BackendError, HeadraceError
from headrace.model.failure import failure_of
from headrace.model.pending import Pending
from headrace.model.run import Run
from headrace.workers import frames, messages
from headrace.workers.arena import Arena
from headrace.workers.frames import Frame, FrameError
from headrace.workers.remote_error import error_of, made
from headrace.workers.values import Encoder, Raised, Reader, decode

APART = 64
"""Runs that go by themselves after some that did not fit into one frame."""

Work = Run | Pending


class Sent:
    """A run that is with the process. `offset`, `room`: the pieces of the arena it has, or -1."""

    __slots__ = ("began", "id", "offset", "requests", "room", "stop_at", "taken_at", "work")

    def __init__(self, id: int, work: Work, requests: Sequence[Pending], taken_at: float) -> None:
        self.id, self.work, self.requests, self.taken_at = id, work, requests, taken_at
        self.began = 0.0  # when it was sent
        self.offset = self.room = -1
        self.stop_at: float | None = None  # it was cancelled, and is to end by then


class InHand:
    """Of one process. What has ended is in `ended`, for whoever gives the outcomes: each with the seconds it took."""

    def __init__(self, arena: Arena, generation: int, name: str, in_lists: bool, memory_limit: int | None) -> None:
        self.arena = arena
        self.sent: dict[int, Sent] = {}
        """In the order in which they are run."""
        self.again: deque[Sent] = deque()
        """Members of batches that have failed, to be sent by themselves."""
        self.withdrawn: dict[int, Sent] = {}
        """Taken back, and others do them; what the process still says of them is only heard for their memory."""
        self.ended: list[tuple[Work, float | None]] = []
        self.careful = 0
        """frames.CAREFUL, while no answer may be lost with the process."""
        self._generation, self._name = generation, name
        self._in_lists, self._memory_limit = in_lists, memory_limit
        self._next = 0
        self._encoder = Encoder()
        self._apart = 0  # so many more go by themselves
        self._answer_room = 0  # bytes that go with each run, as answers were so large
        self._divided: dict[int, int] = {}  # members of each work that have not been run by themselves

    # ---- to the process

    def send(self, works: Iterable[Work], owner: Any, taken_at: float, now: float) -> bytes:
        """The frames for `works`. `owner`: the Instance they are told to be with."""
        group: list[Sent] = []
        for work in works:
            requests: Sequence[Pending]
            if type(work) is Run:
                requests = work.batch
                if all(request._done for request in requests):
                    self.ended.append((work, None))
                    continue
                self._next = id = self._next + 1
                for request in requests:
                    request.joined = work
                work.handle = id
            else:
                requests = (work,)  # type: ignore[assignment]
                if work._done:  # type: ignore[union-attr]
                    self.ended.append((work, None))
                    continue
                self._next = id = self._next + 1
                work.instance = owner  # type: ignore[union-attr]
                work.handle = id
            group.append(Sent(id, work, requests, taken_at))
        return self._frames(group, now)

    def send_again(self, now: float) -> bytes:
        """The frame for one of those that are to be run by themselves."""
        each = self.again.popleft()
        self._next = each.id = self._next + 1
        return self._frames([each], now)

    def _frames(self, group: list[Sent], now: float) -> bytes:
        if not group:
            return b""
        if len(group) > 1 and not self._apart:
            try:
                pickled, arrays = self._encoder.encode([self._value(each) for each in group])
                fits = not arrays and len(pickled) <= messages.INLINE
            except Exception:  # one of them cannot be pickled: which, they say by themselves
                fits = False
            if fits:
                for each in group:
                    each.began = now
                    self.sent[each.id] = each
                return frames.encode(
                    frames.RUN,
                    messages.pack_piece(0, 0) + messages.pack_small(pickled),
                    id=group[0].id,
                    generation=self._generation,
                    count=len(group),
                    flags=self.careful,
                )
            self._apart = APART
        self._apart = max(0, self._apart - len(group))
        return b"".join([self._frame(each, now) for each in group])

    def _value(self, each: Sent) -> Any:
        if self._in_lists:
            return [request.inputs[0] for request in each.requests]
        request = each.requests[0]
        return request.inputs, request.names

    def _frame(self, each: Sent, now: float) -> bytes:
        try:
            pickled, arrays = self._encoder.encode([self._value(each)])
            if self._answer_room:
                room = self.arena.take(self._answer_room)
                each.room = -1 if room is None else room
            piece = messages.pack_piece(max(0, each.room), self._answer_room if each.room >= 0 else 0)
            if not arrays and len(pickled) <= messages.INLINE:
                payload = piece + messages.pack_small(pickled)
            else:
                payload = piece + self._parcel(each, pickled, arrays)
        except Exception as error:  # a value that cannot be pickled, or does not fit
            self._release(each)
            for request in each.requests:
                request.failure = error if isinstance(error, HeadraceError) else _unsendable(error)
            self._finish(each, None)
            return b""
        each.began = now
        self.sent[each.id] = each
        return frames.encode(frames.RUN, payload, id=each.id, generation=self._generation, count=1, flags=self.careful)

    def _parcel(self, each: Sent, pickled: bytes, arrays: list[Any]) -> bytes:
        sizes = tuple(array.nbytes for array in arrays)
        total, places = messages.size_of(len(pickled), sizes), messages.places_of(len(pickled), sizes)
        if len(sizes) > messages.MAX_ARRAYS:
            raise BackendError(f"a worker is given at most {messages.MAX_ARRAYS:,} arrays at once, not {len(sizes):,}")
        if total <= messages.INLINE:
            data = bytearray(total)
            data[: len(pickled)] = pickled
            for array, place in zip(arrays, places):
                data[place : place + array.nbytes] = array.tobytes()
            return messages.pack_parcel(messages.Parcel(False, 0, len(pickled), sizes)) + bytes(data)
        offset = self.arena.take(total)
        if offset is None:
            raise BackendError(
                f"a request of {total:,} bytes does not fit: {self.arena.extents.largest():,} bytes are free of the "
                f"{self.arena.size:,} that a worker shares with us"
            )
        each.offset = offset
        self.arena.write(offset, pickled, arrays, places)
        return messages.pack_parcel(messages.Parcel(True, offset, len(pickled), sizes))

    def withdraw(self) -> list[Sent]:
        """Take back what waits behind the run that goes on, unless it is the rest of a batch. It may begin all the
        same, if it does so at this very moment."""
        begun, taken = self.arena.begun(), []
        for each in list(self.sent.values()):
            if each.id > begun and id(each.work) not in self._divided:
                del self.sent[each.id]
                self.withdrawn[each.id] = each
                self.arena.mark(each.id)
                taken.append(each)
        return taken

    # ---- from the process

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
        read, ended, plain = Reader(payload[8 * count :]).read, self.ended, not self._in_lists
        for id, seconds in enumerate(times, frame.id):
            each = self._pop(id)
            if each is None:
                read()
                continue
            if not 0 <= seconds < 1e9:
                raise FrameError(f"a run of {seconds} s")
            try:
                value = read()
            except BaseException as error:  # the rest cannot be read either
                raise FrameError(f"an answer that cannot be read: {type(error).__name__}") from None
            if plain and each.offset < 0 and each.room < 0 and type(value) is not Raised:
                request = each.requests[0]
                request.outcome = [value]  # as `_give` and `_finish`, without the calls
                if not request._done:
                    try:
                        request.outcome = request.answer(request.outcome)
                    except BaseException as error:
                        request.failure = failure_of("answered with what cannot be given:", error)
                ended.append((each.work, seconds))
                continue
            self._give(each, value)
            if each.offset >= 0 or each.room >= 0:
                self._release(each)
            self._finish(each, seconds)

    def _take_one(self, frame: Frame) -> None:
        kept = bool(frame.flags)
        each = self._pop(frame.id, kept)
        if each is None:
            return
        seconds = messages.unpack_seconds(frame.payload)
        if frame.kind == frames.ANSWER:
            self._answer(each, frame.payload)
        else:
            error = error_of(frame.payload[messages.SECONDS_SIZE :], self._memory_limit)
            if len(each.requests) > 1:
                self._release(each, kept)
                self._divide(each)
                return
            for request in each.requests:
                request.failure = error
        self._release(each, kept)
        self._finish(each, seconds)

    def _answer(self, each: Sent, payload: bytes) -> None:
        parcel, at = messages.unpack_parcel(payload, messages.SECONDS_SIZE, self.arena.size)
        try:
            if not parcel.arrays and not parcel.in_arena:
                value = decode(payload[at : at + parcel.pickled], (), trusting=False, own=False)
            else:
                memory = self._memory(each, parcel, payload, at)
                places = messages.places_of(parcel.pickled, parcel.arrays)
                buffers = [memory[place : place + nbytes] for place, nbytes in zip(places, parcel.arrays)]
                value = decode(bytes(memory[: parcel.pickled]), buffers, trusting=False, own=True)
        except messages.MessageError:
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

    def _memory(self, each: Sent, parcel: messages.Parcel, payload: bytes, at: int) -> Any:
        if not parcel.in_arena:
            return np.frombuffer(payload, np.uint8, parcel.nbytes, at)
        if parcel.offset != each.room or not self.arena.extents.holds(parcel.offset, parcel.nbytes):
            raise FrameError("an answer that lies where it was not allowed to")
        if parcel.nbytes > self._answer_room:  # the next one need not ask
            self._answer_room = min(parcel.nbytes + parcel.nbytes // 4, self.arena.size // 8)
        return self.arena.view(parcel.offset, parcel.nbytes)

    def _give(self, each: Sent, value: Any) -> None:
        if not self._in_lists:
            _give(each.requests[0], value)
            return
        if not isinstance(value, list) or len(value) != len(each.requests):
            raise FrameError("an answer to a batch that has not as many members")
        for request, part in zip(each.requests, value):
            _give(request, part)

    def _finish(self, each: Sent, seconds: float | None) -> None:
        for request in each.requests:
            if request.failure is None and not request._done:
                try:
                    request.outcome = request.answer(request.outcome)
                except BaseException as error:
                    request.failure = failure_of("answered with what cannot be given:", error)
        work = each.work
        if self._divided and id(work) in self._divided:
            self._divided[id(work)] -= 1
            if self._divided[id(work)]:
                return
            del self._divided[id(work)]
        self.ended.append((work, seconds))

    def _divide(self, each: Sent) -> None:
        wanted = [request for request in each.requests if not request._done]
        if not wanted:
            self.ended.append((each.work, None))
            return
        self._divided[id(each.work)] = len(wanted)
        self.again.extend(Sent(0, each.work, (request,), each.taken_at) for request in wanted)

    def _pop(self, id: int, kept: bool = False) -> Sent | None:
        """What was sent with this id; None where it was taken back."""
        each = self.sent.pop(id, None)
        if each is None:
            gone = self.withdrawn.pop(id, None)
            if gone is None:
                raise FrameError(f"an answer to run {id}, which it does not have")
            self._release(gone, kept)
        return each

    def _grant(self, frame: Frame) -> bytes:
        """It has a large answer, and asks where to write it."""
        each = self.sent.get(frame.id) or self.withdrawn.get(frame.id)
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
        return frames.encode(frames.GRANT, payload, id=frame.id, generation=self._generation)

    def _release(self, each: Sent, kept: bool = False) -> None:
        """`kept`: the callable has kept its input, whose memory is free once the process says so."""
        if each.offset >= 0 and not kept:
            self.arena.give_back(each.offset)
        if each.room >= 0:
            self.arena.give_back(each.room)
        each.offset = each.room = -1

    def _give_back(self, offset: int) -> None:
        try:
            self.arena.give_back(offset)
        except KeyError:
            raise FrameError(f"it gives back {offset:,}, which it does not have") from None


def _give(request: Pending, part: Any) -> None:
    if type(part) is Raised:
        request.failure = made(part)
    else:
        request.outcome = [part]


def _unsendable(error: BaseException) -> BackendError:
    failure = BackendError(f"the request cannot be sent to a worker process: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
