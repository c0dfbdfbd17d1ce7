"""What the models of a server are compiled with: what the server was told, and of a model what was asked for of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.archives.environments import EnvironmentOptions
from headrace.serving.interpreters import Interpreters
from headrace.workers.options import AT_ONCE
from headrace.workers.sequenced import SequenceHeaders


@dataclass(frozen=True)
class CompileOptions:
    """What every model of this server is compiled with."""

    scheduler: str = "single_stream"
    num_cores: int | None = None
    num_streams: int | None = None
    max_batch_size: int | None = None
    max_batch_delay: float = 0.0
    measured: bool = False
    """Whether times and sizes are counted: for metrics."""
    isolation: str = "thread"
    """Where models run: "process" is worker processes, "thread" this one; "auto": callables in worker processes, what
    is nobody's code in this one."""
    workers: int = 1
    share_weights: bool = False
    response_timeout: float = 120.0
    cancel_grace: float = 5.0
    idempotent: bool = True
    memory_limit: int | None = None
    interpreters: Interpreters = field(default_factory=lambda: Interpreters({}))
    """What workers run, where the operator has said so."""
    environments: EnvironmentOptions = field(default_factory=EnvironmentOptions)
    """What archives may have of their own."""
    service_envelope: str | None = None
    """What clients put around what handlers are given; None: nothing."""
    decode_input_request: bool = True
    concurrency: int = AT_ONCE
    queue: int | None = None
    """Requests a model may have inside; None: only the server's own bound."""
    sequence_headers: SequenceHeaders = field(default_factory=SequenceHeaders)
    """What says of which sequence a request is, where models have any."""
    startup_timeout: float | None = None
    """Seconds a load may take, workers or not; None: as many as it likes, but workers `start_timeout`."""
    start_timeout: float = 120.0
    """Seconds in which a worker has to have loaded its model."""
    asked: tuple[str, ...] = ()
    """Options that count more than what an archive's YAML says, because they were asked for of this model."""
    priority_levels: int = 0
    """What requests may say of their priority (`priorities`); 0: nothing."""
    default_priority_level: int | None = None
    """None: the one in the middle."""
    reasons: bool = True
    """Whether clients are told why a handler's answer was none, or only, as by the old servers, that it was."""
