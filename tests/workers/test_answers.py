"""Whatever frames a process sends, late, twice, cut off or about what it was never given: nobody else pays for it."""

import json
import struct
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from headrace.engine.guard import Guard
from headrace.errors import BackendError
from headrace.model.pending import Pending
from headrace.workers import frames, messages
from headrace.workers.answers import Answers
from headrace.workers.arena import LENT, Arena
from headrace.workers.extents import PAGE
from headrace.workers.frames import Frame, FrameError
from headrace.workers.in_hand import InHand, Sent
from headrace.workers.values import Encoder

SIZE = 1 << 20


class Owner:
    name = "m"

    def on_error(self, _: Pending) -> None:
        pass


class Desk:
    """What a worker's thread has, without a thread or a process: frames go in by hand."""

    def __init__(self, in_lists: bool = False) -> None:
        self.hand = InHand(Arena(SIZE), 1, in_lists)
        self.answers = Answers(self.hand, "m", None)
        self.all: list[Pending] = []
        self.taken_back: list[Sent] = []

    def send(self, *values: object) -> list[Pending]:
        """Each is sent by itself."""
        requests = [Pending(Owner(), (value,), Guard()) for value in values]  # type: ignore[arg-type]
        for request in requests:
            assert self.hand.send([request], self, 0.0, 0.0)
        self.all += requests
        return requests

    def withdraw(self) -> list[Sent]:
        taken = self.hand.withdraw()
        self.taken_back += taken
        return taken

    def lost(self) -> list[Pending]:
        """Requests that nobody would ever answer, were the process to end now."""
        known = [work for work, _ in self.hand.ended]
        for each in (*self.hand.sent.values(), *self.hand.again):
            known += each.requests
        return [request for request in self.all if request not in known]

    def take(self, kind: int, id: int, payload: bytes, count: int = 1, flags: int = 0) -> bytes:
        return self.answers.take(Frame(kind, flags, count, 1, id, payload))

    def answer(self, id: int, value: object) -> None:
        self.take(frames.ANSWER, id, messages.pack_seconds(1e-6) + messages.pack_small(Encoder().encode(value)[0]))

    def room(self, id: int, nbytes: int) -> tuple[int, int]:
        """What a process is given that asks for `nbytes`."""
        (frame,) = frames.Decoder(frames.TO_WORKER).feed(self.take(frames.NEED, id, messages.pack_piece(0, nbytes)))
        assert (frame.kind, frame.id) == (frames.GRANT, id)
        return messages.unpack_piece(frame.payload)

    def answer_at(self, id: int, offset: int, nbytes: int) -> None:
        """An answer that lies in the arena: an array of so many bytes."""
        pickled, _ = Encoder().encode(np.zeros(nbytes, np.uint8))
        parcel = messages.Parcel(True, offset, len(pickled), (nbytes,))
        if offset + parcel.nbytes <= SIZE:
            self.hand.arena.view(offset, len(pickled))[:] = np.frombuffer(pickled, np.uint8)
        self.take(frames.ANSWER, id, messages.pack_seconds(1e-6) + messages.pack_parcel(parcel))


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.hand.arena.close()
    withdrawn = {request for each in made.taken_back for request in each.requests}
    assert set(made.lost()) <= withdrawn  # those wait again


def several(*pickles: bytes) -> bytes:
    return struct.pack(f"<{len(pickles)}d", *[1e-6] * len(pickles)) + b"".join(pickles)


def pickled(value: object) -> bytes:
    return Encoder().encode(value)[0]


def test_an_answer_is_given_to_its_own_request(desk: Desk) -> None:
    first, second = desk.send("a", "b")
    desk.answer(2, "to b")
    desk.answer(1, "to a")
    assert (first.outcome, second.outcome) == (["to a"], ["to b"])
    assert [work for work, _ in desk.hand.ended] == [second, first]


@pytest.mark.parametrize("id", [0, 1, 3, 2**32 - 1])
def test_an_answer_that_came_already_or_that_nobody_asked_for_is_refused(desk: Desk, id: int) -> None:
    first, second = desk.send("a", "b")
    desk.answer(1, 1)
    with pytest.raises(FrameError, match=f"run {id}, which it does not have"):
        desk.answer(id, "again")
    assert first.outcome == [1]
    assert desk.hand.ended == [(first, 1e-6)]
    assert [each.work for each in desk.hand.sent.values()] == [second]


