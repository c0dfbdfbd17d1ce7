"""`hr.compile_model`: in this process (`model.compile`), or in processes of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.archives.interpreter import checked
from headrace.engine.engine import Engine
from headrace.engine.scheduler import Scheduler
from headrace.errors import InvalidOption
from headrace.model import compile as in_process
from headrace.model.compile import check_engine_and_name, check_model_options, shapes_by_name
from headrace.model.model import Model
from headrace.workers.loadable import Loadable
from headrace.workers.naming import check_guard, is_name, named
from headrace.workers.onnx_model import OnnxModel
from headrace.workers.options import AT_ONCE, WorkerOptions
from headrace.workers.start import runs_coroutines, start_workers

ISOLATIONS = ("thread", "process")
_CONCURRENCY = "concurrency is for coroutine functions, and {} is none: leave it out, and give it more workers=N"


def compile_model(
    model: Any,
    batch_size: int | None = None,
    num_cores: int | None = None,
    num_streams: int | None = None,
    scheduler: str | Scheduler | None = None,
    input_shapes: Mapping[str, Sequence[int]] | Sequence[Sequence[int]] | None = None,
    *,
    backend: str | None = None,
    precision: str = "fp32",
    devices: str | Sequence[str] = "cpu",
    engine: Engine | None = None,
    max_batch_size: int | None = 1,
    max_batch_delay: float = 0.0,
    name: str | None = None,
    warm_up: bool = True,
    isolation: str = "thread",
    workers: int | None = None,
    response_timeout: float = 120.0,
    cancel_grace: float = 5.0,
    idempotent: bool = True,
    memory_limit: int | None = None,
    start_timeout: float = 120.0,
    concurrency: int | None = None,
    python: str | os.PathLike[str] | None = None,
    share_weights: bool = False,
) -> Model:
    """Load a model, and start its streams; or, with `isolation="process"`, its workers.

    `model`: the path or the bytes of an ONNX file, or a callable. `batch_size` fixes dimension 0 of every input (None
    leaves it as it is), `input_shapes` whole shapes: a dict by name, or a list in input order. `scheduler`:
    "single_stream" (one request at a time on all cores, the default), "multi_stream" (`num_streams` at once on
    disjoint cores; one for each core by default), "elastic" (at most one on each NUMA node, with the weights there; on
    each L3 where there is one node) or "naive" (runs in the caller; for debugging). `num_cores`: how many of the
    engine's cores it uses; hyperthreads do not count. `engine`: share one; None: the process's own. `devices`: "cpu".

    Up to `max_batch_size` rows (a callable: requests, given as a list) are joined into one run; None: 32 where a batch
    gives what its members give alone, else 1. `max_batch_delay`, in seconds, is how long a free stream waits for
    company while another one runs; an idle model never waits.

    `warm_up`: run a tensor model once on each stream before this returns, with made-up inputs and for a second at
    most, so that the first requests do not pay for it. Callables are not run.

    `isolation="process"`: the model runs in `workers` processes (1 by default), and cannot crash, stop or block this
    one. A callable is imported there by name: it is a function at the top of a module, or "module:function". What it is
    given may be anything that can be pickled, what it gives is data: numbers, text, bytes, lists, dicts, arrays. A run
    that takes more than `response_timeout` seconds is ended with its process, and fails with ResponseTimeout. A
    cancelled run may see that it is (`headrace_worker.cancelled()`), and is ended after `cancel_grace` seconds. Where a
    process dies, what it had begun is run once more, unless `idempotent` is False, and else fails with WorkerDied. A
    process may have `memory_limit` bytes: the kernel ends it beyond that, or, where no cgroup may be made, they are its
    address space, and a run that wants more fails with OutOfMemory. Where a callable is a coroutine function,
    `concurrency` runs (32 by default) go on at once on the event loop of each process. `python`: another
    environment, its folder or its interpreter (3.8 or later, with NumPy, and ONNX Runtime for an ONNX model); it need
    not have Headrace. A process that has not loaded the model after `start_timeout` seconds is ended. `share_weights`:
    the workers of an ONNX model use one copy of its weights; the log says what that costs.

    Raises InvalidModel, InvalidOption, InvalidEnvironment, BackendNotInstalled, DeviceNotFound, NotEnoughCores. The
    arguments are DeepSparse's `compile_model`, and more.
    """
    if isolation not in ISOLATIONS:
        raise InvalidOption(f"isolation is 'thread' or 'process', not {isolation!r}")
    if isolation == "thread":
        strange = {
            "workers": workers is not None,
            "memory_limit": memory_limit is not None,
            "concurrency": concurrency is not None,
            "python": python is not None,
            "share_weights": bool(share_weights),
            "response_timeout": response_timeout != 120.0,
            "cancel_grace": cancel_grace != 5.0,
            "start_timeout": start_timeout != 120.0,
            "idempotent": idempotent is not True,
        }
        if any(strange.values()):
            names = ", ".join(name for name, given in strange.items() if given)
            raise InvalidOption(f"{names}: only worker processes have that; ask for them with isolation='process'")
        return in_process.compile_model(
            model,
            batch_size,
            num_cores,
            num_streams,
            scheduler,
            input_shapes,
            backend=backend,
            precision=precision,
            devices=devices,
            engine=engine,
            max_batch_size=max_batch_size,
            max_batch_delay=max_batch_delay,
            name=name,
            warm_up=warm_up,
        )
    check_guard()
    if num_streams is not None or scheduler is not None:
        raise InvalidOption(
            "num_streams and scheduler are of models that run in this process (isolation='thread'); with "
            "isolation='process' as many requests run at once as there are workers=N"
        )
    check_engine_and_name(engine, name)
    check_model_options(batch_size, precision, devices, engine)
    if not isinstance(share_weights, bool):
        raise InvalidOption(f"share_weights is True or False, not {share_weights!r}")
    what = _loadable(model, backend, batch_size, input_shapes, warm_up, share_weights)
    if concurrency is not None and isinstance(what, OnnxModel):
        raise InvalidOption(_CONCURRENCY.format(what.name))
    made = start_workers(
        what,
        WorkerOptions(
            python=None if python is None else _interpreter(python),
            response_timeout=response_timeout,
            cancel_grace=cancel_grace,
            idempotent=idempotent,
            memory_limit=memory_limit,
            start_timeout=start_timeout,
            concurrency=AT_ONCE if concurrency is None else concurrency,
        ),
        1 if workers is None else workers,
        num_cores=num_cores,
        share_weights=share_weights,
        engine=engine,
        max_batch_size=max_batch_size,
        max_batch_delay=max_batch_delay,
        name=name,
    )
    if concurrency is not None and not runs_coroutines(made):
        made.close()
        raise InvalidOption(_CONCURRENCY.format(what))
    return made


def _interpreter(python: Any) -> str:
    """Looked at before a worker is started: what that one would say is for nobody."""
    if not isinstance(python, str | os.PathLike) or not os.fspath(python):
        raise InvalidOption(f"python is the path of an interpreter or of an environment's folder, not {python!r}")
    return checked(python, "python")


def _loadable(
    model: Any, backend: str | None, batch_size: int | None, input_shapes: Any, warm_up: bool, share_weights: bool
) -> Loadable:
    """What the workers are to load."""
    if backend is None:
        is_file = isinstance(model, bytes | os.PathLike) or (isinstance(model, str) and not is_name(model))
        backend = "onnxruntime" if is_file else "python"
    if backend == "onnxruntime":
        return OnnxModel(model, batch_size=batch_size, input_shapes=shapes_by_name(input_shapes), warm_up=warm_up)
    if backend != "python":
        raise InvalidOption(f"backend is 'onnxruntime' or 'python' for worker processes, not {backend!r}")
    if batch_size is not None or input_shapes is not None:
        raise InvalidOption("batch_size and input_shapes fix the shapes of an ONNX model; a callable has none")
    if share_weights:
        raise InvalidOption(
            "share_weights=True is for ONNX models; what workers of a callable share is what it maps itself"
        )
    return named(model)
