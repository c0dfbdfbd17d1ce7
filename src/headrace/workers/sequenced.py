"""A model's requests as workers pull them, where they come in sequences: the pure rules are in `model/sequences`.

Rule 1: who has work that nobody else can do is woken first; a new sequence goes to an idle worker that has the fewest.
Rule 2: what `batches` promises, the stream that is woken gets: else it would be woken for ever.
Rule 3: a worker that is to go keeps its sequences until they end, at most DRAIN seconds; it is given no new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from headrace.engine.source import Refused
from headrace.errors import SequenceLost, SequenceRefused
from headrace.model.model import Model
from headrace.model.pending import Pending
from headrace.model.run import Run
from headrace.model.sequence_batcher import SequenceBatcher
from headrace.model.sequences import SequenceOptions, Turn
from headrace.workers.requests import WorkerRequests

DRAIN = 30.0
"""Seconds a worker that is to go waits for its sequences to end."""


@dataclass(frozen=True, slots=True)
class SequenceHeaders:
    """What the headers are called that say which sequence a request is of, and whether it begins or ends it."""

    id: str = "ts_request_sequence_id"
    start: str = "ts_request_sequence_start"
    end: str = "ts_request_sequence_end"


@dataclass(frozen=True, slots=True)
class Sequencing:
    """How requests of a handler come in sequences."""

    options: SequenceOptions = field(default_factory=SequenceOptions)
    headers: SequenceHeaders = field(default_factory=SequenceHeaders)

    def turn_of(self, request: Pending) -> Turn:
        """Of a request as handlers are given it. One that names no sequence is one by itself."""
        return turn_of(request.inputs[0][1], self.headers) or Turn(made_up(), start=True, end=True)


def made_up() -> str:
    """The id of a sequence whose client has given it none."""
    return f"ts-seq-{uuid4()}"


def turn_of(headers: Iterable[tuple[str, str]], names: SequenceHeaders) -> Turn | None:
    """What they say; None if they name no sequence. How names are written does not matter."""
    said: dict[str, str] = {}
    wanted = names.id.lower(), names.start.lower(), names.end.lower()
    for name, value in headers:
        name = name.lower()
        if name in wanted:
            said[name] = value.strip()
    id = said.get(wanted[0], "")
    if not id:
        return None
    return Turn(id, said.get(wanted[1], "").lower() == "true", said.get(wanted[2], "").lower() == "true")


class SequencedRequests(WorkerRequests):
    """Streams are told apart by their `index`, which no other of the pool ever has."""

    batcher: SequenceBatcher

    def __init__(self, batcher: SequenceBatcher, name: str) -> None:
        super().__init__(batcher, name)

    def _batches(self, now: float, busy: bool) -> int:
        assert self.port is not None
        group, sequences = self.port.group, self.batcher.sequences
        for place, lane in enumerate(group.idle):
            if sequences.has_work(lane.stream.index):
                group.idle.append(group.idle.pop(place))  # who stands last is woken
                return group.waking + 1
        new: int = sequences.new
        if new > group.waking and len(group.idle) > 1:
            group.idle.sort(key=lambda lane: self._preference(lane.stream.index), reverse=True)
        if group.idle and sequences.is_draining(group.idle[-1].stream.index):
            return 0
        return new

    def _preference(self, stream: int) -> tuple[bool, int]:
        """The least goes first."""
        return self.batcher.sequences.is_draining(stream), self.batcher.sequences.count(stream)

    def pull(self, now: float, busy: bool, stream: int, refused: Refused) -> Run | None:
        batch = self.batcher.take(stream, self._share(stream), now, refused)
        return Run(self, self._instances[stream], batch) if batch else None

    def _share(self, stream: int) -> int:
        """How many new sequences it may have now: those who are idle are to have theirs."""
        assert self.port is not None
        sequences, group = self.batcher.sequences, self.port.group
        if sequences.is_draining(stream):
            return 0
        idle: list[int] = [lane.stream.index for lane in group.idle if not sequences.is_draining(lane.stream.index)]
        mine = sequences.count(stream)
        if any(sequences.count(each) < mine for each in idle if each != stream):
            return 0
        among = 1 + sum(each != stream for each in idle) + group.waking
        return (sequences.new + among - 1) // among

    def put_back(self, works: Sequence[Run | Pending], pulled_at: float) -> Sequence[Pending]:
        gone: list[Pending] = []
        for work in works:
            gone += self.batcher.return_run(list(work.futures()), pulled_at)
        return gone

    def may_leave(self, stream: int, now: float) -> bool:
        return self.batcher.sequences.may_leave(stream, now, DRAIN)

    def lose(self, stream: int, refused: Refused) -> None:
        """The process of that stream has ended."""
        self.batcher.lose(stream, refused)


class SequencedModel(Model):
    """One whose source may refuse a request when it comes: that is its outcome."""

    def send(self, pending: Pending) -> None:
        try:
            super().send(pending)
        except (SequenceRefused, SequenceLost) as error:
            pending.settle(error=error)

    def send_all(self, requests: Sequence[Pending]) -> None:
        for request in requests:
            self.send(request)
