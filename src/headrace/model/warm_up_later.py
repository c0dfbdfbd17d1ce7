"""The warm-up of a model whose cores were busy while it was loaded: as soon as they are free.

Rule 1: each session that has not been run stands in line for the cores of one of its streams, as every run does, on a
        stream of its own. Nobody waits for it.
Rule 2: requests that came meanwhile are the first runs: then nothing is made up any more.
Rule 3: it takes SECONDS at most, and ends with the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from threading import Timer

from headrace.backends.base import Session
from headrace.engine.engine import Engine
from headrace.engine.port import Port
from headrace.engine.rehearsal import Rehearsal
from headrace.errors import Closed, NotEnoughCores
from headrace.model.warm_up import SECONDS, FirstRun, made_up
from headrace.tensor import TensorSpec


class WarmUpLater:
    """Begun when it is made. `needed`: asked when a session's turn has come."""

    def __init__(
        self,
        engine: Engine,
        sessions: Iterable[tuple[Session, int]],
        inputs: Sequence[TensorSpec],
        name: str,
        needed: Callable[[], bool],
    ) -> None:
        """`sessions`: each with the mask of the cores it runs on. Those that several streams share are run once."""
        self._engine, self._needed = engine, needed
        self._begun: list[tuple[_Late, Port]] = []
        values = made_up(inputs)
        seen: set[int] = set()
        for session, mask in sessions:
            if values is not None and id(session) not in seen:
                seen.add(id(session))
                late = _Late(FirstRun(session, values), needed, f"{name} warms up")
                with contextlib.suppress(Closed, NotEnoughCores):  # nobody will ask it anything
                    port = engine.attach(late, [mask], late.name)
                    late.over = partial(engine.abandon, port)
                    self._begun.append((late, port))
                    engine.offer(port, late.add, late)

    def close(self) -> None:
        """What has not begun does not. What runs is stopped where it can be, and waited for."""
        for late, _ in self._begun:
            late.first.stop()
        for _, port in self._begun:
            self._engine.detach(port)


class _Late(Rehearsal):
    """A session's first run, on the only stream of a port of its own."""

    writes = ("its session",)
    """It is never sent away to make room for others."""
    held = False
    """It needs no room in the engine: it makes no result."""

    def __init__(self, first: FirstRun, needed: Callable[[], bool], name: str) -> None:
        super().__init__(self._run, name)
        self._waits = False  # until the engine knows the port
        self._needed = needed
        self.first = first
        self.over: Callable[[], object] = lambda: None

    def add(self, _: object, now: float) -> None:
        self._waits = True

    def _run(self) -> None:
        if self._needed():
            too_long = Timer(SECONDS, self.first.stop)
            too_long.daemon = True
            too_long.start()
            self.first()
            too_long.cancel()

    def deliver(self) -> None:
        self.first.forget()
        self.over()
