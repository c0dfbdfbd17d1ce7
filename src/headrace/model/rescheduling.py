"""`model.reschedule`: another scheduler, without a pause.

Rule 1: what may fail is done before anything changes: numbers are checked, cores chosen, sessions made. Where that
        fails the old streams go on, and nobody has noticed.
Rule 2: the change is one step (`engine.handover`): from then on the new streams pull, and run on their sessions.
Rule 3: several at once are done one after the other. Who waits for old streams to end is in nobody's way.
Rule 4: a session is closed once no stream is left that may run on it. One that several streams may share goes on being
        used where new ones are as wide.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from headrace.backends.base import Backend, Loaded, LoadOptions, Session
from headrace.engine.engine import Engine
from headrace.engine.guard import refuse_to_wait_inside
from headrace.engine.handover import have_ended, replace_streams
from headrace.engine.here import on_a_stream
from headrace.engine.ownership import machine
from headrace.engine.pinning import cpus_of
from headrace.engine.placement import Placement, bound_cpus, plan, warning
from headrace.engine.scheduler import Scheduler
from headrace.engine.stream import Stream
from headrace.engine.timeouts import checked
from headrace.errors import Closed, InvalidModel, InvalidOption, WouldDeadlock
from headrace.model.instance import close_all
from headrace.model.warm_up import warm_up_beside

if TYPE_CHECKING:
    from headrace.engine.port import Port
    from headrace.model.model import Model

_log = logging.getLogger("headrace.model")

Need = tuple[int, tuple[int, ...]]
"""What a stream needs of its session: so many threads, and the CPUs they stay on; (): any."""


SMALL = 64 << 20
"""Bytes of a model's file up to which it may keep its weights in others, and is looked through for their names."""


@dataclass(frozen=True)
class Origin:
    """Where a model came from: it is loaded from there again for streams of other widths."""

    backend: Backend
    model: Any
    options: LoadOptions
    state: tuple[int, ...] | None
    """Of its file, before it was read; None: it came from none."""
    warm_up: bool = True
    """Whether a session is run once before its first request."""

    @classmethod
    def of(cls, backend: Backend, model: Any, options: LoadOptions, warm_up: bool = True) -> Origin:
        state = _state_of(model)
        if isinstance(model, str | os.PathLike) and os.path.exists(model):
            model = os.path.abspath(model)  # the process may work in another folder when it is loaded again
        return cls(backend, model, options, state, warm_up)

    def load(self, needs: Sequence[Need]) -> Loaded:
        """InvalidModel if it is not what it was."""
        self._check()
        cpus = tuple(cpus for _, cpus in needs)
        options = replace(self.options, widths=tuple(width for width, _ in needs), cpus=cpus if any(cpus) else ())
        loaded = self.backend.load(self.model, options)
        try:
            self._check()  # it may have been replaced while it was read
        except InvalidModel:
            _close(loaded.sessions, loaded.name)
            raise
        return loaded

    def _check(self) -> None:
        if self.state is not None and _state_of(self.model) != self.state:
            raise InvalidModel(
                f"{self.model} was changed or removed after it was loaded: the new streams would run another model. "
                "Compile it anew"
            )


def reschedule(
    model: Model,
    scheduler: str | Scheduler | None,
    num_streams: int | None,
    num_cores: int | None,
    timeout: float | None,
) -> None:
    policy = model.scheduler if scheduler is None else Scheduler.of(scheduler)
    timeout = checked(timeout)
    engine, port = model.engine, model.port
    if engine is None or port is None or policy is Scheduler.naive:
        change = f"a model cannot go from {model.scheduler} to {policy}"
        if policy is model.scheduler:
            change = "a naive model has nothing to reschedule"
        raise InvalidOption(f"{change}: naive has no streams, it runs in its callers. Compile it anew")
    engine.check_process()
    refuse_to_wait_inside(model.guard)
    if model.rescheduling._is_owned():  # type: ignore[attr-defined]  # as `refuse_to_wait_inside`
        raise WouldDeadlock("this code runs in a finaliser or a signal handler, in the middle of this very change")
    with model.rescheduling:
        if model.closed:
            raise Closed(f"model {model.name} is closed")
        placements = plan(policy, engine.cores, num_cores, num_streams)
        if (policy, placements) == (model.scheduler, model.placements):
            return
        streams, idle = _switch(model, engine, port, policy, placements)

    def end() -> None:
        have_ended(engine, port, streams)
        _close(idle, model.name)

    if not on_a_stream() and have_ended(engine, port, streams, timeout):
        _close(idle, model.name)
    else:  # a stream that waited here might wait for itself
        thread = threading.Thread(target=end, name=f"headrace-{model.name}-reschedule", daemon=True)
        thread.start()
        with model.guard.lock:
            model.helpers[:] = [*(each for each in model.helpers if each.is_alive()), thread]


