"""A hot route in pure halves: from a body to a model's inputs, and from its outputs to a reply.

What lies between, who waits and how, is not a door's business. `answering` awaits; `protocol` is called back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from headrace.server.head import Head
from headrace.server.reply import Reply
from headrace.serving.served import Served

HEAVY = 64 * 1024
"""Bytes from which decoding leaves the event loop."""


class Door(Protocol):
    def check(self, head: Head) -> None:
        """Raise what is wrong with it already by its headers."""

    def heavy(self, served: Served, head: Head, nbytes: int) -> bool:
        """Whether decoding a body of so many bytes would keep the event loop from others."""

    def decode(
        self, served: Served, body: bytes, head: Head, route: Route, number: int
    ) -> tuple[tuple[Any, ...], tuple[str, ...] | None, Any]:
        """(the inputs, the names they are passed by, what `encode` needs to know). `number`: of the request
        (`reply.request_id`). On any thread."""

    def encode(self, served: Served, outputs: list[Any], context: Any) -> Reply: ...


@dataclass(frozen=True, slots=True)
class Route:
    """Which door a target leads to, and which model it names."""

    door: Door
    name: str
    """Empty: the one model there is, or the one its form names in the field `model_name`."""
    version: str | None
    headers: tuple[tuple[str, str], ...] = ()
    """What the path says to handlers of the model's own, as headers."""
    query: tuple[tuple[str, None, bytes], ...] = ()
    """Fields that the target says to them, as far as the route has any."""
