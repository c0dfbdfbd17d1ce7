"""A run for which no stream is there yet: with its cores leased all the same, so that it fits beside what runs."""

from __future__ import annotations

from collections.abc import Callable

from headrace.engine.dispatch import Dispatch
from headrace.engine.rehearsal import Rehearsal
from headrace.errors import Closed


def leased(engine: Dispatch, mask: int, call: Callable[[], object], seconds: float, name: str) -> bool:
    """Have a stream of its own do `call` on the cores of `mask`. Not on a stream.

    False if it has not ended within `seconds`: if it has not begun it does not; if it has, this waits for its end. What
    it raises is lost. Closed, NotEnoughCores as `Dispatch.attach`.
    """
    nothing = Rehearsal(lambda: None, name)
    nothing.abandon(Closed("it is the source of nothing"))
    port = engine.attach(nothing, [mask], name)
    try:
        return engine.rehearse(port.streams[0], call, seconds)
    finally:
        engine.detach(port)
