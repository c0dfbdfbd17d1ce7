"""Whether a batch gives what its members give alone: some graphs call their leading dimension free and mix rows.

Three rows of random input (fixed seed) are run one by one and joined; all outputs must agree within RTOL and ATOL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.backends.base import Session
from headrace.errors import BackendError
from headrace.model.joining import join, split
from headrace.tensor import Array, TensorSpec

ROWS = 3
RTOL, ATOL = 1e-3, 1e-5
"""Kernels may add up in another order for another batch size; what mixes rows is off by far more."""


def disagreement(session: Session, inputs: Sequence[TensorSpec]) -> str | None:
    """Why requests must not be joined; None if they may be."""
    rng = np.random.default_rng(0)
    rows = [tuple(_made_up(spec, rng) for spec in inputs) for _ in range(ROWS)]
    try:
        alone = [session.run(row) for row in rows]
        together = split(session.run(join(rows)), [1] * ROWS)
    except BackendError as error:
        return str(error)
    except Exception as error:  # free dimensions that must fit each other, inputs that must be valid indices
        return f"it could not be tried with made-up inputs: {type(error).__name__}: {str(error)[:200]}"
    for one, part in zip(alone, together):
        for i, (a, b) in enumerate(zip(one, part)):
            if a.shape != b.shape:
                return f"output {i} of one row is {list(a.shape)} alone and {list(b.shape)} in a batch"
            if a.dtype.kind in "fc" and not np.allclose(a, b, rtol=RTOL, atol=ATOL, equal_nan=True):
                with np.errstate(invalid="ignore"):  # infinity less infinity
                    return f"output {i} differs by up to {np.abs(a - b).max():.3g} between alone and in a batch"
            if a.dtype.kind not in "fc" and not np.array_equal(a, b):
                return f"output {i} is not the same alone and in a batch"
    return None


def _made_up(spec: TensorSpec, rng: np.random.Generator) -> Array:
    shape = (1, *(n if n is not None else 8 for n in spec.shape[1:]))
    array: Any
    if spec.dtype.kind == "f":
        array = rng.random(shape)
    elif spec.dtype.kind == "O":
        array = np.full(shape, "text")
    else:  # small: they may be indices into a table
        array = rng.integers(0, 2, shape)
    return np.ascontiguousarray(array, dtype=spec.dtype)
