"""What clients send as tensors, as arrays of what a model takes.

Rule 1: where the model says its names, dtypes and shapes, they are held to; where it does not (eager modules, many
        TorchScript files), whole numbers are int64 and others float32.
Rule 2: nothing is cast silently: a text is no number, 1.5 is no integer.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, NamedTuple, Sequence

import numpy as np


class Spec(NamedTuple):
    """What is known of an input. `dtype`: None where it is not known; `shape` too; a size that is free is None."""

    name: str
    dtype: Any = None
    shape: tuple[int | None, ...] | None = None

    def __str__(self) -> str:
        shape = "any shape" if self.shape is None else [-1 if size is None else size for size in self.shape]
        return "{} {}".format("any dtype" if self.dtype is None else np.dtype(self.dtype).name, shape)


def from_json(value: Any, specs: Sequence[Spec], bad: type[Exception]) -> dict[str, Any]:
    """An object keyed by the inputs' names or, where there is one input, its nested lists."""
    names = [spec.name for spec in specs]
    if isinstance(value, dict):
        if set(value) != set(names):
            raise bad(f"an object with the keys {_list(names)} is expected, {_list(value)} came")
        return {spec.name: array_of(value[spec.name], spec, bad) for spec in specs}
    if len(specs) != 1:
        raise bad(f"an object with the keys {_list(names)} is expected")
    return {names[0]: array_of(value, specs[0], bad)}


def from_bytes(body: Any, specs: Sequence[Spec], bad: type[Exception]) -> dict[str, Any]:
    """The one input from its raw bytes, little-endian and row-major. Its first size follows from their number."""
    if len(specs) != 1:
        raise bad(f"raw bytes are taken by models with one input; this one has {_list([s.name for s in specs])}")
    (spec,) = specs
    if spec.dtype is None or spec.shape is None or None in spec.shape[1:]:
        raise bad(
            f"input {spec.name!r} is {spec}, so raw bytes do not say its shape: send JSON, or declare it in the "
            "archive's YAML: handler: {inputs: [{name: x, dtype: float32, shape: [-1, 3, 224, 224]}]}"
        )
    dtype = np.dtype(spec.dtype)
    inner = tuple(size for size in spec.shape[1:] if size is not None)
    row = math.prod(inner) * dtype.itemsize
    rows, rest = divmod(len(body), row) if row else (0, 1)
    if rest or not rows or (not spec.shape and rows != 1):
        raise bad(f"input {spec.name!r} is {spec}: whole rows of {row} bytes are expected, {len(body)} bytes came")
    values = np.frombuffer(bytes(body), dtype.newbyteorder("<")).reshape((rows, *inner) if spec.shape else ())
    check_shape(values.shape, spec, bad)
    return {spec.name: values.astype(dtype, copy=False)}


def array_of(value: Any, spec: Spec, bad: type[Exception], shape: tuple[int, ...] | None = None) -> Any:
    """The input from its nested lists, or from flat ones of that `shape`."""
    where = f"input {spec.name!r}"
    try:
        found = np.array(value)
    except ValueError:  # NumPy 1.24 and later
        raise bad(f"{where}: the lists are not of one length") from None
    kind = found.dtype.kind
    if kind not in "biuf":
        raise bad(f"{where} is {spec}: numbers in lists of one length are expected")
    wanted = spec.dtype if spec.dtype is not None else {"f": np.float32, "b": np.bool_}.get(kind, np.int64)
    wanted = np.dtype(wanted)
    if (kind == "b") != (wanted.kind == "b") or (kind == "f" and wanted.kind in "iu" and found.size):
        raise bad(f"{where} is {spec}: {found.dtype.name} came")
    if wanted.kind in "iu" and found.size:
        least, most = np.iinfo(wanted).min, np.iinfo(wanted).max
        if int(found.min()) < least or int(found.max()) > most:
            raise bad(f"{where} is {spec}: a number is outside of {least} to {most}")
    if shape is not None and found.shape != shape:
        if found.ndim == 1:
            with contextlib.suppress(ValueError, OverflowError):  # of sizes no array can have
                found = found.reshape(shape)
        if found.shape != shape:
            raise bad(
                f"{where}: data of the shape {list(shape)} is expected, nested or flat; of {list(found.shape)} came"
            )
    check_shape(found.shape, spec, bad)
    return found.astype(wanted)


def check_shape(shape: tuple[int, ...], spec: Spec, bad: type[Exception]) -> None:
    if spec.shape is None:
        return
    if len(shape) != len(spec.shape) or any(want not in (None, got) for got, want in zip(shape, spec.shape)):
        raise bad(f"input {spec.name!r} is {spec}: the shape {list(shape)} came")


def declared(config: Any) -> list[Spec] | None:
    """The inputs a model's YAML declares, `handler: {inputs: [{name, dtype, shape}]}`; None if it does not."""
    if config is None:
        return None
    wanted = "handler: inputs: in the model's YAML is a list of {name: x, dtype: float32, shape: [-1, 3, 224, 224]}"
    if not isinstance(config, list) or not all(isinstance(one, dict) for one in config):
        raise ValueError(wanted)
    specs = []
    for one in config:
        try:
            shape = one.get("shape")
            sizes = None if shape is None else tuple(None if size in (None, -1) else int(size) for size in shape)
            specs.append(Spec(str(one["name"]), np.dtype(one.get("dtype", "float32")), sizes))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{wanted}: {error}") from error
    return specs


def plain(array: Any) -> Any:
    """In lists, for JSON, which has no NaN and no infinity: they become null."""
    array = np.asarray(array)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        array = np.where(np.isfinite(array), array, None)
    return array.tolist()


def _list(names: Any) -> str:
    return ", ".join(repr(name) for name in names) or "none"
