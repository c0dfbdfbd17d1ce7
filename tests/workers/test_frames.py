"""Frames: whatever is cut, whatever lies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.workers import frames
from headrace.workers.frames import (
    ANSWER,
    FROM_WORKER,
    HEADER,
    MAX_PAYLOAD,
    RUN,
    TO_WORKER,
    Decoder,
    FrameError,
    encode,
)

FRAMES = st.lists(
    st.tuples(
        st.sampled_from(sorted(FROM_WORKER)), st.binary(max_size=200), st.integers(0, 2**32 - 1), st.integers(0, 99)
    ),
    max_size=8,
)


@given(FRAMES, st.data())
def test_however_bytes_are_cut_the_same_frames_come_out(
    sent: list[tuple[int, bytes, int, int]], data: st.DataObject
) -> None:
    whole = b"".join(encode(kind, payload, id=id, generation=7, count=count) for kind, payload, id, count in sent)
    decoder, came, at = Decoder(FROM_WORKER, 7), [], 0
    while at < len(whole):
        size = data.draw(st.integers(1, len(whole) - at))
        came += decoder.feed(whole[at : at + size])
        at += size
    decoder.close()
    assert [(frame.kind, frame.payload, frame.id, frame.runs) for frame in came] == sent
    assert decoder.unread == 0


@given(st.binary(max_size=400), st.binary(max_size=40))
def test_any_bytes_are_frames_or_an_error_and_nothing_is_kept_for_a_lie(first: bytes, second: bytes) -> None:
    decoder = Decoder(FROM_WORKER, 1)
    try:
        for part in (first, second):
            for frame in decoder.feed(part):
                assert frame.kind in FROM_WORKER
                assert frame.generation == 1
                assert len(frame.payload) <= MAX_PAYLOAD
        decoder.close()
    except FrameError:
        with pytest.raises(FrameError):
            decoder.feed(encode(ANSWER, generation=1))
    assert decoder.unread <= len(first) + len(second)


def test_a_length_that_lies_is_refused_before_anything_is_kept_for_it() -> None:
    decoder = Decoder(FROM_WORKER)
    with pytest.raises(FrameError, match="no frame"):
        decoder.feed(HEADER.pack(MAX_PAYLOAD + 1, ANSWER, 0, 1, 0, 0))


def test_half_a_frame_at_the_end_is_an_error() -> None:
    whole = encode(ANSWER, b"abc")
    for cut in range(1, len(whole)):
        decoder = Decoder(FROM_WORKER)
        assert decoder.feed(whole[:cut]) == []
        with pytest.raises(FrameError, match=f"{cut} bytes of a frame unread"):
            decoder.close()


def test_a_frame_of_another_generation_or_direction_is_refused() -> None:
    with pytest.raises(FrameError, match="generation 2 came to generation 3"):
        Decoder(FROM_WORKER, 3).feed(encode(ANSWER, generation=2))
    with pytest.raises(FrameError):
        Decoder(FROM_WORKER, 3).feed(encode(RUN, generation=3))
    assert not TO_WORKER & FROM_WORKER


def test_what_is_too_large_for_a_frame_is_not_sent() -> None:
    with pytest.raises(FrameError):
        frames.encode(RUN, bytes(MAX_PAYLOAD + 1))
