"""Parcels: their descriptions are believed only within what there is."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.workers.messages import (
    ALIGN,
    MessageError,
    Parcel,
    pack_parcel,
    pack_piece,
    pack_seconds,
    pack_small,
    places_of,
    size_of,
    unpack_parcel,
    unpack_piece,
    unpack_seconds,
    unpack_small,
)

SIZES = st.lists(st.integers(0, 1000), max_size=5)


@given(st.integers(0, 500), SIZES)
def test_the_parts_of_a_parcel_lie_in_it_aligned_and_apart(pickled: int, arrays: list[int]) -> None:
    places, end = places_of(pickled, arrays), pickled
    for place, nbytes in zip(places, arrays):
        assert place % ALIGN == 0
        assert place >= end
        end = place + nbytes
    assert end <= size_of(pickled, arrays)


@given(st.booleans(), st.integers(0, 10_000), st.integers(0, 500), SIZES)
def test_a_parcel_is_what_was_packed(in_arena: bool, offset: int, pickled: int, arrays: list[int]) -> None:
    parcel = Parcel(in_arena, offset, pickled, tuple(arrays))
    inline = b"" if in_arena else bytes(parcel.nbytes)
    packed = pack_parcel(parcel) + inline
    came, at = unpack_parcel(b"head" + packed, 4, offset + parcel.nbytes)
    assert came == parcel
    assert at == 4 + len(packed) - len(inline)


@given(st.binary(max_size=120), st.integers(0, 5000))
def test_any_bytes_are_a_parcel_within_bounds_or_an_error(payload: bytes, arena: int) -> None:
    try:
        parcel, at = unpack_parcel(payload, 0, arena)
    except MessageError:
        return
    room = arena - parcel.offset if parcel.in_arena else len(payload) - at
    assert 0 <= parcel.nbytes <= room


def test_a_parcel_that_reaches_out_of_the_arena_is_refused() -> None:
    packed = pack_parcel(Parcel(True, 4096, 100, ()))
    assert unpack_parcel(packed, 0, 4196)[0].offset == 4096
    for arena in (4195, 4096, 10, 0):
        with pytest.raises(MessageError):
            unpack_parcel(packed, 0, arena)


def test_what_is_cut_off_is_an_error() -> None:
    for whole, read in (
        (pack_small(b"abc"), lambda data: unpack_parcel(data, 0, 0)),
        (pack_piece(1, 2), unpack_piece),
        (pack_seconds(1.0), unpack_seconds),
    ):
        for cut in range(len(whole)):
            with pytest.raises(MessageError):
                read(whole[:cut])


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 1e12])
def test_a_run_took_some_time(seconds: float) -> None:
    with pytest.raises(MessageError):
        unpack_seconds(pack_seconds(seconds))


@example(0, 0, 8, 65, 32)
@example(0, 0, 9, 0, 32)
@example(0, 1, 0, 0, 24)
@given(
    st.sampled_from([0, 1, 2, 5000, 2**32 - 1]),
    st.sampled_from([0, 1, 2]),
    st.sampled_from([0, 1, 8, 9, 2**63, 2**64 - 1]),
    st.sampled_from([0, 1, 64, 65, 2**64 - 1]),
    st.integers(0, 32),
)
def test_the_short_way_takes_nothing_that_the_other_refuses(
    count: int, in_arena: int, pickled: int, offset: int, kept: int
) -> None:
    payload = (struct.pack("<IIQQ", count, in_arena, pickled, offset) + b"8 bytes.")[:kept]
    small = unpack_small(payload, 0)
    if small is not None:
        parcel, at = unpack_parcel(payload, 0, 64)
        assert (parcel.arrays, parcel.in_arena) == ((), False)
        assert payload[at : at + parcel.pickled] == small
