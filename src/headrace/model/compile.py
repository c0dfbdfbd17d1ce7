"""`compile_model`: a path or a callable becomes a Model on an engine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from headrace.backends import backend_for
from headrace.backends.base import Loaded, LoadOptions
from headrace.engine.binding import made_on
from headrace.engine.devices import check_devices
from headrace.engine.engine import Engine
from headrace.engine.here import on_a_stream
from headrace.engine.leased import leased
from headrace.engine.naive import NaiveEngine
from headrace.engine.ownership import default_engine, machine
from headrace.engine.pinning import cpus_of
from headrace.engine.placement import bound_cpus, plan, warning
from headrace.engine.scheduler import Scheduler
from headrace.errors import InvalidOption
from headrace.model.agreement import disagreement
from headrace.model.instance import close_all
from headrace.model.model import Model
from headrace.model.rescheduling import Origin

SERVED_BATCH_SIZE = 32
_log = logging.getLogger("headrace.model")
LEASE = 5.0
"""Seconds a model that is being compiled waits for cores to try on whether its requests can be joined."""
T = TypeVar("T")
LONGEST_DELAY = 3600
"""Seconds. Longer is a mistake of units; and a lock cannot wait for ever so long."""


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
) -> Model:
    """Load a model, and start its streams in this process.

    `hr.compile_model` says what the arguments mean: it hands them on to here.

    Raises InvalidModel, InvalidOption, BackendNotInstalled, DeviceNotFound, NotEnoughCores.
    """
    check_batching(max_batch_size, max_batch_delay)
    check_engine_and_name(engine, name)
    check_model_options(batch_size, precision, devices, engine)
    policy = Scheduler.of(scheduler)
    runtime = backend_for(model, backend)
    if policy is Scheduler.naive:
        engine = None
        cores = machine().usable
    else:
        engine = engine or default_engine()
        engine.check_process()
        cores = engine.cores
    placements = plan(policy, cores, num_cores, num_streams)
    cut = engine is not None and engine.topology.is_cut
    cpus = cpus_of(policy, placements, cut, machine())
    widths = tuple(placement.width for placement in placements) or (1,)
    options = LoadOptions(widths, batch_size, shapes_by_name(input_shapes), cpus)
    origin = Origin.of(runtime, model, options, warm_up)
    loaded = runtime.load(model, options)
    try:
        if name is not None:
            loaded = replace(loaded, name=name)
        if (straddling := warning(policy, placements, cores)) is not None:
            _log.warning("%s: %s", loaded.name, straddling)
        # It runs the first session, which is to take its memory where it will stay.
        mask = placements[0].mask if placements else 0
        size, reason = batching(
            loaded, max_batch_size, partial(_on, engine, mask, cpus[0] if cpus else (), loaded.name)
        )
        made = Model(
            loaded,
            scheduler=policy,
            placements=placements,
            engine=engine,
            max_batch_size=size,
            max_batch_delay=max_batch_delay,
            batching=reason,
            bound=bool(bound_cpus(policy, placements, cut)),
            origin=origin,
        )
    except BaseException:  # nobody else knows what was loaded
        close_all({id(session): session for session in loaded.sessions}.values(), loaded.name)
        raise
    if warm_up:
        try:
            made.warm_up()
        except BaseException:  # Ctrl-C: nobody has it, so nobody could close it
            made.close(drain=False)
            raise
    return made


def _on(engine: Engine | None, mask: int, cpus: Sequence[int], name: str, call: Callable[[], T]) -> T:
    """What `call()` gives or raises, on the cores of `mask`. Should those not be had for LEASE seconds, without."""
    gave: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            gave.append(made_on(cpus, call))
        except BaseException as error:
            raised.append(error)

    if engine is not None and not on_a_stream():
        leased(engine, mask, run, LEASE, f"{name} is tried")
    if not gave and not raised:
        run()
    if raised:
        raise raised.pop()
    return gave[0]


def batching(
    loaded: Loaded, asked: int | None, run: Callable[[Callable[[], str | None]], str | None]
) -> tuple[int, str]:
    """(max_batch_size, why); `asked` None leaves that to what the model can do. `run`: where it is tried."""
    if asked == 1:
        return 1, "as asked"
    if loaded.inputs is None or loaded.outputs is None:
        return (asked or 1), "as asked" if asked else "a callable is batched when it is asked for"
    fixed = [str(spec) for spec in (*loaded.inputs, *loaded.outputs) if not spec.rows_are_free]
    if fixed or not loaded.inputs:
        why = f"the leading dimension is not free: {fixed[0]}" if fixed else "it has no inputs"
        if asked is not None:
            raise InvalidOption(f"max_batch_size={asked}, but requests to this model cannot be joined: {why}")
        return 1, why
    inputs = loaded.inputs
    reason = run(lambda: disagreement(loaded.sessions[0], inputs))
    if asked is not None:
        if reason:
            _log.warning("max_batch_size=%d for %s is as asked, but: %s", asked, loaded.name, reason)
        return asked, "as asked"
    return (1, reason) if reason else (SERVED_BATCH_SIZE, "a batch and its members run alone agree")


def shapes_by_name(shapes: Any) -> Mapping[str, Sequence[int]] | None:
    if shapes is None:
        return None
    if isinstance(shapes, Mapping):
        strange = next((name for name in shapes if not isinstance(name, str)), None)
        if strange is not None:
            raise InvalidOption(
                f"input_shapes is a dict by the names of inputs, or a list in input order; {strange!r} is no name"
            )
        return shapes
    if isinstance(shapes, str | bytes) or not isinstance(shapes, Sequence):
        raise InvalidOption(f"input_shapes is a dict by name, or a list in input order, not {shapes!r}")
    # DeepSparse's form: a list in input order. The backend knows the names; it is told the positions.
    return {str(i): shape for i, shape in enumerate(shapes)}


def check_batching(max_batch_size: Any, max_batch_delay: Any) -> None:
    """InvalidOption for what is none."""
    sizes = max_batch_size is None or _is_count(max_batch_size)
    seconds = isinstance(max_batch_delay, int | float) and not isinstance(max_batch_delay, bool)
    if not sizes or not seconds or not 0 <= max_batch_delay <= LONGEST_DELAY:
        raise InvalidOption(
            f"max_batch_size is a whole number from 1, and max_batch_delay seconds from 0 to {LONGEST_DELAY:,}, "
            f"not {max_batch_size!r} and {max_batch_delay!r}"
        )


def check_model_options(batch_size: Any, precision: Any, devices: Any, engine: Engine | None) -> None:
    """InvalidOption or DeviceNotFound for what no model of this version can have."""
    if batch_size is not None and not _is_count(batch_size):
        raise InvalidOption(
            f"batch_size is a whole number from 1, or None to leave dimension 0 free, not {batch_size!r}"
        )
    if precision != "fp32":
        raise InvalidOption(
            f"precision 'fp32' is what this version has, not {precision!r}; a model runs in the types it was saved "
            "with: leave precision out"
        )
    check_devices(devices, engine.topology if engine is not None else machine())


def check_engine_and_name(engine: Any, name: Any) -> None:
    if engine is not None and not isinstance(engine, Engine):
        naive = "; to run in the caller: scheduler='naive'" if isinstance(engine, NaiveEngine) else ""
        raise InvalidOption(
            f"engine is an hr.Engine, or None for the process's own, not {engine!r} ({type(engine).__name__}){naive}"
        )
    if name is not None and (not isinstance(name, str) or not name):
        raise InvalidOption(f"name is what the model is to be called, a text, or None for its own, not {name!r}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
