"""What one request is given is no other's, also where its caller has sent the same object with several."""

from collections.abc import Callable

import numpy as np

import headrace as hr

Compile = Callable[..., hr.Model]


def test_a_request_that_is_changed_in_place_is_no_other(compiled: Compile) -> None:
    model = compiled("appends", source="worker_handlers:appends")
    shared: tuple[list[int]] = ([],)
    assert set(model.map([shared] * 300, window=100)) == {1}
    seen: list[int] = []
    assert set(model.map([(i, seen) for i in range(300)], window=100)) == {1}
    assert (shared, seen) == (([],), [])


def test_an_object_that_is_twice_in_one_request_is_one_there(compiled: Compile) -> None:
    model = compiled("is_one", source="worker_handlers:is_one")
    shared = [1]
    assert set(model.map([(shared, shared) for _ in range(300)], window=100)) == {True}


def test_an_array_is_other_memory_in_each_request(compiled: Compile) -> None:
    model = compiled("counts_up", source="worker_handlers:counts_up")
    for array in (np.zeros(10, np.int64), np.zeros(10_000, np.int64), np.array([0, 0], object)):
        before = array.copy()
        assert set(model.map([array] * 50, window=20)) == {len(array)}
        assert np.array_equal(array, before)


def test_objects_of_the_workers_environment_alone_are_read_apart_too(compiled: Compile) -> None:
    model = compiled("echo", source="worker_handlers:echo")
    given = [(np.float32(i), {i}) for i in range(100)]
    assert list(model.map(given, window=50)) == given
