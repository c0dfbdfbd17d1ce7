"""Other bounds on batches while requests come, wait and run."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import headrace as hr
from headrace.errors import InvalidOption
from headrace.testing import Gate

PATIENCE = 30


def test_the_next_batch_is_joined_by_the_new_bounds() -> None:
    gate, sizes = Gate(), list[int]()

    def record(xs: list[int]) -> list[int]:
        sizes.append(len(xs))
        if len(sizes) == 1:
            gate()
        return xs

    with hr.compile_model(record, max_batch_size=2) as model:
        first = model.submit(0)
        gate.wait()
        waiting = [model.submit(i) for i in range(1, 9)]
        model.rebatch(8)
        gate.open()
        assert [future.result(PATIENCE) for future in (first, *waiting)] == list(range(9))
        assert sizes == [1, 8]
        assert (model.max_batch_size, model.batching) == (8, "as asked")


def test_a_shorter_delay_holds_for_what_waits_already() -> None:
    gate, ran = Gate(), threading.Event()

    def block(xs: list[str]) -> list[str]:
        if xs == ["blocks"]:
            gate()
        else:
            ran.set()
        return xs

    with hr.compile_model(
        block, max_batch_size=4, max_batch_delay=1000, scheduler="multi_stream", num_streams=2
    ) as model:
        if len(model.placements) < 2:
            pytest.skip("two streams need two cores")
        blocked = model.submit("blocks")
        gate.wait()
        waits = model.submit("waits for company")
        assert not waits.can_read()
        model.rebatch(max_batch_delay=0)
        assert ran.wait(PATIENCE)
        assert waits.result(PATIENCE) == "waits for company"
        gate.open()
        blocked.result(PATIENCE)


def test_rows_of_tensors_are_joined_only_where_they_may_be(graph: Callable[..., bytes]) -> None:
    def double(rows: int | str) -> bytes:
        return graph([("Add", ["x", "x"], ["y"], {})], {"x": [rows, 2]}, {"y": [rows, 2]})

    with hr.compile_model(double("n"), max_batch_size=4) as model:
        model.rebatch(1)
        np.testing.assert_array_equal(model(np.ones((2, 2), np.float32)), np.full((2, 2), 2))
        model.rebatch(16)
        assert model.max_batch_size == 16
    with hr.compile_model(double(1), max_batch_size=None) as model, pytest.raises(InvalidOption, match="not free"):
        model.rebatch(2)


def test_what_a_callable_is_called_with_does_not_change_under_it() -> None:
    with hr.compile_model(lambda x: x) as model:
        with pytest.raises(InvalidOption, match="called with one request"):
            model.rebatch(2)
        model.rebatch(1, 0.5)
        assert (model.max_batch_size, model.max_batch_delay) == (1, 0.5)
    with hr.compile_model(lambda xs: xs, max_batch_size=2) as model:
        with pytest.raises(InvalidOption, match="lists of requests"):
            model.rebatch(1)
        assert model.max_batch_size == 2


@pytest.mark.parametrize(("size", "delay"), [(0, None), (-1, None), (True, None), (None, -1), (None, float("nan"))])
def test_what_is_no_bound_is_refused_and_changes_nothing(size: Any, delay: Any) -> None:
    with hr.compile_model(lambda xs: xs, max_batch_size=3, max_batch_delay=0.25) as model:
        with pytest.raises(InvalidOption):
            model.rebatch(size, delay)
        assert (model.max_batch_size, model.max_batch_delay) == (3, 0.25)


@pytest.mark.parametrize("seed", range(3))
def test_no_request_is_lost_while_bounds_change(seed: int) -> None:
    random_ = random.Random(seed)
    most = 0

    def record(xs: list[int]) -> list[int]:
        nonlocal most
        most = max(most, len(xs))
        return xs

    with hr.compile_model(record, max_batch_size=2, scheduler="multi_stream") as model:
        futures = []
        for i in range(2000):
            futures.append(model.submit(i))
            if i % 20 == 0:
                model.rebatch(random_.randrange(2, 9), random_.choice((0.0, 0.001)))
        model.rebatch(max_batch_delay=0.0)
        assert [future.result(PATIENCE) for future in futures] == list(range(2000))
        assert most <= 8
