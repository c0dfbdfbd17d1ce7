"""Heads of requests that have come before, byte for byte. Pure.

A client says the same with each of its requests, and the parser and all that is looked for in the headers cost as much
as the rest of a request. What is known of the same bytes cannot be anything else the second time.

Rule 1: only whole requests of one piece are looked for here, between two requests of a connection: anything else is the
        parser's. So what a reply says still does not depend on how the bytes were cut. And only those are learnt:
        of bytes within which just that request began, from their first byte on.
Rule 2: only what has been let in is learnt: a head that is refused is refused each time for its own reason.
Rule 3: a head is learnt when a connection sends it twice in a row: one with an id or a time of its own in it would only
        fill the memory. What is kept is bounded in count and size.
"""

from __future__ import annotations

from headrace.server.door import Route
from headrace.server.head import Head

END = b"\r\n\r\n"
LONGEST = 2048
"""Bytes of a head that is remembered."""
MOST = 1000
"""Heads that are."""


class Known:
    """What the bytes of a head mean. `length`: of the body that follows."""

    __slots__ = ("head", "length", "method", "path", "route", "target")

    def __init__(self, method: str, path: str, target: bytes, head: Head, route: Route, length: int) -> None:
        self.method, self.path, self.target = method, path, target
        self.head, self.route, self.length = head, route, length


Heads = dict[bytes, Known]
"""By their bytes, without the empty line that ends them."""


def size_of_head(data: bytes, body: int) -> int:
    """Bytes of the head `data` begins with, if nothing but a body of `body` bytes follows; 0 if it is not so."""
    end = data.find(END, 0, LONGEST)
    return end if end > 0 and end + len(END) + body == len(data) else 0


def learn(heads: Heads, head: bytes, known: Known) -> None:
    if len(heads) >= MOST:
        heads.clear()
    heads[head] = known
