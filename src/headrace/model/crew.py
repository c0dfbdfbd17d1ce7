"""What the worker processes of a model are to it: all it asks of them. `workers.pool` is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from headrace.engine.port import Port
from headrace.model.batcher import Batcher
from headrace.model.run import Requests


class Crew(Protocol):
    """The worker processes of a model."""

    @property
    def batcher(self) -> Batcher: ...

    @property
    def source(self) -> Requests: ...

    @property
    def port(self) -> Port: ...

    version: str | None
    """Which one it is served as, for messages."""

    @property
    def retry_after(self) -> float | None:
        """Seconds until it is tried again, where it `is_broken`."""

    on_change: Callable[[], object]
    """Called on a worker's thread when one has another state."""

    @property
    def is_broken(self) -> bool:
        """None works, and none could be made to."""

    @property
    def reason(self) -> str | None:
        """Why, where something is wrong."""

    def restarts(self) -> dict[str, int]:
        """Processes started in place of others, by what became of those."""

    def states(self) -> dict[str, int]:
        """Workers by state."""

    @property
    def told(self) -> Any:
        """The metrics its workers tell of (`workers.told`)."""

    @property
    def always_in_lists(self) -> bool:
        """Whether it is given a list even of one request."""

    @property
    def describes(self) -> bool:
        """Whether what it runs can be asked what it says of itself."""

    @property
    def ready(self) -> int:
        """Workers that could take a request."""

    @property
    def working(self) -> int:
        """Workers that are not broken."""

    @property
    def response_timeout(self) -> float:
        """Seconds."""

    def __len__(self) -> int: ...

    def statuses(self) -> Sequence[Any]:
        """A `workers.status.WorkerStatus` of each."""

    def scale(self, workers: int, timeout: float | None = None, *, replan: bool = True) -> None: ...

    def restart(self) -> None: ...

    def set_response_timeout(self, seconds: float) -> None: ...
