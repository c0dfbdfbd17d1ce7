"""Many values through a model, a few at a time, and their answers in order.

Rule 1: an error is raised in its place, and ends it; what was submitted after it is cancelled.
Rule 2: where there is no room, the oldest of our own answers is waited for: others fill the engine, or those do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from headrace.engine.future import Future
from headrace.errors import Overloaded, WouldDeadlock


def in_their_order(submit: Callable[[Any], Future[Any]], values: Iterable[Any], window: int) -> Iterator[Any]:
    """What comes of each of `values`, with at most `window` of them submitted and not yet given out."""
    inside: deque[Future[Any]] = deque()
    try:
        for value in values:
            while True:
                try:
                    inside.append(submit(value))
                    break
                except (Overloaded, WouldDeadlock):
                    # Others fill the engine, or our own answers do: our oldest is what we can wait for.
                    if not inside:
                        raise
                except Exception:  # its place is behind the answers that are still to come
                    while inside:
                        yield inside.popleft().result()
                    raise
                yield inside.popleft().result()  # out here: the error would keep the answers it names
            if len(inside) >= window:
                yield inside.popleft().result()
        while inside:
            yield inside.popleft().result()
    finally:
        for future in inside:
            future.cancel()
