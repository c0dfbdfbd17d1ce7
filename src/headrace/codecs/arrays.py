"""JSON values <-> arrays: what the JSON codecs share.

Rule 1: a value is what its datatype says or it is refused. 1.0 is no integer, true is no number, "1" is no number,
        null is nothing. The one concession is JSON's own: it has a single kind of number, and JavaScript writes 1 for
        1.0, so integers are taken where floats are expected.
Rule 2: NumPy is never left to guess. It would read "1" as 1 and null as NaN, and one long string between numbers would
        make every element as wide as the string.
Rule 3: no Python code per element where all is well. Only what has been refused is looked at one by one, to say where.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson

from headrace.errors import InvalidInput
from headrace.tensor import Array, TensorSpec, datatype_of

MAX_RANK = 32  # NumPy 1.26's; NumPy 2 takes 64. No model comes near
_LARGEST = 2**63 - 1  # bytes an array can address

# What JSON may hold where an array of this kind (`np.dtype.kind`) is wanted, and its words in messages.
_TAKES: dict[str, frozenset[type]] = {
    "b": frozenset({bool}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "f": frozenset({float, int}),
    "O": frozenset({str}),
}
_WORDS = {"b": "true or false", "i": "an integer", "u": "an integer", "f": "a number", "O": "a string"}


def parse_json(body: bytes | memoryview) -> Any:
    """What a JSON body holds. InvalidInput says where it stops being JSON."""
    if not len(body):
        raise InvalidInput("the body is empty, JSON was expected")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        try:
            bytes(body).decode()
        except UnicodeDecodeError as undecodable:
            raise InvalidInput(f"the body is not JSON: it is not UTF-8 at byte {undecodable.start}") from error
        raise InvalidInput(
            f"the body is not JSON: {error.msg} at position {error.pos} (line {error.lineno}, column {error.colno})"
        ) from error


def describe(value: object) -> str:
    """A JSON value in a few words, however large it is."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str():
            return f"the string {value[:40]!r}" + ("..." if len(value) > 40 else "")
        case list():
            return f"a list of {len(value)}"
        case dict():
            return "an object"
    return type(value).__name__


def quoted(names: Iterable[str]) -> str:
    """Names for a message, in their order: `'a', 'b'`. A long list is cut."""
    shown = [repr(name) if len(name) <= 60 else f"{name[:60]!r}..." for name in names]
    return ", ".join(shown[:20]) + (f", ... ({len(shown)} in all)" if len(shown) > 20 else "") or "none"


def datatype_name(dtype: np.dtype[Any]) -> str:
    """The protocol's name of a dtype, or NumPy's own in capitals where the protocol has none: COMPLEX64."""
    try:
        return datatype_of(dtype)
    except KeyError:
        return dtype.name.upper()


def check_shape(where: str, shape: Sequence[int], spec: TensorSpec) -> None:
    """InvalidInput unless `shape` has the rank and the dimensions of `spec`."""
    fits = len(shape) == len(spec.shape) and all(want in (None, came) for want, came in zip(spec.shape, shape))
    if not fits:
        expected = ", ".join("any" if want is None else str(want) for want in spec.shape)
        raise InvalidInput(f"{where}: shape [{expected}] was expected, {list(shape)} came")


def check_names(came: Mapping[str, object], specs: Sequence[TensorSpec]) -> None:
    """InvalidInput unless the inputs that came are the model's, all of them and no others."""
    wanted = [spec.name for spec in specs]
    if unknown := [name for name in came if name not in wanted]:
        raise InvalidInput(f"the model has no input {quoted(unknown)}; its inputs are {quoted(wanted)}")
    if missing := [name for name in wanted if name not in came]:
        raise InvalidInput(f"missing input {quoted(missing)}; {quoted(came)} came")


def nested_shape(value: object, where: str) -> tuple[int, ...]:
    """The shape nested lists have if they are even, read off the first element of each."""
    shape: list[int] = []
    while type(value) is list:
        shape.append(len(value))
        if len(shape) > MAX_RANK:
            raise InvalidInput(f"{where}: lists are nested deeper than {MAX_RANK}")
        if not value:
            break
        value = value[0]
    return tuple(shape)