def test_a_late_answer_to_what_was_taken_back_is_dropped_once(desk: Desk) -> None:
    (request,) = desk.send("a")
    assert [each.work for each in desk.withdraw()] == [request]
    desk.answer(1, "late")
    assert not hasattr(request, "outcome")
    assert desk.hand.ended == []
    with pytest.raises(FrameError):
        desk.answer(1, "later")


def test_of_several_answers_the_late_one_is_dropped_and_the_others_are_given(desk: Desk) -> None:
    requests = desk.send("a", "b", "c")
    (late,) = [each for each in desk.withdraw() if each.id == 2]
    for each in [*desk.hand.withdrawn.values()]:
        if each is not late:
            desk.hand.sent[each.id] = desk.hand.withdrawn.pop(each.id)
    desk.take(frames.ANSWER, 1, several(pickled("A"), pickled("B"), pickled("C")), 3)
    assert [getattr(request, "outcome", None) for request in requests] == [["A"], None, ["C"]]


@pytest.mark.parametrize("withdrawn", [False, True])
@pytest.mark.parametrize("payload", [b"", b"\0" * 15, several(pickled(1), b"\x80\x05no"), several(pickled(1))])
def test_several_answers_that_are_cut_off_are_refused(desk: Desk, payload: bytes, withdrawn: bool) -> None:
    desk.send("a", "b")
    if withdrawn:
        desk.withdraw()
    with pytest.raises(FrameError):
        desk.take(frames.ANSWER, 1, payload, 2)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 1e10])
@pytest.mark.parametrize("count", [1, 2])
def test_a_time_that_is_none_is_refused(desk: Desk, seconds: float, count: int) -> None:
    desk.send("a", "b")
    if count == 1:
        payload = messages.pack_seconds(seconds) + messages.pack_small(pickled(1))
    else:
        payload = struct.pack("<2d", 1e-6, seconds) + pickled(1) * 2
    with pytest.raises(FrameError, match="a run of"):
        desk.take(frames.ANSWER, 1, payload, count)


@pytest.mark.parametrize("values", [[], ["one"], ["one", "two", "three"], "no list", {"a": 1, "b": 2}])
def test_a_batch_that_comes_back_as_another_number_of_answers_is_refused(values: object) -> None:
    """A child counts them itself, so what comes is no child of ours."""
    desk = Desk(in_lists=True)
    batch = tuple(Pending(Owner(), (i,), Guard()) for i in range(2))  # type: ignore[arg-type]
    desk.hand.sent[1] = Sent(1, batch[0], batch, 0.0)
    with pytest.raises(FrameError, match="not as many members"):
        desk.answer(1, values)
    assert [each.requests for each in desk.hand.sent.values()] == [batch]
    desk.hand.arena.close()


# ---- memory


def test_a_large_answer_lies_where_it_was_allowed_to_and_the_next_need_not_ask(desk: Desk) -> None:
    (first,) = desk.send("a")
    offset, room = desk.room(1, 100_000)
    assert room == 100_000
    desk.answer_at(1, offset, 90_000)
    assert first.outcome[0].nbytes == 90_000
    first.outcome = None
    desk.send("b")
    assert 90_000 <= desk.hand.arena.extents.taken < 180_000  # went along with it, where the other one was


def test_an_answer_is_a_view_of_its_piece_until_the_last_view_has_gone(desk: Desk) -> None:
    (first,) = desk.send("a")
    offset, _ = desk.room(1, 100_000)
    desk.answer_at(1, offset, 70_000)
    part = first.outcome[0][100:200]
    first.outcome = None
    arena = desk.hand.arena
    other = arena.take(PAGE)
    assert arena.extents.holds(offset, 70_000)
    assert not arena.extents.holds(offset, 100_000)  # the rest is free
    arena.view(offset, SIZE - offset)[:] = 7
    assert set(part) == {7}
    with pytest.raises(FrameError, match="gives back"):  # it is not the process's any more
        desk.take(frames.FREED, 0, messages.pack_piece(offset, 0))
    del part
    assert arena.take(PAGE) == offset
    assert other != offset


