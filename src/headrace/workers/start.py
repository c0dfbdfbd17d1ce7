"""From what a worker loads to a Model whose work is done in processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from headrace.backends.base import Loaded
from headrace.engine.engine import Engine
from headrace.engine.ownership import default_engine
from headrace.engine.placement import plan as placed
from headrace.engine.scheduler import Scheduler
from headrace.engine.topology import grouped
from headrace.errors import BackendError
from headrace.model.batcher import Counts
from headrace.model.compile import batching, check_batching, check_engine_and_name
from headrace.model.model import Model
from headrace.model.pending import Owner, Pending
from headrace.workers.loadable import Loadable
from headrace.workers.onnx_model import OnnxModel
from headrace.workers.options import WorkerOptions, check, check_workers
from headrace.workers.pool import Pool
from headrace.workers.sequenced import SequencedModel
from headrace.workers.shared_weights import tell
from headrace.workers.sharing import environment, plan


def start_workers(
    what: Loadable,
    options: WorkerOptions,
    workers: int = 1,
    *,
    num_cores: int | None = None,
    share_weights: bool = False,
    engine: Engine | None = None,
    max_batch_size: int | None = 1,
    max_batch_delay: float = 0.0,
    name: str | None = None,
) -> Model:
    """Start so many workers of `what`, and wait until they are ready. `name`: None is its own.

    InvalidOption, or InvalidModel with what a worker said that could not load it.
    """
    check_batching(max_batch_size, max_batch_delay)
    check_engine_and_name(engine, name)
    check_workers(workers)
    check(options)
    engine = engine or default_engine()
    engine.check_process()
    (placement,) = placed(Scheduler.single_stream, engine.cores, num_cores, None)  # as many cores as there are
    own = set(placement.cores)
    nodes = [[core.cpu for core in cores if core.cpu in own] for cores in grouped(engine.cores, lambda core: core.node)]
    name = name or what.name
    asked = max_batch_size if max_batch_size is not None else 1
    try:
        if share_weights and isinstance(what, OnnxModel):
            share = plan(nodes, workers)[0]
            what.share(options.python, environment(os.environ, share.threads), share.threads, options.start_timeout)
            assert what.weights is not None
            tell(name, what.weights)
        pool = Pool(
            engine,
            what,
            name,
            options,
            nodes=nodes,
            max_batch_size=asked,
            max_batch_delay=max_batch_delay,
        )
    except BaseException:
        what.close()
        raise
    pool.start(workers)
    try:
        loaded, asked, reason = _loaded(engine, what, pool, name, max_batch_size)
    except BaseException:
        engine.detach(pool.port)
        raise
    kind = Model if what.sequences is None else SequencedModel
    return kind(
        loaded,
        scheduler=Scheduler.single_stream,
        placements=(),
        engine=engine,
        max_batch_size=asked,
        max_batch_delay=max_batch_delay,
        batching=reason,
        crew=pool,
    )


def _loaded(
    engine: Engine, what: Loadable, pool: Pool, name: str, max_batch_size: int | None
) -> tuple[Loaded, int, str]:
    """What the workers have loaded; the rows (a callable: requests) that are joined, and why so many."""
    if not isinstance(what, OnnxModel):
        reason = "as asked" if max_batch_size is not None else "a callable is batched when it is asked for"
        loaded = Loaded(
            "python",
            "python",
            name,
            (),
            inputs=None,
            outputs=None,
            parameters=pool.learnt.parameters,
            required=pool.learnt.required,
            spreads=not what.in_lists,
        )
        return loaded, pool.batcher.max_batch_size, reason
    loaded = Loaded("onnxruntime", "onnxruntime_onnx", name, (), inputs=what.inputs, outputs=what.outputs)
    pool.batcher.max_batch_size = 1  # what is tried is a batch already
    probed = replace(loaded, sessions=(Tried(engine, pool),))
    size, reason = batching(probed, max_batch_size, lambda run: run())
    with engine.guard.lock:
        pool.batcher.max_batch_size, pool.batcher.counts = size, Counts()  # nobody has asked for anything yet
        pool.port.runs, pool.port.run_seconds = 0, 0.0
    return loaded, size, reason


class Tried(Owner):
    """A Session whose runs go on in a worker, before there is a Model."""

    def __init__(self, engine: Engine, pool: Pool) -> None:
        self._engine, self._pool, self.name = engine, pool, pool.name

    def run(self, inputs: tuple[Any, ...], names: tuple[str, ...] | None = None, stop: Any = None) -> list[Any]:
        request, ended = Pending(self, inputs, self._engine.guard), threading.Event()
        request.add_done_callback(lambda _: ended.set())
        add: Callable[..., None] = self._pool.batcher.add
        self._engine.offer(self._pool.port, add, request)
        ended.wait()
        try:
            outputs: list[Any] = request.result()
        except BackendError as error:
            raise error.__cause__ or error from None
        return outputs

    def close(self) -> None:
        pass

    def on_error(self, pending: Pending) -> None:
        pass


def runs_coroutines(model: Model) -> bool:
    """Whether what its workers run is a coroutine function."""
    return isinstance(model.crew, Pool) and bool(model.crew.at_once)
