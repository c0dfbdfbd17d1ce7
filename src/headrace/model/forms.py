"""What callers hand in and get back.

Array in, array out (a list if the model has several outputs). A list in input order: a list. A dict by name: a dict.
Elements are NumPy arrays of the model's own dtype: nothing is cast in silence. Inputs are referenced, not copied.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.backends.base import Loaded
from headrace.errors import InvalidInput
from headrace.tensor import Array, TensorSpec


class Form(enum.Enum):
    ONE = enum.auto()
    LIST = enum.auto()
    DICT = enum.auto()


_ONE, _LIST, _DICT = Form  # a name is found ten times as fast as a member of an Enum, and requests ask three times

Read = tuple[tuple[Any, ...], tuple[str, ...] | None, Form]
"""Inputs in the model's order; the names they are passed by, if they are; and the form they came in."""


class TensorForms:
    """The forms of a model that says what its inputs and outputs are."""

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._takes = "; ".join(str(spec) for spec in inputs) or "nothing"
        self._dtype: np.dtype[Any] | None = None  # of the last single array that was let through
        self._shape: tuple[int, ...] = ()

    def read(self, value: Any) -> Read:
        """Raises InvalidInput for the wrong form, count, name, dtype or shape."""
        if isinstance(value, np.ndarray):
            if type(value) is not np.ndarray:
                _has_no_mask(self._inputs[0].name if self._inputs else "", value)
            # Requests are mostly like the one before: what was let through needs no second look.
            if value.dtype is self._dtype and value.shape == self._shape:
                return (value,), None, _ONE
            self._count(1)
            checked = self._check(self._inputs[0], value)
            if checked is value and value.dtype.kind != "O":
                self._dtype, self._shape = value.dtype, value.shape
            return (checked,), None, _ONE
        if isinstance(value, Mapping):
            return self.read_by_name(value), None, _DICT
        if isinstance(value, list | tuple):
            self._count(len(value))
            arrays = tuple(self._check(spec, element) for spec, element in zip(self._inputs, value))
            return arrays, None, _LIST
        raise InvalidInput(
            f"an input is a NumPy array, a list of them in the model's order, or a dict by name; {_kind(value)} "
            f"came{_conversion(value)}. The model takes {self._takes}"
        )

    def read_by_name(self, value: Mapping[str, Any]) -> tuple[Array, ...]:
        names = [spec.name for spec in self._inputs]
        missing, unknown = [n for n in names if n not in value], [n for n in value if n not in names]
        if missing or unknown:
            wrong = [f"{', '.join(map(repr, missing))} is missing"] if missing else []
            wrong += [f"{', '.join(map(repr, unknown))} is not one of its inputs"] if unknown else []
            raise InvalidInput(f"{' and '.join(wrong)}. The model takes {self._takes}")
        return tuple(self._check(spec, value[spec.name]) for spec in self._inputs)

    def write(self, outputs: list[Array], form: Form) -> Any:
        if form is _ONE and len(outputs) == 1:
            return outputs[0]
        if form is _DICT:
            return dict(zip((spec.name for spec in self._outputs), outputs))
        return outputs

    def _count(self, came: int) -> None:
        if came != len(self._inputs):
            raise InvalidInput(f"{came} input{'s' * (came != 1)} came. The model takes {self._takes}")

    def _check(self, spec: TensorSpec, value: Any) -> Array:
        if not isinstance(value, np.ndarray):
            hint = _conversion(value) or "; make it one with np.asarray(…, dtype=…)"
            raise InvalidInput(f"input {spec.name!r} is a NumPy array; {_kind(value)} came{hint}")
        if type(value) is not np.ndarray:
            _has_no_mask(spec.name, value)
        if not spec.takes(value):
            raise InvalidInput(
                f"input {spec.name!r} takes {str(spec).removeprefix(spec.name + ': ')}; "
                f"an array of {value.dtype} {list(value.shape)} came{_hint(spec, value)}"
            )
        return _text(spec, value) if spec.dtype.kind == "O" else value


class CallableForms:
    """The forms of a callable: any value; several as a list or a dict if it `spreads` them."""

    def __init__(self, loaded: Loaded, in_lists: bool) -> None:
        self._spreads = loaded.spreads and not in_lists

    def read(self, value: Any) -> Read:
        if self._spreads and type(value) is list:
            return tuple(value), None, _LIST
        if self._spreads and type(value) is dict:
            if not all(isinstance(name, str) for name in value):
                raise InvalidInput("a dict is passed to a callable by name; its keys must be strings")
            return tuple(value.values()), tuple(value), _DICT
        return (value,), None, _ONE

    def write(self, outputs: list[Any], form: Form) -> Any:
        return outputs[0]


Forms = TensorForms | CallableForms


def _kind(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _conversion(value: Any) -> str:
    return "; call .numpy() on it" if hasattr(value, "numpy") else ""


def _has_no_mask(name: str, value: Array) -> None:
    """A runtime sees what lies under a mask."""
    if isinstance(value, np.ma.MaskedArray):
        raise InvalidInput(
            f"input {name!r} is a masked array, and would lose its mask: x.filled(VALUE) says what is to stand there"
        )


def _text(spec: TensorSpec, value: Array) -> Array:
    """`value` as an object array of str; UTF-8 for bytes.

    A runtime makes text of whatever it finds in there (`None` becomes "None"), and ONNX Runtime reads beyond the end
    of an element of an array of bytes ("S"): neither may reach it.
    """
    if value.dtype.kind == "O" and all(type(element) is str for element in value.flat):
        return value
    text = np.empty(value.shape, object)
    for i, element in enumerate(value.flat):
        if isinstance(element, bytes):
            try:
                element = element.decode()
            except UnicodeDecodeError as error:
                raise InvalidInput(f"input {spec.name!r} takes text; element {i} is not UTF-8") from error
        if not isinstance(element, str):
            raise InvalidInput(f"input {spec.name!r} takes text; element {i} is {_kind(element)}")
        text.flat[i] = str(element)
    return text


def _hint(spec: TensorSpec, value: Array) -> str:
    """What to do about the two mistakes that are made most."""
    if value.dtype != spec.dtype and value.dtype.kind in "iufb" and spec.dtype.kind in "iufb":
        return f"; nothing is cast in silence: use x.astype(np.{spec.dtype})"
    if value.ndim + 1 == len(spec.shape):
        return "; is the batch dimension missing? x[np.newaxis] adds one"
    return ""