def test_where_much_is_kept_answers_are_copies(desk: Desk) -> None:
    arena, kept = desk.hand.arena, []
    for i in range(1, 9):
        (request,) = desk.send("a")
        offset, _ = desk.room(i, 40_000)
        desk.answer_at(i, offset, 40_000)
        kept.append(request.outcome[0])
    assert arena.extents.taken <= SIZE // LENT
    arena.view(PAGE, SIZE - PAGE)[:] = 7
    assert [int(each[0]) for each in kept] == [7, 7, 7, 0, 0, 0, 0, 0]


def lies_elsewhere(desk: Desk, offset: int) -> None:
    desk.answer_at(1, offset + PAGE, 5_000)


def is_larger_than_its_room(desk: Desk, offset: int) -> None:
    desk.answer_at(1, offset, 100_000)


def lies_beyond_the_arena(desk: Desk, offset: int) -> None:
    desk.answer_at(1, offset, 2 * SIZE)


def lies_in_another_ones(desk: Desk, offset: int) -> None:
    desk.answer_at(2, offset, 5_000)


@pytest.mark.parametrize("lie", [lies_elsewhere, is_larger_than_its_room, lies_beyond_the_arena, lies_in_another_ones])
def test_an_answer_that_lies_where_it_may_not_is_refused(desk: Desk, lie: Callable[[Desk, int], None]) -> None:
    desk.send("a", "b")
    offset, _ = desk.room(1, 50_000)
    with pytest.raises(FrameError):
        lie(desk, offset)


def test_who_asks_for_more_than_there_is_hears_how_much_there_is(desk: Desk) -> None:
    desk.send("a")
    assert desk.room(1, 2 * SIZE) == (0, SIZE - PAGE)
    assert desk.room(1, 2**63) == (0, SIZE - PAGE)
    _, room = desk.room(1, SIZE - PAGE)
    assert room == SIZE - PAGE
    assert desk.room(1, 1000)[1] == 1000  # what it had before is free again
    assert desk.hand.arena.extents.taken == PAGE


def test_room_for_a_run_it_does_not_have_and_memory_it_was_not_given_are_refused(desk: Desk) -> None:
    desk.send("a")
    with pytest.raises(FrameError, match="room for run 9"):
        desk.room(9, 10)
    with pytest.raises(FrameError, match="gives back"):
        desk.take(frames.FREED, 0, messages.pack_piece(PAGE, 0))


def test_memory_that_the_callable_has_kept_is_free_once_it_says_so(desk: Desk) -> None:
    (request,) = desk.send(np.zeros(50_000, np.uint8))
    (sent,) = desk.hand.sent.values()
    offset = sent.offset
    desk.take(frames.ANSWER, 1, messages.pack_seconds(0) + messages.pack_small(pickled(1)), flags=frames.KEPT)
    assert request.outcome == [1]
    assert desk.hand.arena.extents.holds(offset, 50_000)
    desk.take(frames.FREED, 0, messages.pack_piece(offset, 0))
    assert desk.hand.arena.extents.taken == 0
    with pytest.raises(FrameError):  # twice
        desk.take(frames.FREED, 0, messages.pack_piece(offset, 0))


@pytest.mark.parametrize("in_lists", [False, True])
def test_what_went_together_and_could_not_be_read_goes_alone_once(in_lists: bool) -> None:
    desk = Desk(in_lists)
    requests = [Pending(Owner(), (value,), Guard()) for value in (1, 2)]  # type: ignore[arg-type]
    desk.hand.send(requests, desk, 0.0, 0.0)
    unread = messages.pack_seconds(0.0) + json.dumps(("", "CannotArrive", "text", "")).encode()
    for id in (1, 2):
        desk.take(frames.ERROR, id, unread)
    assert not desk.hand.ended
    assert desk.hand.send_again(2, 0.0)
    desk.take(frames.ERROR, 3, unread)
    assert isinstance(requests[0].failure, BackendError)
    assert [work for work, _ in desk.hand.ended] == [requests[0]]
    assert [each.id for each in desk.hand.sent.values()] == [4]
