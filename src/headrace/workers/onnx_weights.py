"""Writes what workers of one ONNX model share, and measures what that costs. A program of its own, run by the workers'
Python, told as JSON and answering as JSON: it loads the model twice, and its owner is to keep nothing of that.

The runtime optimises the graph and writes it, its large tensors apart. They are copied into the memfd, each at a
multiple of 64 bytes; the graph, and a table of what lies where, behind them.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import sys
import time
from typing import Any

LEAST = 1024
"""Bytes of the tensors that are shared. Smaller ones say how the graph works, and stay in it."""
ALIGN = 64
PIECE = 16 << 20
ROWS = 8
"""Of the second kind of run that is measured, where the leading dimension is free."""
SECONDS, RUNS = 0.4, 15
"""Each kind of run is measured for so long, or so often."""
PR_SET_PDEATHSIG = 1


def _neighbour(name: str) -> Any:
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
    spec = importlib.util.spec_from_file_location("_headrace_" + name, path)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    sys.modules["_headrace_" + name] = module
    spec.loader.exec_module(module)
    return module


def make(told: dict[str, Any]) -> dict[str, Any]:
    """`model` (a path) or `fd` (of its bytes); `memory`: the memfd; `folder`: of ours, for files; `threads`."""
    loader, initializers = _neighbour("onnx_loader"), _neighbour("initializers")
    onnxruntime = loader.runtime()
    path, threads = os.path.join(told["folder"], "optimised.onnx"), told["threads"]
    settings = loader.options(onnxruntime, threads)
    settings.optimized_model_filepath = path
    for entry, value in (("file_name", "weights.bin"), ("min_size_in_bytes", str(LEAST))):
        settings.add_session_config_entry("session.optimized_model_external_initializers_" + entry, value)
    source = told["model"] if told.get("model") else loader.contents(told["fd"])
    try:
        own = loader.own_session(onnxruntime, source, threads, settings)
        with open(path, "rb") as file:
            graph = file.read()
        tensors = initializers.external(graph)
    except Exception as error:
        raise loader.NotLoaded(str(error)) from error
    strange = sorted({str(tensor.type) for tensor in tensors if tensor.type not in loader.ELEMENTS})
    if strange:
        raise loader.NotShared(
            f"it has weights of element types that NumPy lacks (ONNX's numbers {', '.join(strange)})"
        )
    shared = write(told["memory"], graph, tensors, told["folder"])
    try:
        session, weights = loader.shared_session(onnxruntime, shared, threads)
    except Exception as error:
        raise loader.NotShared(f"ONNX Runtime does not take weights from outside for it: {error}") from error
    about = loader._specs(session.get_inputs())
    models = (loader.Model(onnxruntime, own), loader.Model(onnxruntime, session, weights))
    return {"shared": shared, "runs": measured(loader, models, about)}


def write(fd: int, graph: bytes, tensors: list[Any], folder: str) -> dict[str, Any]:
    """`shared`, as `onnx_loader` wants it."""
    at, table = 0, []
    for tensor in tensors:
        with open(os.path.join(folder, os.path.basename(tensor.file)), "rb") as file:
            file.seek(tensor.offset)
            written = 0
            while written < tensor.nbytes:
                piece = file.read(min(PIECE, tensor.nbytes - written))
                if not piece:
                    raise ValueError(f"the file of tensor {tensor.name!r} is cut off")
                put(fd, piece, at + written)
                written += len(piece)
        table.append([tensor.name, tensor.type, tensor.dims, tensor.file, at, tensor.nbytes])
        at += -(-tensor.nbytes // ALIGN) * ALIGN
    places = []
    for part in (graph, json.dumps(table).encode()):
        put(fd, part, at)
        places.append([at, len(part)])
        at += len(part)
    weights = sum(tensor.nbytes for tensor in tensors)
    return {"fd": fd, "size": at, "graph": places[0], "table": places[1], "weights": weights}


def put(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, at)
        view, at = view[count:], at + count


def measured(loader: Any, models: tuple[Any, Any], inputs: Any) -> list[Any]:
    """[rows, seconds with a copy of its own, seconds with the shared one] of each kind of run, in turns; the shortest.
    NotShared if both do not give the same."""
    import numpy as np

    runs = []
    free = bool(inputs) and all(shape and shape[0] is None for _, _, shape in inputs)
    for rows in (1, ROWS) if free else (1,):
        values = loader.made_up(inputs, rows)
        best, times = [float("inf")] * 2, 0
        try:
            if values is None:
                break
            answers = [model.run(values) for model in models]
            until = time.perf_counter() + SECONDS
            while times < RUNS and (not times or time.perf_counter() < until):
                times += 1
                for i, model in enumerate(models):
                    began = time.perf_counter()
                    model.run(values)
                    best[i] = min(best[i], time.perf_counter() - began)
        except Exception:  # it does not take what was made up
            break
        for one, other in zip(*answers):
            if one.dtype.kind == "f" and not np.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True):
                raise loader.NotShared("with shared weights it does not give what it gives with its own")
        runs.append([rows if free else None, *best])
    return runs


def main() -> None:
    if hasattr(signal, "SIGKILL"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    told = json.loads(sys.argv[1])
    try:
        answer = make(told)
    except BaseException as error:
        answer = {"type": type(error).__name__, "message": str(error)[:10_000]}
    with open(os.path.join(told["folder"], "answer.json"), "w") as file:
        json.dump(answer, file)


if __name__ == "__main__":
    main()