def _switch(
    model: Model, engine: Engine, port: Port, policy: Scheduler, placements: tuple[Placement, ...]
) -> tuple[tuple[Stream, ...], list[Session]]:
    """The streams that end, and the sessions that are needed no more after that."""
    needs = _needs(engine, policy, placements)
    before = model.sessions
    shared = {
        need: session
        for need, session in zip(_needs(engine, model.scheduler, model.placements), before)
        if getattr(session, "shared", False)
    }
    to_make = [need for need in needs if need not in shared]
    made: tuple[Session, ...] = ()
    try:
        if to_make:
            if model.origin is None:
                raise InvalidOption(f"model {model.name} was not made by compile_model, which could load it again")
            loaded = model.origin.load(to_make)
            made = loaded.sessions
            if (loaded.inputs, loaded.outputs) != (model.inputs, model.outputs):
                raise InvalidModel(f"{model.name} takes or gives other tensors than when it was loaded")
            if model.origin.warm_up and model.inputs is not None and not on_a_stream():
                masks = [place.mask for place, need in zip(placements, needs) if need not in shared]
                warm_up_beside(made, masks, model.inputs, engine, model.name)
        fresh = iter(made)
        sessions = tuple(shared[need] if need in shared else next(fresh) for need in needs)
        if (straddling := warning(policy, placements, engine.cores)) is not None:
            _log.warning("%s: %s", model.name, straddling)
        streams = replace_streams(
            engine,
            port,
            [place.mask for place in placements],
            lambda: model.serve_by(policy, placements, sessions),
            bound=bool(bound_cpus(policy, placements, engine.topology.is_cut)),
        )
    except BaseException:
        if model.placements is not placements:
            _close(made, model.name)
        raise
    return streams, [each for each in before if not any(each is kept for kept in sessions)]


def _needs(engine: Engine, policy: Scheduler, placements: Sequence[Placement]) -> list[Need]:
    cpus = cpus_of(policy, placements, engine.topology.is_cut, machine())
    return [(place.width, stays) for place, stays in zip(placements, cpus)]


def _close(sessions: Iterable[Session], name: str) -> None:
    close_all({id(session): session for session in sessions}.values(), name)


def _state_of(model: Any) -> tuple[int, ...] | None:
    """Of its file, and of those beside it that it names: an ONNX file may keep its weights in others."""
    if not isinstance(model, str | os.PathLike):
        return None
    try:
        path = os.fsdecode(model)
        state = _stat_of(path)
        content = b""
        if state[2] <= SMALL:
            with open(path, "rb") as file:
                content = file.read()
    except (OSError, ValueError):
        return None  # it is no file, or one that could not be loaded either
    folder = os.path.dirname(path) or "."
    try:
        with os.scandir(folder) as beside:
            names = sorted(entry.name for entry in beside if os.fsencode(entry.name) in content)
    except OSError:  # one that may not be listed: only its own file is watched
        names = []
    for name in names:
        with contextlib.suppress(OSError):  # who cannot be looked at says nothing; gone later, it is another state
            other = os.stat(os.path.join(folder, name))
            if stat.S_ISREG(other.st_mode):
                state += _told_by(other)
    return state


def _stat_of(path: str) -> tuple[int, ...]:
    return _told_by(os.stat(path))


def _told_by(seen: os.stat_result) -> tuple[int, ...]:
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns
