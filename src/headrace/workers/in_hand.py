"""What is with a worker's process: runs as frames, and where each is. Knows no sockets, threads or clocks.

Rule 1: short requests that go together go in one frame, as one pickle. What has arrays, or is large, has a frame and a
        piece of the arena of its own, which comes back with its answer.
Rule 2: a batch that fails is divided: its members are run by themselves, so that one bad request fails alone.
Rule 3: what waits at the process has at most half of the arena, so that there is room for the answer of the run that
        goes on: a large request stays here meanwhile. Only what does not fit by itself is refused.
Rule 4: what the process says of them is read by `answers`, which may only name what is in `sent` or `withdrawn`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from headrace.errors import BackendError, HeadraceError, InvalidInput, ResponseTimeout
from headrace.model.failure import failure_of
from headrace.model.pending import Pending
from headrace.model.run import Run
from headrace.workers import frames, messages
from headrace.workers.arena import Arena
from headrace.workers.frames import FrameError
from headrace.workers.values import Encoder, NotData

APART = 64
"""Runs that go by themselves after some that did not fit into one frame."""
UNCHANGING = frozenset((int, float, complex, bool, str, bytes, type(None)))
"""Kinds of inputs that nobody can change in place."""

Work = Run | Pending


class Sent:
    """A run that is with the process. `offset`, `room`: the pieces of the arena it has, or -1."""

    __slots__ = (
        "began",
        "goes_together",
        "id",
        "offset",
        "overdue",
        "read",
        "requests",
        "room",
        "steps",
        "stop_at",
        "taken_at",
        "work",
    )

    def __init__(self, id: int, work: Work, requests: Sequence[Pending], taken_at: float) -> None:
        self.id, self.work, self.requests, self.taken_at = id, work, requests, taken_at
        self.began = 0.0  # when it was sent
        self.offset = self.room = -1
        self.read = 0  # bytes of its parts that were read, and that the process has not been told of
        self.stop_at: float | None = None  # it was cancelled, and is to end by then
        self.goes_together = False  # in one pickle with others
        self.steps = 0  # those of its loop by then
        self.overdue: ResponseTimeout | None = None  # it took too long, and was told to leave (`at_once`)


class _Later(Exception):
    """There is no room for it now, as others are with the process."""


class InHand:
    """Of one process. What has ended is in `ended`, for whoever gives the outcomes: each with the seconds it took."""

    def __init__(
        self,
        arena: Arena,
        generation: int,
        in_lists: bool,
        outputs: int | None = None,
        *,
        reserves: bool = True,
        divides: bool = True,
    ) -> None:
        """`in_lists`: several requests are one run. `outputs`: the tensors a run gives each of them; None: anything.
        `divides`: a batch that fails is run again, request by request.
        `reserves`: room for an answer goes along with each run, which keeps it as long as it goes on."""
        self.arena, self.generation, self.in_lists, self.outputs = arena, generation, in_lists, outputs
        self._reserves, self.divides = reserves, divides
        self.sent: dict[int, Sent] = {}
        """In the order in which they are run."""
        self.again: deque[Sent] = deque()
        """To be sent by themselves: members of batches that have failed, and what there was no room for."""
        self.withdrawn: dict[int, Sent] = {}
        """Taken back, and others do them; what the process still says of them is only heard for their memory."""
        self.ended: list[tuple[Work, float | None]] = []
        self.is_known = False
        """The process is ended because of runs that are known: those that took too long, or are not wanted any more."""
        self.careful = 0
        """frames.CAREFUL, while no answer may be lost with the process."""
        self._next = 0
        self._encoder = Encoder(shows_errors=False)
        self._apart = 0  # so many more go by themselves
        self.may_share = True
        """Two requests may have an object in common: a caller of the library has sent it twice. What comes through a
        door is of one request, or cannot be changed (headers)."""
        self.answer_room = 0
        """Bytes of the arena that go along with each run, as answers were so large."""
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

    def send_again(self, most: int, now: float) -> bytes:
        """The frames for at most so many of those that are to be run by themselves."""
        out = b""
        while self.again and most > 0:
            most -= 1
            each = self.again.popleft()
            if id(each.work) not in self._divided:
                if all(request._done for request in each.requests):
                    self.ended.append((each.work, None))
                    continue
                each.work.handle = self._next + 1
            self._next = each.id = self._next + 1
            try:
                out += self._frame(each, now)
            except _Later:
                each.id = 0
                self.again.appendleft(each)
                break
        return out

    def _frames(self, group: list[Sent], now: float) -> bytes:
        if not group:
            return b""
        if len(group) > 1 and not self._apart:
            try:
                values = [self._value(each) for each in group]
                pickled, arrays = self._each_apart(values) if self.may_share else self._encoder.encode(values)
                fits = not arrays and len(pickled) <= messages.INLINE
            except Exception:  # one of them cannot be pickled: which, they say by themselves
                fits = False
            if fits:
                for each in group:
                    each.began, each.goes_together = now, True
                    self.sent[each.id] = each
                return frames.encode(
                    frames.RUN,
                    messages.NO_PIECE + messages.pack_small(pickled),
                    id=group[0].id,
                    generation=self.generation,
                    count=len(group),
                    flags=self.careful,
                )
            self._apart = APART
        if self._apart:
            self._apart = max(0, self._apart - len(group))
        out = b""
        for each in group:
            try:
                out += self._frame(each, now)
            except _Later:
                each.id = 0
                self.again.append(each)
        return out

    def _each_apart(self, values: list[Any]) -> tuple[bytes, list[Any]]:
        """A tuple of pickles: in one of all an object may be the same in several. Not where that is all the same."""
        encode = self._encoder.encode
        if self._cannot_change(values):
            return encode(values)
        apart = []
        for value in values:
            pickled, arrays = encode(value)
            if arrays:
                return pickled, arrays
            apart.append(pickled)
        return encode(tuple(apart))

    def _cannot_change(self, values: list[Any]) -> bool:
        """Whether nobody could tell that some of them are one object."""
        inputs = values if self.in_lists else [value[0] for value in values]
        return UNCHANGING.issuperset(map(type, chain.from_iterable(inputs)))

    def _value(self, each: Sent) -> Any:
        if self.outputs is not None:
            return [request.inputs for request in each.requests]
        if self.in_lists:
            return [request.inputs[0] for request in each.requests]
        request = each.requests[0]
        return request.inputs, request.names

    def _frame(self, each: Sent, now: float) -> bytes:
        try:
            pickled, arrays = self._encoder.encode([self._value(each)])
            if self.answer_room and self._reserves:
                room = self.arena.take(self.answer_room)
                each.room = -1 if room is None else room
            piece = messages.NO_PIECE if each.room < 0 else messages.pack_piece(each.room, self.answer_room)
            if not arrays and len(pickled) <= messages.INLINE:
                payload = piece + messages.pack_small(pickled)
            else:
                payload = piece + self._parcel(each, pickled, arrays)
        except Exception as error:  # a value that cannot be pickled, or does not fit
            self.release(each)
            if type(error) is _Later:
                raise
            for request in each.requests:
                request.failure = error if isinstance(error, HeadraceError) else _unsendable(error)
            self.finish(each, None)
            return b""
        each.began = now
        self.sent[each.id] = each
        return frames.encode(frames.RUN, payload, id=each.id, generation=self.generation, count=1, flags=self.careful)

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
        waits = bool(self.sent) and self.arena.extents.taken + total > self.arena.size // 2
        offset = None if waits else self.arena.take(total)
        if offset is None:
            if self.sent:
                raise _Later
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

    # ---- what is known of it

    def finish(self, each: Sent, seconds: float | None) -> None:
        """Its requests have their outcomes, and its pieces of the arena were given back."""
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

    def divide(self, each: Sent, error: HeadraceError) -> None:
        """The batch has failed: its members are to run by themselves, but for those that have answered in part."""
        wanted = []
        for request in each.requests:
            if request.parted:
                request.failure = error
            elif not request._done:
                wanted.append(request)
        if not wanted:
            self.ended.append((each.work, None))
            return
        self._divided[id(each.work)] = len(wanted)
        self.again.extend(Sent(0, each.work, (request,), each.taken_at) for request in wanted)

    def send_alone(self, each: Sent) -> None:
        """It went together with others, one of which could not be read there: which, they say by themselves."""
        self.again.append(Sent(0, each.work, each.requests, each.taken_at))

    @property
    def is_dividing(self) -> bool:
        """Whether members of batches are being run by themselves."""
        return bool(self._divided)

    def knows(self, id: int) -> bool:
        """Whether the process was ever sent a run with this id."""
        return 0 < id <= self._next

    def pop(self, id: int, kept: bool = False) -> Sent | None:
        """What was sent with this id; None where it was taken back. FrameError if nothing was."""
        each = self.sent.pop(id, None)
        if each is None:
            gone = self.withdrawn.pop(id, None)
            if gone is None:
                raise FrameError(f"an answer to run {id}, which it does not have")
            self.release(gone, kept)
        return each

    def put_back(self, each: Sent | None) -> None:
        """What came was no answer to it."""
        if each is not None:
            self.sent[each.id] = each

    def release(self, each: Sent, kept: bool = False) -> None:
        """`kept`: the callable has kept its input, whose memory is free once the process says so."""
        if each.offset >= 0 and not kept:
            self.arena.give_back(each.offset)
        if each.room >= 0:
            self.arena.give_back(each.room)
        each.offset = each.room = -1


def _unsendable(error: BaseException) -> HeadraceError:
    if isinstance(error, NotData):
        return InvalidInput(f"the request cannot be sent to a worker process: {error}")
    failure = BackendError(f"the request cannot be sent to a worker process: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
