"""A request of a manager: what it says, and who says it; and what its answer is written with."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from headrace.server.head import Head
from headrace.server.parameters import Parameters
from headrace.server.reply import Reply

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """One request: what it says, and who says it."""

    head: Head
    parameters: Parameters
    body: bytes
    named: dict[str, str]
    who: str

    @property
    def name(self) -> str:
        return self.named["model"]

    @property
    def version(self) -> str | None:
        return self.named.get("version")


def written(value: Any) -> Reply:
    """As the old servers write JSON."""
    return Reply(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


async def until(future: Future[T]) -> T:
    """Of a change, without holding up the loop."""
    return await asyncio.wrap_future(future)
