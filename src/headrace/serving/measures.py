"""What the doors measure of one version of one model. Written on the event loop alone, read by whoever scrapes it."""

from __future__ import annotations

from bisect import bisect_left

from headrace.counters import SECONDS, Histogram


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

    def add(self, status: int, received: int, sent: int, request: float, decoding: float, encoding: float) -> None:
        """A request was answered: its status, the bytes of its bodies, and the seconds it took, all in all, to decode
        and to encode; 0 where it did not come to that."""
        try:
            self.statuses[status] += 1  # in a plain dict: a Counter takes three times as long
        except KeyError:
            self.statuses[status] = 1
        self.bytes_in += received
        self.bytes_out += sent
        # As `Histogram.observe`, without the calls: this is the hot path.
        seconds = self.request_seconds
        seconds.counts[bisect_left(SECONDS, request)] += 1
        seconds.total += request
        if decoding:
            seconds = self.decode_seconds
            seconds.counts[bisect_left(SECONDS, decoding)] += 1
            seconds.total += decoding
        if encoding:
            seconds = self.encode_seconds
            seconds.counts[bisect_left(SECONDS, encoding)] += 1
            seconds.total += encoding
