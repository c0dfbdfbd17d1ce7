"""What a tensor is called, holds and looks like; and the names the Open Inference Protocol gives to dtypes.

Shapes are in elements; None stands for a dimension that is free. Only protocol edges write it as -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Open Inference Protocol v2, "Tensor Data Types". BYTES is any text or bytes: an object array here.
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The protocol's name of a dtype: `FP32` for float32. Text of any length is `BYTES`. KeyError for what has none."""
    return "BYTES" if dtype.kind in "OSU" else _NAMES[dtype.newbyteorder("=")]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model: its name, dtype and shape. None in a shape: a free dimension."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    @property
    def rows_are_free(self) -> bool:
        """Whether the leading dimension is free, so that requests can be joined along it."""
        return bool(self.shape) and self.shape[0] is None

    def takes(self, array: Array) -> bool:
        """Whether `array` has this dtype (text of any length for object) and a shape that fits."""
        if array.dtype != self.dtype and not (self.dtype.kind == "O" and array.dtype.kind in "OSU"):
            return False
        shape = array.shape
        if len(shape) != len(self.shape):
            return False
        return all(want is None or want == came for want, came in zip(self.shape, shape))

    def __str__(self) -> str:
        shape = ", ".join("any" if n is None else str(n) for n in self.shape)
        return f"{self.name}: {'text' if self.dtype.kind == 'O' else self.dtype} [{shape}]"
