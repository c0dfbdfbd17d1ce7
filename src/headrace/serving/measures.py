"""What the doors measure of one version of one model. Written on the event loop alone, read by whoever scrapes it."""

from __future__ import annotations

from headrace.counters import Histogram


class Measures:
    __slots__ = ("bytes_in", "bytes_out", "decode_seconds", "encode_seconds", "request_seconds", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        """Requests by the status they were answered with."""
        self.bytes_in = self.bytes_out = 0
        """Of bodies."""
        self.request_seconds = Histogram()
        """From a request's headers to its reply."""
        self.decode_seconds = Histogram()
        """From its body to the model's inputs; the wait for the codec thread is in it."""
        self.encode_seconds = Histogram()
        """From the model's outputs to the reply's body."""
