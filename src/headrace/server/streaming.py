"""A reply that comes in parts, from the first of them on. Pure.

Rule 1: its head says what the first part said; what later ones say of status and headers is too late.
Rule 2: only one that is whole has an end: where the rest will not come, there is no last chunk.
Rule 3: its model is told what was read when it has gone to a client that reads (`take`). What waits for its turn in the
        pipeline counts as read up to AHEAD bytes, so that no reply has to wait for one that waits for it.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace.server.reply import CLOSE, KEEP, Reply, has_no_body, head_of

AHEAD = 1 << 20
"""Bytes."""
LAST = b"0\r\n\r\n"


class Streaming:
    """`status` is what its head said, `sent` the bytes of its body so far."""

    __slots__ = ("_ahead", "_chunked", "_no_body", "_out", "_owed", "_read", "sent", "status")

    def __init__(self, method: str, old: bool, reply: Reply, number: int, last: bool) -> None:
        """`reply`: the first part, whose body is still to be added. `old`: HTTP/1.0, which has no chunks."""
        self.status, self.sent = reply.status, 0
        self._ahead = self._owed = 0
        self._read: Callable[[int], object] = lambda nbytes: None
        self._no_body = method == "HEAD" or has_no_body(reply.status)
        self._chunked = not old and not has_no_body(reply.status)
        head = head_of(reply, number, CLOSE if last or old else KEEP) + b"ts_stream_next: true\r\n"
        if self._chunked:
            head += b"transfer-encoding: chunked\r\n"
        self._out = [head + b"\r\n"]

    def add(self, body: bytes, nbytes: int, read: Callable[[int], object], *, waits: bool) -> None:
        """One more part, which took `nbytes` to come. `waits`: others are answered first."""
        self._put(body)
        self._read = read
        self._owed += nbytes
        if waits and self._ahead < AHEAD:
            self._ahead += nbytes
            self._pay()

    def take(self, *, reads: bool) -> list[bytes]:
        """What can be written: it is its turn. `reads`: its client does."""
        out, self._out = self._out, []
        if reads:
            self._pay()
        return out

    def end(self, body: bytes) -> bytes:
        """What is left to write, with the last part."""
        self._put(body)
        if self._chunked and not self._no_body:
            self._out.append(LAST)
        return b"".join(self.take(reads=True))

    def broken(self) -> bytes:
        """What is left to write: the rest will not come."""
        return b"".join(self.take(reads=True))

    def _put(self, body: bytes) -> None:
        if body and not self._no_body:
            self._out.append(b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body)
            self.sent += len(body)

    def _pay(self) -> None:
        owed, self._owed = self._owed, 0
        if owed:
            self._read(owed)
