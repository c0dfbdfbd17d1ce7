"""What a callable may ask of the worker process it runs in: `import headrace_worker`.

Loaded by its path there (`child`): the standard library alone.

Rule 1: parts of an answer leave at once, each in a frame of its own. While more than WINDOW bytes of them are unread,
        whoever sends the next one waits, and takes in what its owner says meanwhile; what is not for it is run later.
Rule 2: what it tells of metrics leaves with the next answer: nobody waits for it.
"""

from __future__ import annotations

import json
import select
import sys
import threading
import types
from typing import Any

LOOK = 0.05
"""Seconds between two looks at whether anybody still waits for an answer in parts."""
METRICS = 500
"""In one frame."""


class Withdrawn(Exception):
    """Nobody waits for what is being computed any more."""


class Asked:
    def __init__(self, child: Any) -> None:
        self.child, self.messages = child, child.messages
        self._parting = threading.Lock()
        self._run = 0  # whose parts were sent last
        self._unread = 0  # bytes of them that nobody is known to have read

    def offer(self) -> None:
        """`cancelled()` is for what can leave a long run early, `send_part` for answers that come in parts,
        `tell_metrics` for what it counts."""
        module = types.ModuleType("headrace_worker", "What the process it runs in tells a callable.")
        child = self.child
        offered = {
            "cancelled": lambda: child.cancelled(),  # another one where coroutines run
            "send_part": self.send_part,
            "tell_metrics": self.tell_metrics,
            "Withdrawn": Withdrawn,
        }
        module.__dict__.update(offered)
        sys.modules["headrace_worker"] = module

    def send_part(self, index: int, answer: Any) -> None:
        """One more part of the answer of request `index` of the batch that runs; what it returns for that is the last.

        Waits while too much is unread. Withdrawn: nobody waits for any answer of this batch any more.
        """
        child = self.child
        with self._parting:
            if not child.running:
                raise RuntimeError("send_part is for what runs: no run goes on")
            if not child.in_lists or not 0 <= index < child.batch:
                raise IndexError(f"there is no request {index} in the batch that runs: it has {child.batch}")
            rest: tuple[Any, ...] = ()
            if isinstance(answer, tuple) and len(answer) == 5:
                answer, *others = answer
                rest = tuple(others)
            if not isinstance(answer, (bytes, bytearray)):
                raise TypeError(f"a part of an answer is bytes, or a tuple of five; it is a {type(answer).__name__}")
            if self._run != child.current:
                self._run, self._unread = child.current, 0
            encoder = child.values.Encoder()
            for at in range(0, max(1, len(answer)), self.messages.PART_SIZE):
                piece: Any = bytes(answer[at : at + self.messages.PART_SIZE])
                if rest:
                    piece, rest = (piece, *rest), ()
                self._send_piece(index, encoder.encode(piece)[0])

    def _send_piece(self, index: int, pickled: bytes) -> None:
        child = self.child
        if child.is_unwanted(child.current):
            raise Withdrawn("nobody waits for this answer any more")
        self._wait_until_read(len(pickled))
        self._unread += len(pickled)
        child.send(child.frames.PART, pickled, id=child.current, count=index)
        child.flush()

    def _wait_until_read(self, nbytes: int) -> None:
        """Until there is room for so many bytes more."""
        child = self.child
        while self._unread and self._unread + nbytes > self.messages.WINDOW:
            came = [each for each in child.waiting if each.kind == child.frames.MORE and each.id == child.current]
            if came:
                child.waiting[:] = [each for each in child.waiting if each not in came]
                self._unread = max(0, self._unread - sum(self.messages.unpack_piece(each.payload)[1] for each in came))
                continue
            if child.is_unwanted(child.current):
                raise Withdrawn("nobody waits for this answer any more")
            if select.select([child.sock], (), (), LOOK)[0] and not child.receive():
                child.gone = True
                raise EOFError("the owner has gone")

    def tell_metrics(self, metrics: Any) -> None:
        """(name, kind, unit, value, dimensions) of each: kind is counter, gauge or histogram. They leave with the next
        answer."""
        told = [
            (str(name), str(kind), str(unit), float(value), {str(key): str(said) for key, said in dimensions.items()})
            for name, kind, unit, value, dimensions in metrics
        ]
        for at in range(0, len(told), METRICS):
            payload = json.dumps(told[at : at + METRICS]).encode()
            if len(payload) <= self.child.frames.MAX_PAYLOAD:  # else names and dimensions are no names and dimensions
                self.child.send(self.child.frames.METRICS, payload)