def array_from_nested(value: object, dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Array:
    """The array of nested lists, which must have exactly `shape`. For no dimensions, a bare value."""
    level: list[Any] = [value]
    for axis, size in enumerate(shape):
        if not set(map(type, level)) <= {list} or not set(map(len, level)) <= {size}:
            odd = next(item for item in level if type(item) is not list or len(item) != size)
            raise InvalidInput(
                f"{where}: the nested data does not have shape {list(shape)}: "
                f"a list of {size} was expected at depth {axis + 1}, {describe(odd)} came"
            )
        level = list(chain.from_iterable(level)) if axis else level[0]
    return array_from_flat(level, dtype, shape, where)


def array_from_flat(flat: list[Any], dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Array:
    """The array of `flat`'s elements in row-major order. It owns its memory."""
    count = check_count(shape, dtype, where)
    if len(flat) != count:
        raise InvalidInput(f"{where}: shape {list(shape)} takes {count} elements, {len(flat)} came")
    if dtype.kind not in _TAKES:
        raise InvalidInput(f"{where}: {datatype_name(dtype)} cannot be sent as JSON")
    if not flat:
        return np.empty(shape, dtype)
    if dtype.kind in "bO" or not _are_numbers(flat, dtype):
        _check_types(flat, dtype, shape, where)
    if dtype.kind == "O":
        values: Array = np.empty(count, dtype)
        values[:] = flat
    elif dtype.kind == "b":
        values = np.fromiter(flat, dtype, count)
    else:
        values = _floats(flat, dtype, shape, where) if dtype.kind == "f" else _integers(flat, dtype, shape, where)
        suspects = np.flatnonzero((values == 0) | (values == 1))  # nothing else can have been true or false
        if len(suspects) > count // 8 or bool in {type(flat[at]) for at in suspects.tolist()}:
            _check_types(flat, dtype, shape, where)
    return values.reshape(shape)


def check_count(shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> int:
    """How many elements `shape` has. InvalidInput for a shape no array can have."""
    # The zeros apart: NumPy refuses [0, 2**62, 2**62] although it holds nothing.
    if math.prod(size or 1 for size in shape) * dtype.itemsize > _LARGEST or len(shape) > MAX_RANK:
        raise InvalidInput(f"{where}: shape {list(shape)} is more than an array can have")
    return math.prod(shape)


def native(array: Array) -> Array:
    """`array` as orjson reads it: row-major without gaps, in the machine's byte order. A copy only where needed."""
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


def _are_numbers(flat: list[Any], dtype: np.dtype[Any]) -> bool:
    """Whether all are numbers, whole ones for an integer dtype; true and false count as 1 and 0 here.

    A third of what looking at the types costs: `sum` stops at the first thing that is no number, and ends with an int
    only if there was no float.
    """
    try:
        return type(sum(flat)) is int or dtype.kind == "f"
    except TypeError:
        return False


def _check_types(flat: list[Any], dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> None:
    takes = _TAKES[dtype.kind]
    types = [*map(type, flat)]
    if types.count(types[0]) != len(types) or types[0] not in takes:  # counting is half the price of a set
        for at, kind in enumerate(types):
            if kind not in takes:
                raise InvalidInput(
                    f"{where}: {_element(at, shape)} must be {_WORDS[dtype.kind]} for {datatype_name(dtype)}, "
                    f"{describe(flat[at])} came"
                )


def _floats(flat: list[Any], dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Array:
    with np.errstate(over="ignore"):
        values = np.fromiter(flat, np.float64, len(flat)).astype(dtype, copy=False)
    finite = np.isfinite(values)
    if not finite.all():
        raise _out_of_range(int(finite.argmin()), flat, dtype, shape, where)
    return values


def _integers(flat: list[Any], dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Array:
    # By way of int64, because old NumPy wraps an integer that does not fit its dtype where new NumPy raises.
    bounds = np.iinfo(dtype)
    try:
        values = np.fromiter(flat, np.int64, len(flat))
        if bounds.min <= values.min() and values.max() <= bounds.max:
            return values.astype(dtype, copy=False)
    except OverflowError:
        if dtype.itemsize == 8 and dtype.kind == "u" and min(flat) >= 0:
            return np.fromiter(flat, dtype, len(flat))
    at = next(i for i, item in enumerate(flat) if not bounds.min <= item <= bounds.max)
    raise _out_of_range(at, flat, dtype, shape, where)


def _out_of_range(at: int, flat: list[Any], dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> InvalidInput:
    info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return InvalidInput(
        f"{where}: {_element(at, shape)} is out of range for {datatype_name(dtype)} "
        f"({info.min} to {info.max}): {flat[at]} came"
    )


def _element(at: int, shape: tuple[int, ...]) -> str:
    return f"element {[int(i) for i in np.unravel_index(at, shape)]}" if shape else "the value"
