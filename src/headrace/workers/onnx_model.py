"""An ONNX model as workers load it: each a copy of its own, or all of them one (`shared_weights`)."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.backends._onnxruntime import beginning_of, fixed, readable, spec_of
from headrace.backends.base import LoadOptions
from headrace.backends.refusals import explained
from headrace.errors import BackendNotInstalled, HeadraceError, InvalidModel
from headrace.tensor import TensorSpec
from headrace.workers.loadable import Loadable
from headrace.workers.memory import Memory
from headrace.workers.shared_weights import SharedWeights, shared_weights


class OnnxModel(Loadable):
    joins_rows = True

    def __init__(
        self,
        model: Any,
        *,
        batch_size: int | None = None,
        input_shapes: Mapping[str, Sequence[int]] | None = None,
        warm_up: bool = True,
    ) -> None:
        """InvalidModel for what is no file that could be read."""
        self._source, self._name = readable(model)
        self._fixed = LoadOptions((), batch_size, input_shapes)
        self._warm_up = warm_up
        self._lock = threading.Lock()
        self._specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]] | None = None
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        """Both are known once a worker has loaded it."""
        self.weights: SharedWeights | None = None
        self._memory: Memory | None = None
        self._told: dict[str, Any]
        if isinstance(self._source, bytes):
            self._memory = Memory("headrace-model")
            self._memory.write(self._source)
            self._told = {"fd": self._memory.fd}
        else:  # a later worker may be started in another folder
            self._told = {"model": os.path.abspath(self._source)}

    @property
    def name(self) -> str:
        return self._name

    @property
    def descriptors(self) -> tuple[int, ...]:  # type: ignore[override]
        return () if self._memory is None else (self._memory.fd,)

    def share(self, python: str | None, env: Mapping[str, str], threads: int, timeout: float) -> None:
        """Have all workers use one copy of the weights. HeadraceError where that cannot be."""
        memory = Memory("headrace-weights")
        try:
            self.weights = shared_weights(self, self._told, self.descriptors, memory, python, env, threads, timeout)
        except BaseException:
            memory.close()
            raise
        if self._memory is not None:
            self._memory.close()
        self._memory, self._told = memory, {"shared": self.weights.told}

    @property
    def shared_bytes(self) -> int:  # type: ignore[override]
        return 0 if self.weights is None else int(self.weights.told["size"])

    def told(self) -> dict[str, Any]:
        return {"loader": "onnx", "warm_up": self._warm_up, "batch_size": self._fixed.batch_size, **self._told}

    def loaded(self, about: dict[str, Any]) -> None:
        specs = (
            tuple(spec_of(self._name, name, kind, shape) for name, kind, shape in about["inputs"]),
            tuple(spec_of(self._name, name, kind, shape) for name, kind, shape in about["outputs"]),
        )
        with self._lock:
            if self._specs is None:
                self.inputs, self.outputs = fixed(specs[0], self._fixed), specs[1]
                self.outputs_given = len(specs[1])
                self._specs = specs
            elif specs != self._specs:
                raise InvalidModel(f"the file of {self._name} has other inputs or outputs than it had: compile it anew")

    def refusal(self, about: dict[str, Any]) -> HeadraceError:
        kind, message = about["type"], about["message"]
        if kind == "NotInstalled":
            missing = BackendNotInstalled("onnxruntime", f"{message.partition(': ')[0]} -m pip install onnxruntime")
            missing.__cause__ = ImportError(message)
            return missing
        if kind == "NotLoaded":
            why = explained(message, beginning_of(self._source))
            return InvalidModel(f"{self._name} cannot be loaded as an ONNX model: {why}")
        if kind == "NotShared":
            return InvalidModel(f"{self._name} cannot be run with share_weights=True: {message}; leave that out")
        if kind == "UnicodeDecodeError":
            return InvalidModel(
                f"{self._name} cannot be loaded as an ONNX model: a name in it is no text ({message}). The file is "
                "damaged: copy or export it again"
            )
        return super().refusal(about)

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def __str__(self) -> str:
        return self._name
