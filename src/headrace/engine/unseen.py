"""The errors nobody has looked at: what `waitall` raises, once.

Rule 1: at most UNSEEN of them are kept, the newest; how many more there were is said.
Rule 2: an error somebody has looked at is theirs: kept here, its traceback would keep the inputs of the failed run
        alive. It is dropped at the latest when as many again have come as were kept.
Rule 3: the caller holds the engine's lock, except in `tell`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from headrace.engine.future import Future

UNSEEN = 1000
FEW = 16


class Unseen:
    def __init__(self) -> None:
        self._futures: deque[Future[Any]] = deque()
        self._forgotten = 0  # of those nobody has looked at, beyond UNSEEN
        self._sweep_in = FEW

    def __iter__(self) -> Iterator[Future[Any]]:
        return iter(list(self._futures))

    def add(self, future: Future[Any]) -> None:
        """`future` holds an error."""
        kept = self._futures
        if kept and kept[-1] is future:  # an interrupt had it told twice
            return
        while kept and kept[0]._seen:
            kept.popleft()
        self._sweep_in -= 1
        if self._sweep_in <= 0:
            for _ in range(len(kept)):  # not by iterating: a finaliser that comes meanwhile may add another one
                each = kept.popleft()
                if not each._seen:
                    kept.append(each)
            self._sweep_in = max(FEW, len(kept))
        if len(kept) >= UNSEEN:
            self._forgotten += not kept.popleft()._seen
        kept.append(future)

    def take(self) -> tuple[list[Future[Any]], int]:
        """Those nobody has looked at, and how many more there were; then there are none."""
        futures, self._futures = self._futures, deque()
        more, self._forgotten = self._forgotten, 0
        return [future for future in futures if not future._seen], more


def tell(taken: Iterable[tuple[list[Future[Any]], int]]) -> None:
    """Raise what engines had kept, as one ExceptionGroup; nothing if that is nothing. Without the lock."""
    errors: list[BaseException] = []
    beyond = 0
    for futures, more in taken:
        errors += [error for error in (future.exception() for future in futures) if error is not None]
        beyond += more
    if errors:
        of_more = f"; of {beyond:,} more only the Futures know" if beyond else ""
        raise BaseExceptionGroup(f"work on this engine failed, and nobody has looked{of_more}", errors)
