"""Loads an ONNX model, in a worker, with its environment's ONNX Runtime. Loaded by its path there.

With `shared`, the weights are not the worker's own: they lie in a memfd that its owner gives to all workers of the
model, mapped so that nobody can write to them, and the session uses them where they are. For that it must not make
packed copies of them (`session.disable_prepacking`), which costs some models speed. The graph was optimised when the
memfd was made (`onnx_weights`), so that weights that are folded or laid out for this machine are shared as well.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import sys
import tempfile
import threading
from typing import Any, NamedTuple

import numpy as np

SPIN_MICROSECONDS = 50
WARM_UP = 1.0
"""Seconds its first run may take, before it is ready."""
LARGEST = 256 << 20
"""Bytes of made-up inputs: what takes more is not run unasked."""
DTYPES = {
    "tensor(bool)": "?",
    "tensor(float16)": "f2",
    "tensor(float)": "f4",
    "tensor(double)": "f8",
    **{f"tensor(int{8 * n})": f"i{n}" for n in (1, 2, 4, 8)},
    **{f"tensor(uint{8 * n})": f"u{n}" for n in (1, 2, 4, 8)},
    "tensor(string)": "O",
}
ELEMENTS = dict(zip(range(1, 8), ("f4", "u1", "i1", "u2", "i2", "i4", "i8")))
ELEMENTS.update({9: "?", 10: "f2", 11: "f8", 12: "u4", 13: "u8"})
"""ONNX's numbers of element types that NumPy has."""


class Loaded(NamedTuple):
    function: Any
    about: dict[str, Any]
    """`inputs`, `outputs`: [name, type, shape] of each, as the runtime says them."""


class NotLoaded(Exception):
    """What the runtime says of the model."""


class NotInstalled(Exception):
    pass


class NotShared(Exception):
    """Why this model's weights cannot be."""


class Model:
    """Is called with a list of requests, each a tuple of arrays; answers with a list of lists of arrays."""

    def __init__(self, onnxruntime: Any, session: Any, weights: Any = None) -> None:
        self._run_options, self._weights = onnxruntime.RunOptions, weights  # which are to stay
        self._run = getattr(getattr(session, "_sess", None), "run", None) or session.run
        self._inputs = [each.name for each in session.get_inputs()]
        self._outputs = [each.name for each in session.get_outputs()]
        self._options: Any = None

    def __call__(self, requests: list[Any]) -> list[Any]:
        if len(requests) == 1:
            return [self.run(requests[0])]
        rows = [request[0].shape[0] for request in requests]
        outputs, total = self.run([np.concatenate(column) for column in zip(*requests)]), sum(rows)
        for i, output in enumerate(outputs):
            if not output.shape or output.shape[0] != total:
                raise ValueError(f"a batch of {total} rows came back with output {i} of shape {list(output.shape)}")
        parts, at = [], 0
        for count in rows:
            parts.append([output[at : at + count] for output in outputs])
            at += count
        return parts

    def run(self, inputs: Any) -> list[Any]:
        options = self._options = self._run_options()  # fresh: one that was terminated terminates what uses it next
        outputs: list[Any] = self._run(self._outputs, dict(zip(self._inputs, inputs)), options)
        return outputs

    @property
    def stop(self) -> Any:
        """Ends the run that goes on, if it still does when it is called: from any thread."""
        options = self._options

        def terminate() -> None:
            if options is not None:
                options.terminate = True

        return terminate


def load(setup: dict[str, Any]) -> Loaded:
    """`model` (a path), `fd` (of its bytes) or `shared`; `threads`; `warm_up`."""
    onnxruntime = runtime()
    try:
        if setup.get("shared"):
            session, weights = shared_session(onnxruntime, setup["shared"], setup["threads"])
        else:
            source = setup["model"] if setup.get("model") else contents(setup["fd"])
            session, weights = own_session(onnxruntime, source, setup["threads"]), None
    except MemoryError:
        raise
    except Exception as error:
        raise NotLoaded(str(error)) from error
    about = {"inputs": _specs(session.get_inputs()), "outputs": _specs(session.get_outputs())}
    model = Model(onnxruntime, session, weights)
    if setup.get("warm_up"):
        warm_up(model, about["inputs"], setup.get("batch_size"))
    return Loaded(model, about)


