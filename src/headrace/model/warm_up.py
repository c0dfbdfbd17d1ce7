"""The first runs of a tensor model, at load, so that no request pays for them; and the look at the interpreter lock.

Rule 1: each stream runs the model itself, on its thread and its cores: memory is allocated where it will be used.
Rule 2: inputs are made up: free dimensions are 1. A model that does not take them has no warm-up; that is no failure.
        A full batch is not tried: its first run takes a few per cent longer, and as much memory as it may never need.
Rule 3: all of it takes SECONDS at most. What has not begun by then is done later (`warm_up_later`); what runs is
        stopped, where it can be.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Timer
from time import perf_counter

import numpy as np

from headrace.backends.base import Session, Stop
from headrace.engine.engine import Engine
from headrace.engine.leased import leased
from headrace.engine.port import Port
from headrace.engine.stream import Stream
from headrace.model.gil import SHORTEST, Gil, Look, is_enough, judged
from headrace.model.probe import beside, can_look
from headrace.tensor import Array, TensorSpec

SECONDS = 1.0
LARGEST = 256 << 20
"""Bytes of made-up inputs: what takes more is not run unasked."""
TRIES = 10
"""Looks at most: some see nothing, because somebody else holds the lock."""
_log = logging.getLogger("headrace.model")


@dataclass(frozen=True)
class WarmUp:
    """What came of it."""

    gil: Gil | None = None
    """None: nothing was seen that says something."""
    left: tuple[int, ...] = ()
    """The streams that have not run it, because others had their cores."""


def warm_up(
    sessions: Sequence[Session],
    inputs: Sequence[TensorSpec],
    engine: Engine | None,
    port: Port | None,
    seconds: float = SECONDS,
) -> WarmUp:
    """Run the model once on each stream, and a few times more to look at it.

    `engine` None: in the caller. Raises nothing.
    """
    values = made_up(inputs)
    if values is None:
        return WarmUp()
    until = perf_counter() + seconds
    if engine is None or port is None:
        first = FirstRun(sessions[0], values)
        first()
        return WarmUp(_looked_at(first, until, _in_the_caller) if first.is_telling else None)

    def on(stream: Stream, run: FirstRun) -> bool:
        """Have `stream` do `run`. False where that took too long, or the model does not run."""
        left, ended = until - perf_counter(), False
        try:
            ended = left > 0 and engine.rehearse(stream, run, left)
        finally:
            if not ended:
                run.stop()
        return ended and run.error is None

    runs = [FirstRun(session, values) for session in sessions]
    if not all(on(stream, run) for stream, run in zip(port.streams, runs)):
        failed = next((run for run in runs if run.began and (run.error is not None or not run.ended)), None)
        if failed is not None:
            _log.debug("%s is not warmed up: %s", port.name, failed.error or f"it takes longer than {seconds} s")
            return WarmUp()
        return WarmUp(left=tuple(index for index, run in enumerate(runs) if not run.began))
    return WarmUp(_looked_at(runs[0], until, lambda run: on(port.streams[0], run)) if runs[0].is_telling else None)


def warm_up_beside(
    sessions: Sequence[Session], masks: Sequence[int], inputs: Sequence[TensorSpec], engine: Engine, name: str
) -> None:
    """Run each session once on the cores of its mask, while others serve the model's requests: for all of them it waits
    SECONDS at most for cores. Not on a stream."""
    values = made_up(inputs)
    until = perf_counter() + SECONDS
    tried: set[int] = set()
    for session, mask in zip(sessions, masks):
        left = until - perf_counter()
        if values is None or left <= 0 or id(session) in tried:
            continue
        tried.add(id(session))
        run = FirstRun(session, values)
        too_long = Timer(left, run.stop)
        too_long.daemon = True
        too_long.start()
        leased(engine, mask, run, left, f"{name} warms up")
        too_long.cancel()
        too_long.join()
        if not run.began:
            _log.info("%s: a new stream is not warmed up, its cores were busy for %g s", name, SECONDS)


def made_up(inputs: Sequence[TensorSpec]) -> tuple[Array, ...] | None:
    """Something of each input's kind and shape. None where that would be too much."""
    shapes = [tuple(1 if n is None else n for n in spec.shape) for spec in inputs]
    if sum(spec.dtype.itemsize * _count(shape) for spec, shape in zip(inputs, shapes)) > LARGEST:
        return None
    return tuple(_filled(spec, shape) for spec, shape in zip(inputs, shapes))


def _filled(spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    if spec.dtype.kind == "O":
        return np.full(shape, "", object)
    # Whole numbers may be indices or counts: 0 is one more often than anything else.
    return np.full(shape, 0.5 if spec.dtype.kind == "f" else 0, spec.dtype)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


class FirstRun:
    """One stream's run, done as often as it is called."""

    def __init__(self, session: Session, inputs: tuple[Array, ...]) -> None:
        self._session, self._inputs = session, inputs
        self._stop = Stop() if getattr(session, "stoppable", False) else None
        self.began = self.ended = False
        self.error: BaseException | None = None
        self.seconds = 0.0

    @property
    def is_telling(self) -> bool:
        return self.error is None and self.seconds >= SHORTEST and can_look()

    def __call__(self) -> None:
        began, self.began = perf_counter(), True
        try:
            if self._stop is None:
                self._session.run(self._inputs)
            else:
                self._session.run(self._inputs, None, self._stop)
        except BaseException as error:
            self.error = error
        self.seconds = perf_counter() - began
        self.ended = True

    def forget(self) -> None:
        """It is not done again: what was made up for it may be large."""
        self._inputs = ()

    def stop(self) -> None:
        if self._stop is not None:
            self._stop.requested = True
            if self._stop.handle is not None:
                self._session.stop(self._stop.handle)  # type: ignore[attr-defined]


class _LookedAt(FirstRun):
    """Another run's, with a look at it."""

    def __init__(self, run: FirstRun, looks: list[Look]) -> None:
        super().__init__(run._session, run._inputs)
        self._looks = looks

    def __call__(self) -> None:
        seen = beside(super().__call__)
        if seen is not None:
            self._looks.append(seen)


def _in_the_caller(run: FirstRun) -> bool:
    run()
    return run.error is None


def _looked_at(run: FirstRun, until: float, do: Callable[[FirstRun], bool]) -> Gil | None:
    looks: list[Look] = []
    tries = 0
    while tries < TRIES:
        if is_enough(looks) or perf_counter() + run.seconds > until or not do(_LookedAt(run, looks)):
            break
        tries += 1
    return judged(looks, tries - len(looks))
