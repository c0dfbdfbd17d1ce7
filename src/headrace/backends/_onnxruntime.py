"""ONNX Runtime on the CPU.

Streams of width 1 share ONE session with one thread each: `run` may be called from many threads, the calling thread is
the one that computes, and there is one copy of the weights. A stream of width w > 1 has a session of its own with w
threads: the calling thread and w - 1 of the session's, which are kept off the caller's core (`engine/apart`). Streams
that are to stay on CPUs of their own have a session each, made by a thread that is there: so are its weights. The
session's threads are told to stay, and the calling thread stays for the length of a run: not longer, because the
threads that a callback of the user's starts on it would be bound as well, for good.

Idle threads of a session spin for at most 50 us: the default burns most of a core for a few requests a second, and
sessions beside each other slow each other down. Sessions are made under one lock: making several at once was
reported to race (microsoft/onnxruntime issue 27089). Nothing process-wide is changed.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from headrace.backends.base import Loaded, LoadOptions, Session, Stop
from headrace.backends.refusals import explained
from headrace.engine.apart import Apart, made_with_threads
from headrace.engine.binding import made_on, run_on
from headrace.errors import BackendNotInstalled, InvalidModel, InvalidOption
from headrace.tensor import Array, TensorSpec

SPIN_MICROSECONDS = 50
LOOK = 100
"""Bytes of a file that was refused that tell what it is."""
_making = threading.Lock()

# What ONNX Runtime calls the element types it takes; all else is refused at load.
_DTYPES = {
    "tensor(bool)": np.bool_,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(string)": np.object_,
}


class OnnxRuntimeSession:
    stoppable = True
    shared = False  # several streams use it

    def __init__(
        self, onnxruntime: Any, session: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        self._session = session
        self._run_options: Callable[[], Any] = onnxruntime.RunOptions
        # What `InferenceSession.run` calls after it has looked for missing inputs, which is a quarter of the time a
        # tiny model takes; forms has looked before. Not a public name, so where it is gone the public one does.
        self._run = getattr(getattr(session, "_sess", None), "run", None) or session.run
        self._input_names = [spec.name for spec in inputs]
        self._output_names = [spec.name for spec in outputs]
        self._only_input = inputs[0].name if len(inputs) == 1 else None

    def run(
        self, inputs: tuple[Array, ...], names: tuple[str, ...] | None = None, stop: Stop | None = None
    ) -> list[Array]:
        options = None
        if stop is not None:
            # Fresh for each run: one that was terminated terminates whatever uses it next.
            options = stop.handle = self._run_options()
            if stop.requested:
                options.terminate = True
        only = self._only_input
        feed = dict(zip(self._input_names, inputs)) if only is None else {only: inputs[0]}
        outputs: list[Array] = self._run(self._output_names, feed, options)
        return outputs

    @staticmethod
    def stop(handle: Any) -> None:
        """The run that left `handle` ends before its next node."""
        handle.terminate = True

    def close(self) -> None:
        self._session = self._run = None


class WideSession:
    """One with `threads` of its own, which are kept off its caller's core; with `cpus`, on which all of them stay."""

    stoppable = True

    def __init__(self, session: OnnxRuntimeSession, threads: Collection[int], cpus: tuple[int, ...] = ()) -> None:
        self.session, self.cpus, self.stop = session, cpus, session.stop
        self._apart = Apart(threads)

    def run(
        self, inputs: tuple[Array, ...], names: tuple[str, ...] | None = None, stop: Stop | None = None
    ) -> list[Array]:
        if self.cpus:
            return run_on(self.cpus, lambda: self._run(inputs, names, stop))
        return self._run(inputs, names, stop)

    def _run(self, inputs: tuple[Array, ...], names: tuple[str, ...] | None, stop: Stop | None) -> list[Array]:
        self._apart()
        return self.session.run(inputs, names, stop)

    def close(self) -> None:
        self.session.close()


class OnnxRuntimeBackend:
    name = "onnxruntime"

    def load(self, model: Any, options: LoadOptions) -> Loaded:
        try:
            onnxruntime = import_runtime()
        except ImportError as error:
            raise BackendNotInstalled(self.name, "pip install onnxruntime") from error
        source, name = readable(model)
        shared: dict[tuple[int, tuple[int, ...]], Session] = {}
        sessions: list[Session] = []
        for width, cpus in zip_longest(options.widths, options.cpus, fillvalue=()):
            assert isinstance(width, int), "more CPU lists than streams"
            made = shared.get((width, cpus))
            if made is None:
                allowed = _allowed(cpus)
                make = partial(_make, onnxruntime, source, name, width, allowed)
                session, threads = made_with_threads(cpus, make) if width > 1 else (made_on(cpus, make), ())
                if not sessions:
                    inputs, outputs = _specs(name, session)
                made = bare = OnnxRuntimeSession(onnxruntime, session, inputs, outputs)
                bare.shared = width == 1 and not cpus
                if allowed or threads:
                    made = WideSession(bare, threads, allowed)
                if cpus or width == 1:  # wide ones side by side would fight for one session's threads
                    shared[width, cpus] = made
            sessions.append(made)
        inputs = fixed(inputs, options)
        return Loaded(self.name, "onnxruntime_onnx", name, tuple(sessions), inputs, outputs)


