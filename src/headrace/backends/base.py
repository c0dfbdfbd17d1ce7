"""What a backend is: something that loads a model, and runs it on the stream that asks.

A Backend opens Sessions: one for each placement, or the same one for several where the runtime allows it. A Session's
`run` is called from stream threads, one call at a time for each placement; a shared one is called by several at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from headrace.tensor import TensorSpec


@dataclass(frozen=True)
class LoadOptions:
    """What a backend needs to know beside the model itself."""

    widths: tuple[int, ...]
    """Cores of each stream; one Session is opened for each."""
    batch_size: int | None = None
    """Fixes dimension 0 of every input; None leaves it as the model has it."""
    input_shapes: Mapping[str, Sequence[int]] | None = None
    """Fixes whole shapes, by input name or by position ("0", "1", …)."""
    cpus: tuple[tuple[int, ...], ...] = ()
    """The CPUs each stream's threads are to stay on, in the order of `widths`: its Session is its own, and made there
    (`engine.binding.made_on`), so that its memory is near it. (), for one or for all: any."""


class Stop:
    """A way into one run, for whoever no longer wants what it computes.

    The run leaves in `handle` what its session's `stop` takes, and looks at `requested` after that; who wants it to end
    sets `requested`, and looks at `handle` after that. So whichever comes second sees the other, without a lock.
    """

    __slots__ = ("handle", "requested")

    def __init__(self) -> None:
        self.requested = False
        self.handle: Any = None


class Session(Protocol):
    """`stoppable = True` says that `run` takes a `stop` and heeds it, and that there is a method `stop(handle)`, which
    has that run raise soon, from any thread. Without it `run` is never given a `stop`.

    `shared = True` says that any number of streams of its width may use it, so that one more may. Without it, new
    streams (`Model.reschedule`) have new sessions."""

    def run(self, inputs: tuple[Any, ...], names: tuple[str, ...] | None = None, stop: Stop | None = None) -> list[Any]:
        """The outputs, in the model's order, for `inputs` in the model's order. Raises whatever the runtime raises.

        `names`: the names a callable's arguments are passed by (None: by position); a tensor model ignores them.
        Outputs are fresh: they never alias memory that a later run writes.
        """

    def close(self) -> None: ...


@dataclass(frozen=True)
class Loaded:
    """A model as a backend has loaded it."""

    backend: str
    platform: str
    """What `GET /v2/models/{m}` calls the platform: `onnxruntime_onnx`, `python`."""
    name: str
    sessions: tuple[Session, ...]
    """One for each width asked for, in that order; the same object may stand there several times."""
    inputs: tuple[TensorSpec, ...] | None
    """None: a callable, which takes anything."""
    outputs: tuple[TensorSpec, ...] | None
    parameters: tuple[str, ...] | None = None
    """The names a callable's arguments have; None where it takes any, or where `inputs` says them."""
    required: tuple[str, ...] = ()
    """Those of `parameters` that have no default."""
    spreads: bool = False
    """Whether a list is passed as several arguments and a dict by name; else any value is one argument."""


class Backend(Protocol):
    name: str

    def load(self, model: Any, options: LoadOptions) -> Loaded:
        """Raises InvalidModel for what is no model of this backend, InvalidOption for what it cannot do."""
