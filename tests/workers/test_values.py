"""Values between processes: the same on the other side, and nothing but data comes out of a worker."""

import contextlib
import datetime
import decimal
import os
import pickle
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.workers.values import Encoder, NotData, Raised, Reader, decode

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


def across(value: Any, *, trusting: bool = False) -> Any:
    pickled, arrays = Encoder().encode(value)
    buffers = [np.frombuffer(bytearray(array.tobytes()), np.uint8) for array in arrays]
    return decode(pickled, buffers, trusting=trusting, own=True)


@given(PLAIN)
def test_plain_values_are_the_same_on_the_other_side(value: Any) -> None:
    assert across(value) == value


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.arange(12).reshape(3, 4).T,
        np.arange(12)[::2],
        np.array(3.5),
        np.zeros((0, 3), np.int8),
        np.array(["a", "bc"]),
        np.array([b"a", b"bc"]),
        np.array(["2026-01-01"], "datetime64[D]"),
        np.arange(3, dtype=">i4"),
        np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array([(1, 2.5)], np.dtype([("a", "i1"), ("b", "f8")], align=True)),
        np.array([(1, [2, 3], (4, 5.5))], [("a", "i1"), ("b", "i2", (2,)), ("c", [("d", "u1"), ("e", ">f4")])]),
        np.zeros(2, {"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 2], "itemsize": 9}),
        np.zeros(2, {"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [4, 0]}),
        np.zeros(2, [(("title", "a"), "i4")]),
        np.zeros(2, []),
        np.zeros((2, 3), "V0"),
        np.array(["text", 3, None], dtype=object),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_are_the_same_on_the_other_side_and_nobody_elses_memory(array: Any) -> None:
    came = across({"x": array})["x"]
    assert type(came) is np.ndarray
    assert came.dtype == array.dtype
    assert came.shape == array.shape
    assert np.array_equal(came, array)
    if came.dtype != object:
        assert came.flags.owndata or came.base.flags.owndata
        assert came.flags.writeable


def test_scalars_dates_and_their_like_are_data() -> None:
    for value in (
        np.float32(1.5),
        np.int64(3),
        np.bool_(True),
        datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        decimal.Decimal("1.5"),
        uuid.UUID(int=5),
        {1, 2},
        frozenset((1,)),
        1 + 2j,
        range(3),
    ):
        came = across(value)
        assert type(came) is type(value)
        assert came == value


def test_an_exception_comes_as_text() -> None:
    try:
        raise ValueError("wrong")
    except ValueError as error:
        came = across(error)
    assert isinstance(came, Raised)
    assert (came.module, came.kind, came.text) == ("builtins", "ValueError", "wrong")
    assert "test_values.py" in came.trace


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("echo it has run > /dev/null",)


@pytest.mark.parametrize("value", [Bomb(), Bomb, os.system, np.dtype, eval, os.path], ids=repr)
def test_what_a_worker_sends_runs_nothing_and_imports_nothing(value: Any) -> None:
    try:
        pickled = pickle.dumps(value, 5)
    except TypeError:
        return  # it cannot even be sent
    for read in (lambda: decode(pickled, (), trusting=False, own=True), Reader(pickled).read):
        with pytest.raises(NotData):
            read()


def test_arrays_of_pointers_are_refused() -> None:
    pickled = pickle.dumps(np.array([1, None], object), 5)
    with pytest.raises(NotData):
        decode(pickled, (), trusting=False, own=True)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_an_error(data: bytes) -> None:
    with contextlib.suppress(Exception):
        decode(data, (), trusting=False, own=True)


@given(st.lists(PLAIN, min_size=1, max_size=5))
def test_several_answers_in_one_piece_come_out_one_by_one(values: list[Any]) -> None:
    encoder = Encoder()
    reader = Reader(b"".join(encoder.encode(value)[0] for value in values))
    assert [reader.read() for _ in values] == values


def test_an_exception_among_other_things_is_one_that_says_the_same() -> None:
    came = across({"failed": [KeyError("text"), StopIteration()]})["failed"]
    assert all(isinstance(each, Exception) for each in came)
    assert [str(each) for each in came] == ["KeyError: 'text'", "StopIteration"]