def import_runtime() -> Any:
    """The package. ImportError if it is not there."""
    # Its wheels send usage data, from a thread of their own, and leave files for it. Whoever wants that says so, by
    # setting this to 0; it is read when the runtime is first imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def readable(model: Any) -> tuple[str | bytes, str]:
    """What ONNX Runtime is given (a path, so that external data is found; or bytes), and the model's name."""
    if isinstance(model, bytes):
        if not model:
            raise InvalidModel("the model is empty: 0 bytes; give the bytes of an ONNX file")
        return model, "model"
    if not isinstance(model, str | os.PathLike):
        raise InvalidModel(f"onnxruntime loads a path or the bytes of an ONNX file, not {type(model).__name__}")
    path = Path(model)
    try:
        if path.is_dir():
            raise InvalidModel(f"{path} is a folder; give the ONNX file in it")
        if "://" in str(model):
            raise InvalidModel(f"{model} is a URL; download it, and give the file")
        if not path.exists():
            if path.is_symlink():
                raise InvalidModel(f"{path} is a link that leads nowhere, or to itself; give the path of an ONNX file")
            hint = (
                "; or a callable as module:function"
                if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", str(path))
                else ""
            )
            raise InvalidModel(f"{path} does not exist (looked from {Path.cwd()}); give the path of an ONNX file{hint}")
        if not path.is_file():  # the runtime would read a pipe or a device for ever
            raise InvalidModel(f"{path} is not a regular file")
        if path.stat().st_size == 0:
            raise InvalidModel(f"{path} is empty: 0 bytes; save or download the model anew")
    except OSError as error:  # a folder that may not be entered, a name that is too long
        raise InvalidModel(f"{str(path)[:200]} cannot be read: {error.strerror}") from error
    if not os.access(path, os.R_OK):
        raise InvalidModel(f"{path} may not be read by this user")
    return str(path), path.stem


def _allowed(cpus: tuple[int, ...]) -> tuple[int, ...]:
    """`cpus` if this process may run on all of them, else (): ONNX Runtime writes to stderr where it fails to pin."""
    return cpus if hasattr(os, "sched_getaffinity") and os.sched_getaffinity(0).issuperset(cpus) else ()


def _make(onnxruntime: Any, source: str | bytes, name: str, width: int, cpus: tuple[int, ...]) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = width
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4  # what goes wrong is raised; logged as well, every bad request is news on stderr
    settings.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS))
    if cpus and width > 1:
        # One entry for each thread of the session; processors are counted from 1. Each may use all of the stream's
        # CPUs: bound to one, it makes the others wait whenever a stranger runs there.
        entry = ",".join(str(cpu + 1) for cpu in cpus)
        settings.add_session_config_entry("session.intra_op_thread_affinities", ";".join([entry] * (width - 1)))
    try:
        with _making:
            return onnxruntime.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        why = explained(str(error), beginning_of(source))
        raise InvalidModel(f"{name} cannot be loaded as an ONNX model: {why}") from error


def beginning_of(source: str | bytes) -> bytes:
    try:
        if isinstance(source, bytes):
            return source[:LOOK]
        with open(source, "rb") as file:
            return file.read(LOOK)
    except OSError:  # it is gone
        return b""


def _specs(name: str, session: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    try:
        given, gives = session.get_inputs(), session.get_outputs()
        return (
            tuple(spec_of(name, i.name, i.type, i.shape) for i in given),
            tuple(spec_of(name, o.name, o.type, o.shape) for o in gives),
        )
    except UnicodeDecodeError as error:  # the runtime loads such a file, and does not see it
        raise InvalidModel(
            f"{name} cannot be loaded as an ONNX model: a name in it is no text ({error}). The file is damaged: copy "
            "or export it again"
        ) from error


def spec_of(model: str, name: str, kind: str, dims: Sequence[Any]) -> TensorSpec:
    """Of a tensor as the runtime describes it. InvalidModel where it is none of NumPy's."""
    if kind not in _DTYPES:
        raise InvalidModel(f"{model}: {name} is a {kind}; only dense tensors of NumPy's own types work")
    shape = tuple(n if isinstance(n, int) and n >= 0 else None for n in dims)
    return TensorSpec(name, np.dtype(_DTYPES[kind]), shape)


def fixed(inputs: tuple[TensorSpec, ...], options: LoadOptions) -> tuple[TensorSpec, ...]:
    """The inputs with the dimensions `batch_size` and `input_shapes` fix. Requests are checked against these."""
    names = {str(i): spec.name for i, spec in enumerate(inputs)}
    known = {spec.name for spec in inputs}
    shapes = {name if name in known else names.get(name, name): n for name, n in (options.input_shapes or {}).items()}
    unknown = set(shapes) - known
    if unknown:
        raise InvalidOption(
            f"input_shapes names {', '.join(sorted(unknown))}; the inputs are: {_names(inputs)} (by position: "
            f"{', '.join(names) or 'none'})"
        )
    fixed = []
    for spec in inputs:
        shape = spec.shape
        if spec.name in shapes:
            shape = _fitting(spec, shapes[spec.name], "input_shapes")
        if options.batch_size is not None:
            if not shape:
                raise InvalidOption(f"batch_size fixes dimension 0, and input {spec} has none")
            _fitting(TensorSpec(spec.name, spec.dtype, shape[:1]), (options.batch_size,), "batch_size")
            shape = (options.batch_size, *shape[1:])
        fixed.append(TensorSpec(spec.name, spec.dtype, shape))
    return tuple(fixed)


def _fitting(spec: TensorSpec, wanted: Sequence[int], option: str) -> tuple[int | None, ...]:
    if not isinstance(wanted, Sequence) or not all(type(n) is int and n >= 0 for n in wanted):
        raise InvalidOption(f"{option} gives {wanted!r} for input {spec}; a shape is a list of whole numbers")
    if len(wanted) != len(spec.shape) or not all(have in (None, want) for have, want in zip(spec.shape, wanted)):
        raise InvalidOption(f"{option} gives {list(wanted)}, which does not fit input {spec}")
    return tuple(wanted)


def _names(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(spec.name for spec in specs)


backend = OnnxRuntimeBackend()