def runtime() -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is first imported
    try:
        import onnxruntime
    except ImportError as error:
        raise NotInstalled(f"{sys.executable}: {error}") from error
    return onnxruntime


def options(onnxruntime: Any, threads: int) -> Any:
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads, made.inter_op_num_threads = threads, 1
    made.log_severity_level = 4  # what goes wrong is raised
    made.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS))
    return made


def own_session(onnxruntime: Any, source: Any, threads: int, settings: Any = None) -> Any:
    settings = settings or options(onnxruntime, threads)
    return onnxruntime.InferenceSession(source, settings, providers=["CPUExecutionProvider"])


def shared_session(onnxruntime: Any, shared: dict[str, Any], threads: int) -> tuple[Any, Any]:
    """The session, and what has to live as long as it does."""
    # Private, and never written: a sealed memfd may not be mapped otherwise before Linux 6.7. The pages are shared.
    memory = mmap.mmap(shared["fd"], shared["size"], flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    table_at, table_size = shared["table"]
    graph_at, graph_size = shared["graph"]
    settings = options(onnxruntime, threads)
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it has been
    settings.add_session_config_entry("session.disable_prepacking", "1")
    weights: list[Any] = [memory]
    files = set()
    for name, kind, dims, file, at, nbytes in json.loads(memory[table_at : table_at + table_size]):
        array = array_of(memory, kind, dims, at, nbytes)
        value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        weights += [array, value]
        settings.add_initializer(name, value)
        files.add(file)
    # The runtime looks whether the files that the graph names are there. It takes nothing out of them.
    folder = tempfile.mkdtemp(prefix="headrace-")
    try:
        for file in files:
            open(os.path.join(folder, os.path.basename(file)), "wb").close()
        path = os.path.join(folder, "model.onnx")
        with open(path, "wb") as out:
            out.write(memory[graph_at : graph_at + graph_size])
        return own_session(onnxruntime, path, threads, settings), weights
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def array_of(memory: Any, kind: int, dims: Any, at: int, nbytes: int) -> Any:
    dtype = np.dtype(ELEMENTS[kind])
    return np.frombuffer(memory, dtype, nbytes // dtype.itemsize, at).reshape(dims)


def contents(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    parts, at = [], 0
    while at < size:
        parts.append(os.pread(fd, min(size - at, 1 << 30), at))
        at += len(parts[-1])
    return b"".join(parts)


def _specs(tensors: Any) -> list[Any]:
    return [
        [each.name, each.type, [n if isinstance(n, int) and n >= 0 else None for n in each.shape]] for each in tensors
    ]


def made_up(inputs: Any, rows: Any = None) -> Any:
    """Something of each input's kind and shape; None where that would be too much. `rows`: of a free dimension 0."""
    values: list[Any] = []
    for _, kind, shape in inputs:
        if kind not in DTYPES:
            return None
        dtype = np.dtype(DTYPES[kind])
        sizes = [(rows or 1 if i == 0 else 1) if n is None else n for i, n in enumerate(shape)]
        if sum(value.nbytes for value in values) + int(np.prod(sizes, dtype=float)) * dtype.itemsize > LARGEST:
            return None
        values.append(np.full(sizes, "" if dtype.kind == "O" else 0.5 if dtype.kind == "f" else 0, dtype))
    return tuple(values)


def warm_up(model: Model, inputs: Any, rows: Any) -> None:
    """Its first run, so that no request pays for it. One that does not take what was made up has none."""
    values = made_up(inputs, rows)
    if values is None:
        return
    timer = threading.Timer(WARM_UP, lambda: model.stop())
    timer.daemon = True
    timer.start()
    try:
        model.run(values)
    except Exception:
        pass
    finally:
        timer.cancel()
        timer.join()
