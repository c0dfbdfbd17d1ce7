"""Parts of an answer, and metrics: whatever a process sends of them, late, twice or about what it was never given."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_answers import Desk, Owner

from headrace.engine.guard import Guard
from headrace.errors import BackendError, WorkerDied
from headrace.model.pending import Pending
from headrace.workers import burial, frames, messages
from headrace.workers.answers import Answers
from headrace.workers.frames import FrameError
from headrace.workers.in_hand import Sent
from headrace.workers.values import Encoder


class Listening(Pending):
    """One that takes parts."""

    __slots__ = ("came", "parted")

    def __init__(self) -> None:
        super().__init__(Owner(), ("x",), Guard())  # type: ignore[arg-type]
        self.came: list[tuple[Any, int, Callable[[int], object]]] = []
        self.parted = False

    def take_part(self, part: Any, nbytes: int, read: Callable[[int], object]) -> bool:
        self.came.append((part, nbytes, read))
        self.parted = True
        return True


def pickled(value: object) -> bytes:
    return Encoder().encode(value)[0]


def batch(desk: Desk, *requests: Pending) -> Sent:
    desk.hand.sent[1] = sent = Sent(1, requests[0], requests, 0.0)
    desk.hand._next = 1
    return sent


def test_a_part_goes_to_its_own_request_of_the_batch() -> None:
    desk, first, second = Desk(in_lists=True), Listening(), Listening()
    batch(desk, first, second)
    assert desk.take(frames.PART, 1, pickled(b"one"), 1) == b""
    assert [part for part, *_ in second.came] == [b"one"]
    assert first.came == []
    desk.answer(1, [b"a", b"b"])
    assert (first.outcome, second.outcome) == ([b"a"], [b"b"])
    desk.hand.arena.close()


def test_a_part_that_nobody_takes_has_been_read() -> None:
    desk = Desk()
    desk.send("a")
    data = desk.take(frames.PART, 1, pickled(b"x" * 100), 0)
    (frame,) = frames.Decoder(frames.TO_WORKER).feed(data)
    assert (frame.kind, frame.id) == (frames.MORE, 1)
    assert messages.unpack_piece(frame.payload) == (0, len(pickled(b"x" * 100)))
    desk.hand.arena.close()


def test_a_part_of_what_has_ended_is_dropped_and_of_what_never_was_refused() -> None:
    desk = Desk()
    desk.send("a")
    desk.answer(1, 1)
    assert desk.take(frames.PART, 1, pickled(b"late"), 0) == b""
    for id in (0, 2, 2**32 - 1):
        with pytest.raises(FrameError, match="which it does not have"):
            desk.take(frames.PART, id, pickled(b"x"), 0)
    desk.hand.arena.close()


def test_a_part_of_a_member_there_is_not_is_refused() -> None:
    desk = Desk()
    desk.send("a")
    with pytest.raises(FrameError, match="answer 1 of a batch of 1"):
        desk.take(frames.PART, 1, pickled(b"x"), 1)
    desk.hand.arena.close()


def test_a_part_that_is_no_data_fails_its_own_request() -> None:
    desk = Desk()
    (request,) = desk.send("a")
    desk.take(frames.PART, 1, b"\x80\x05cos\nsystem\n.", 0)
    desk.answer(1, "the rest")
    assert isinstance(request.failure, BackendError)
    assert "os.system" in str(request.failure)
    desk.hand.arena.close()


def test_of_a_batch_that_fails_who_has_answered_in_part_is_not_run_again() -> None:
    desk, first, second = Desk(in_lists=True), Listening(), Listening()
    batch(desk, first, second)
    desk.take(frames.PART, 1, pickled(b"x"), 0)
    error = json.dumps(["m", "ValueError", "no", ""]).encode()
    desk.take(frames.ERROR, 1, messages.pack_seconds(0) + error)
    assert isinstance(first.failure, BackendError)
    assert [each.requests for each in desk.hand.again] == [(second,)]
    desk.hand.arena.close()


def test_what_was_answered_in_part_is_not_run_again_when_its_worker_dies() -> None:
    begun, parted = Listening(), Listening()
    parted.parted = True
    died = WorkerDied("m", "died")
    fates = burial.part([Sent(1, begun, (begun,), 0.0), Sent(2, parted, (parted,), 0.0)], 2, set(), True, died)
    assert [(ends, waits) for _, ends, waits, _ in fates] == [([], [begun]), ([parted], [])]
    assert parted.failure is died


def test_metrics_are_told_and_what_is_none_ends_the_process() -> None:
    desk, told = Desk(), []  # type: ignore[var-annotated]
    answers = Answers(desk.hand, "m", None, tell=told.append)
    answers.take(frames.Frame(frames.METRICS, 0, 0, 1, 0, b'[["a", "counter", "", 1, {}]]'))
    assert told == [[["a", "counter", "", 1, {}]]]

    def refuse(_: object) -> None:
        raise ValueError("not a list")

    answers = Answers(desk.hand, "m", None, tell=refuse)
    for payload in (b"{}", b"no JSON", b"[" * 100_000):
        with pytest.raises(FrameError, match="metrics that are none"):
            answers.take(frames.Frame(frames.METRICS, 0, 0, 1, 0, payload))
    desk.hand.arena.close()


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.one_of(st.binary(max_size=40), st.just(pickled(b"part"))))
    )
)
def test_any_parts_are_taken_refused_or_dropped(sent: list[tuple[int, int, bytes]]) -> None:
    desk, requests = Desk(in_lists=True), (Listening(), Listening())
    batch(desk, *requests)
    for id, index, payload in sent:
        try:
            desk.take(frames.PART, id, payload, index)
        except FrameError:
            assert id != 1 or index > 1
    for request in requests:
        assert all(nbytes > 0 for _, nbytes, _ in request.came)
    desk.hand.arena.close()
