"""What goes through the doors: counted, and logged if that is asked for. Lives on the event loop.

A door tells of each request once, when its reply has been handed over. Where neither metrics nor an access log are
wanted there is no Traffic, and a request pays nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from headrace.lines import Lines
from headrace.server.access import LONGEST, Access
from headrace.server.status import reason_of
from headrace.serving.measures import Measures
from headrace.serving.served import Served

LEFT = 499
"""The status, here and nowhere else, of a request whose client did not wait for the answer."""


class Traffic:
    def __init__(self, access: Lines[Access] | None = None) -> None:
        self.access = access
        self.others = Measures()
        """Of requests that were of no model: health, metadata, paths that lead nowhere."""
        self.refused: Counter[str] = Counter()
        """Requests that were not answered as they wished, by reason: the kind of error."""

    now = staticmethod(time.monotonic)

    def answered(
        self,
        served: Served | None,
        status: int,
        received: int,
        sent: int,
        began: float,
        error: BaseException | None,
        decoding: float = 0.0,
        encoding: float = 0.0,
    ) -> None:
        """`served`: the model it was for; `received`, `sent`: bytes of the bodies; `began`: when its headers had come,
        by `now`; `error`: why it was not answered as it wished, with LEFT if its client did not wait; `decoding`,
        `encoding`: the seconds it took to make inputs of its body, and a body of its model's outputs; 0: it did not
        come to that."""
        measures = None if served is None else served.measures
        if measures is None:
            measures = self.others
        if status == LEFT:
            self.refused["ClientLeft"] += 1
        elif error is not None:
            self.refused[reason_of(error)] += 1
        measures.add(status, received, sent, time.monotonic() - began, decoding, encoding)

    def log(
        self,
        client: tuple[str, int] | None,
        method: str,
        path: str,
        status: int,
        sent: int,
        began: float,
        request_id: str,
    ) -> None:
        """Only where there is an `access` log. `path`: as the client wrote it."""
        assert self.access is not None
        if len(path) > LONGEST:
            path = f"{path[:LONGEST]}..."
        who = None if client is None else f"{client[0]}:{client[1]}"
        seconds = time.monotonic() - began
        self.access.put(Access(time.time(), who, method, path, status, sent, seconds, request_id))


def sent_path(scope: Any) -> str:
    """The path with its query, as the client wrote it, where the ASGI server tells."""
    raw, query = scope.get("raw_path"), scope.get("query_string")
    path: str = raw.decode("latin-1") if raw else scope["path"]
    return f"{path}?{query.decode('latin-1')}" if query else path
