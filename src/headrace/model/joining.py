"""Requests into one run, and its outputs back to requests. Pure.

Only requests alike in dtypes and in all dimensions but the first are joined: along the first.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from headrace.errors import BackendError
from headrace.tensor import Array


def likeness(inputs: Sequence[Array]) -> Hashable:
    """Equal for requests that can be joined."""
    if len(inputs) == 1:
        return inputs[0].dtype.char, inputs[0].shape[1:]
    rows = inputs[0].shape[0]
    if any(array.shape[0] != rows for array in inputs):
        return object()  # like nothing else: joined, its rows would meet a neighbour's, and the run might well succeed
    return tuple((array.dtype.char, array.shape[1:]) for array in inputs)


def join(requests: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
    """The inputs of one run: each input's rows, one request after the other."""
    return tuple(np.concatenate(column) for column in zip(*requests))


def split(outputs: Sequence[Array], rows: Sequence[int]) -> list[list[Array]]:
    """Each request's own outputs, as views. BackendError if an output has not one row for each row that went in."""
    total = sum(rows)
    for i, output in enumerate(outputs):
        if not output.shape or output.shape[0] != total:
            raise BackendError(f"a batch of {total} rows came back with output {i} of shape {list(output.shape)}")
    parts: list[list[Array]] = []
    start = 0
    for count in rows:
        parts.append([output[start : start + count] for output in outputs])
        start += count
    return parts


def split_list(answer: Any, count: int) -> list[Any]:
    """A callable's answers to a list of `count` requests. BackendError if it is no list of that length."""
    if not isinstance(answer, list | tuple):  # nothing else: text and dicts have a length too
        raise BackendError(
            "with max_batch_size above 1 a callable is given a list of requests and returns a list of as many "
            f"answers; it was given {count} and returned a {type(answer).__name__}"
        )
    if len(answer) != count:
        raise BackendError(f"a batch of {count} requests came back as {len(answer)} answers")
    return list(answer)
