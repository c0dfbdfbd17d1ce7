"""From what a worker loads to a Model whose work is done in processes."""

from __future__ import annotations

from headrace.backends.base import Loaded
from headrace.engine.engine import Engine
from headrace.engine.ownership import default_engine
from headrace.engine.placement import plan
from headrace.engine.scheduler import Scheduler
from headrace.engine.timeouts import is_number
from headrace.errors import InvalidOption
from headrace.model.compile import check_batching, check_engine_and_name
from headrace.model.model import Model
from headrace.workers.pool import Loadable, Pool, WorkerOptions, check_workers


def start_workers(
    what: Loadable,
    options: WorkerOptions,
    workers: int = 1,
    *,
    num_cores: int | None = None,
    scheduler: Scheduler = Scheduler.single_stream,
    engine: Engine | None = None,
    max_batch_size: int | None = 1,
    max_batch_delay: float = 0.0,
    name: str | None = None,
) -> Model:
    """Start so many workers of `what`, and wait until they are ready. `name`: None is its own.

    InvalidOption, or InvalidModel with what a worker said that could not load it.
    """
    size = 1 if max_batch_size is None else max_batch_size
    check_batching(size, max_batch_delay)
    check_engine_and_name(engine, name)
    check_workers(workers)
    check(options)
    engine = engine or default_engine()
    engine.check_process()
    placements = plan(Scheduler.single_stream, engine.cores, num_cores, None)  # as many cores as there are
    name = name or what.name
    pool = Pool(
        engine,
        what,
        name,
        options,
        num_cores=placements[0].width,
        max_batch_size=size,
        max_batch_delay=max_batch_delay,
    )
    pool.start(workers)
    loaded = Loaded(
        "python",
        "python",
        name,
        (),
        inputs=None,
        outputs=None,
        parameters=pool.parameters,
        required=pool.required,
        spreads=not what.in_lists,
    )
    return Model(
        loaded,
        scheduler=scheduler,
        placements=(),
        engine=engine,
        max_batch_size=size,
        max_batch_delay=max_batch_delay,
        batching="as asked" if max_batch_size is not None else "a callable is batched when it is asked for",
        crew=pool,
    )


def check(options: WorkerOptions) -> None:
    """InvalidOption for what is no number of seconds or bytes."""
    for what in ("response_timeout", "cancel_grace"):
        seconds = getattr(options, what)
        if not is_number(seconds) or not 0 < seconds <= 1e6:
            raise InvalidOption(f"{what} is in seconds, above 0, not {seconds!r}")
    limit = options.memory_limit
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
        raise InvalidOption(f"memory_limit is a whole number of bytes, or None, not {limit!r}")
