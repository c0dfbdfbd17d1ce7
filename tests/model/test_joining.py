import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headrace.errors import BackendError
from headrace.model.joining import join, likeness, split, split_list
from headrace.tensor import Array


@st.composite
def alike_requests(draw: st.DrawFn) -> list[tuple[Array, ...]]:
    """Requests to one model: each input has a dtype and inner dimensions of its own, each request its rows."""
    kinds = draw(
        st.lists(
            st.tuples(
                st.sampled_from([np.float32, np.int64, np.bool_, np.float16, np.object_]),
                hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3),
            ),
            min_size=1,
            max_size=3,
        )
    )
    rows = draw(st.lists(st.integers(0, 4), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return [tuple(rng.integers(0, 2, (count, *inner)).astype(dtype) for dtype, inner in kinds) for count in rows]


@given(alike_requests())
def test_what_is_joined_comes_apart_as_it_was(requests: list[tuple[Array, ...]]) -> None:
    assert len({likeness(request) for request in requests}) == 1
    joined = join(requests)
    parts = split(joined, [request[0].shape[0] for request in requests])
    assert len(parts) == len(requests)
    for part, request in zip(parts, requests):
        for output, array in zip(part, request):
            assert output.dtype == array.dtype
            np.testing.assert_array_equal(output, array, strict=True)


@given(alike_requests())
def test_no_answer_shares_memory_with_another_or_with_an_input(requests: list[tuple[Array, ...]]) -> None:
    parts = split(join(requests), [request[0].shape[0] for request in requests])
    arrays = [array for one in (*parts, *requests) for array in one if array.size]
    for i, array in enumerate(arrays):
        assert not any(np.shares_memory(array, other) for other in arrays[i + 1 :])


def test_each_request_gets_the_rows_it_brought() -> None:
    outputs = [np.arange(6), np.arange(12).reshape(6, 2)]
    first, none, last = split(outputs, [2, 0, 4])
    assert [a.tolist() for a in first] == [[0, 1], [[0, 1], [2, 3]]]
    assert [a.shape for a in none] == [(0,), (0, 2)]
    assert [a.tolist() for a in last] == [[2, 3, 4, 5], [[4, 5], [6, 7], [8, 9], [10, 11]]]


@pytest.mark.parametrize("wrong", [np.zeros((5, 2)), np.zeros((7, 2)), np.zeros((1, 6)), np.zeros(()), np.zeros((0,))])
def test_an_output_with_the_wrong_number_of_rows_is_an_error_of_the_model(wrong: Array) -> None:
    with pytest.raises(BackendError, match=r"a batch of 6 rows came back with output 1 of shape"):
        split([np.zeros((6, 2)), wrong], [2, 4])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([np.zeros((1, 2), np.float32)], [np.zeros((1, 2), np.float64)]),
        ([np.zeros((1, 2), np.float32)], [np.zeros((1, 3), np.float32)]),
        ([np.zeros((1, 2), np.float32)], [np.zeros((1, 2, 1), np.float32)]),
        ([np.zeros((1, 2)), np.zeros((1, 2))], [np.zeros((1, 2)), np.zeros((1, 3))]),
    ],
)
def test_only_requests_alike_in_dtype_and_inner_dimensions_are_joined(one: list[Array], other: list[Array]) -> None:
    assert likeness(one) != likeness(other)


def test_rows_make_no_difference_to_likeness() -> None:
    assert likeness([np.zeros((1, 2))]) == likeness([np.zeros((5, 2))])


def test_a_request_whose_inputs_differ_in_rows_is_like_nothing_else() -> None:
    """Two such requests may add up to as many rows of each input: the run succeeds, with everybody's rows mixed up."""
    one = [np.zeros((2, 3)), np.zeros((1, 3))]
    other = [np.zeros((1, 3)), np.zeros((2, 3))]
    assert likeness(one) != likeness(other)
    assert likeness(one) != likeness(one)
    assert likeness(one) != likeness([np.zeros((2, 3)), np.zeros((2, 3))])


def test_a_list_of_answers_is_taken_as_it_is() -> None:
    assert split_list([1, None], 2) == [1, None]
    assert split_list((1, [2]), 2) == [1, [2]]


@pytest.mark.parametrize("answer", [[], [1], [1, 2, 3]])
def test_the_wrong_number_of_answers_is_an_error_of_the_model(answer: list[int]) -> None:
    with pytest.raises(BackendError, match=f"a batch of 2 requests came back as {len(answer)} answers"):
        split_list(answer, 2)


@pytest.mark.parametrize("answer", [None, "ab", {"a": 1, "b": 2}, np.zeros(2), 2, iter([1, 2])])
def test_what_is_no_list_is_no_list_of_answers(answer: object) -> None:
    with pytest.raises(BackendError, match=f"returns a list .*given 2 and returned a {type(answer).__name__}"):
        split_list(answer, 2)
