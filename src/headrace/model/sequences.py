"""Requests that belong together: which of a sequence may go to which stream now. Pure.

Rule 1: the first request of a sequence goes to whoever takes it, and from then on all of it goes there, in the order in
        which they came, one at a time. So what a stream has done of a sequence it knows when it does the next of it.
Rule 2: a run has at most one request of each sequence. Whose turn has come first goes first.
Rule 3: a sequence that has nothing to do for `max_idle` seconds is closed; it is looked for when something happens.
Rule 4: there are at most `max_sequences`, and of each at most `max_queue` wait. What is more is refused when it comes,
        and so is what belongs to a sequence that is not open.
Rule 5: what a stream knows is gone when its process is. Its sequences are lost: what waits of them is refused, but for
        what begins one anew.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from headrace.errors import SequenceLost, SequenceRefused, Unavailable

REMEMBERED = 1000
"""Sequences of which it is known why they are not open any more."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Turn:
    """What a request says of its sequence."""

    id: str
    start: bool = False
    """It begins one. Of a sequence that is open it is the next request, and only its handler knows what that means."""
    end: bool = False
    """It is the last of it."""


@dataclass(frozen=True, slots=True)
class SequenceOptions:
    """Seconds and counts."""

    max_idle: float = 60.0
    timeout: float | None = None
    """How long a request of a sequence may wait for its run."""
    max_sequences: int = 1000
    max_queue: int = 1
    """Requests of one sequence that wait, beside the one that runs."""


class Sequence(Generic[T]):
    """One that is open."""

    __slots__ = ("ending", "id", "is_lost", "running", "since", "stream", "waiting")

    def __init__(self, id: str) -> None:
        self.id = id
        self.waiting: deque[tuple[T, Turn]] = deque()
        self.running: tuple[T, Turn] | None = None
        self.stream: int | None = None  # nobody's before its first run
        self.ending = False  # the last that came was its end
        self.is_lost = False
        self.since = 0.0  # when it last had something to do; while it waits for a stream, whose turn it is


class Sequences(Generic[T]):
    """`name`: of the model, for messages. `has_left`: whether an item is not wanted any more."""

    def __init__(self, options: SequenceOptions, name: str, has_left: Callable[[T], bool]) -> None:
        self.options, self._name, self._has_left = options, name, has_left
        self.swept = 0
        """Items that had left, and were taken out before their turn came."""
        self._open: dict[str, Sequence[T]] = {}
        self._idle: OrderedDict[str, Sequence[T]] = OrderedDict()  # who has been longest stands first
        self._new: deque[Sequence[T]] = deque()  # nobody's, and something of it waits
        self._ready: dict[int, deque[Sequence[T]]] = {}  # of each stream: something waits, and nothing runs
        self._of: dict[int, dict[str, Sequence[T]]] = {}
        self._running: dict[int, Sequence[T]] = {}  # by the `id()` of what runs
        self._draining: dict[int, float] = {}
        self._gone: OrderedDict[str, str | None] = OrderedDict()  # None: it was lost with its stream's process
        self._turns = 0.0

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    # ---- requests

    def add(self, item: T, turn: Turn, now: float) -> None:
        """It waits for its turn; or SequenceRefused, SequenceLost."""
        self.expire(now)
        sequence = self._open.get(turn.id)
        if sequence is None:
            if not turn.start:
                raise self._not_open(turn.id)
            if len(self._open) >= self.options.max_sequences:
                raise SequenceRefused(
                    self._name, turn.id, f"{len(self._open):,} sequences are open, and there may be no more "
                    "(maxNumSequence)"
                )  # fmt: skip
            sequence = self._open[turn.id] = Sequence(turn.id)
            self._gone.pop(turn.id, None)
        elif sequence.ending and not turn.start:
            raise SequenceRefused(self._name, turn.id, "it was ended by a request before this one")
        waiting = sequence.waiting
        if len(waiting) >= self.options.max_queue:
            kept = [each for each in waiting if not self._has_left(each[0])]
            if len(kept) >= self.options.max_queue:
                raise SequenceRefused(
                    self._name, turn.id, f"{len(kept):,} of its requests wait already, and there may be no more "
                    "(maxSequenceJobQueueSize)"
                )  # fmt: skip
            self.swept += len(waiting) - len(kept)
            waiting.clear()
            waiting.extend(kept)
            # It stays where it stands: whoever finds it there finds this one.
            is_listed = True
        else:
            is_listed = bool(waiting)
        waiting.append((item, turn))
        sequence.ending = turn.end
        self._idle.pop(turn.id, None)
        if not is_listed and sequence.running is None:
            self._list(sequence)

    def take(self, stream: int, share: int, room: int, begins: Callable[[T], bool], now: float) -> list[T]:
        """The next run of `stream`: at most `room`, of which at most `share` begin with it. `begins`: asked of each,
        whether it is still to be run."""
        taken: list[T] = []
        mine, new = self._ready.get(stream), self._new
        while len(taken) < room:
            first_mine = mine[0].since if mine else None
            first_new = new[0].since if new and share > 0 else None
            if first_mine is not None and (first_new is None or first_mine < first_new):
                sequence = mine.popleft()  # type: ignore[union-attr]
            elif first_new is not None:
                sequence = new.popleft()
            else:
                break
            begun = None
            while sequence.waiting and begun is None:
                each = sequence.waiting.popleft()
                begun = each if begins(each[0]) else None
            if begun is None:
                self._rest(sequence, now)
                continue
            if sequence.stream is None:
                sequence.stream = stream
                self._of.setdefault(stream, {})[sequence.id] = sequence
                share -= 1
            sequence.running = begun
            self._running[id(begun[0])] = sequence
            taken.append(begun[0])
        return taken

    def ended(self, item: T, now: float) -> None:
        """Its run has; or it is not wanted any more."""
        sequence = self._running.pop(id(item), None)
        if sequence is None:
            return
        sequence.running = None
        if sequence.is_lost:
            return
        if sequence.waiting:
            self._list(sequence)
        else:
            self._rest(sequence, now)

    def put_back(self, item: T, now: float) -> Unavailable | None:
        """It was taken, and did not begin: it waits again, before all others of its sequence. Why not, if it cannot."""
        sequence = self._running.pop(id(item))
        came = sequence.running
        assert came is not None
        sequence.running = None
        if sequence.is_lost:
            if not came[1].start or sequence.id in self._open:
                return SequenceLost(self._name, sequence.id)
            sequence = self._open[sequence.id] = Sequence(sequence.id)
            sequence.ending = came[1].end
            self._gone.pop(sequence.id, None)
        sequence.waiting.appendleft(came)
        self._list(sequence)
        return None

    def waiting(self) -> Iterator[T]:
        """All that waits, also what has left, in no order."""
        for sequence in self._open.values():
            for item, _ in sequence.waiting:
                yield item

    def is_empty(self) -> bool:
        return all(self._has_left(item) for item in self.waiting())

    def give_up(self) -> list[T]:
        """All that waits, which waits no more."""
        everything = list(self.waiting())
        for sequence in self._open.values():
            sequence.waiting.clear()
        self._new.clear()
        for ready in self._ready.values():
            ready.clear()
        for sequence in list(self._open.values()):
            if sequence.running is None:
                self._close(sequence, "all that waited was refused")
        return everything

    # ---- streams

    @property
    def new(self) -> int:
        """Sequences that wait for whoever takes them."""
        return len(self._new)

    def has_work(self, stream: int) -> bool:
        """Whether there is something that nobody else can do."""
        return bool(self._ready.get(stream))

    def count(self, stream: int) -> int:
        """Sequences it has."""
        return len(self._of.get(stream, ()))

    def is_draining(self, stream: int) -> bool:
        return stream in self._draining

    def may_leave(self, stream: int, now: float, patience: float) -> bool:
        """It is to go, and is given no new sequence from now on: whether it has none left, or had `patience` seconds
        since this was asked first."""
        until = self._draining.setdefault(stream, now + patience)
        self.expire(now)
        return not self._of.get(stream) or now >= until

    def lose(self, stream: int) -> list[tuple[T, Unavailable]]:
        """Its process has ended. What waits of its sequences, and is refused."""
        refused: list[tuple[T, Unavailable]] = []
        self._draining.pop(stream, None)
        self._ready.pop(stream, None)
        for sequence in self._of.pop(stream, {}).values():
            sequence.is_lost = True
            self._idle.pop(sequence.id, None)
            del self._open[sequence.id]
            self._remember(sequence.id, None)
            waiting = sequence.waiting
            while waiting and not waiting[0][1].start:
                refused.append((waiting.popleft()[0], SequenceLost(self._name, sequence.id)))
            if waiting:  # it was begun anew behind those
                anew = self._open[sequence.id] = Sequence(sequence.id)
                anew.waiting, sequence.waiting = waiting, deque()
                anew.ending = waiting[-1][1].end
                self._gone.pop(sequence.id, None)
                self._list(anew)
        return refused

    def expire(self, now: float) -> None:
        """Close those that have had nothing to do for too long."""
        while self._idle:
            sequence = next(iter(self._idle.values()))
            if sequence.since + self.options.max_idle > now:
                break
            self._close(sequence, f"it had no request for {self.options.max_idle:g} s (sequenceMaxIdleMSec)")

    # ---- inside

    def _list(self, sequence: Sequence[T]) -> None:
        """Its turn has come."""
        self._turns = sequence.since = self._turns + 1
        if sequence.stream is None:
            self._new.append(sequence)
        else:
            self._ready.setdefault(sequence.stream, deque()).append(sequence)

    def _rest(self, sequence: Sequence[T], now: float) -> None:
        """Nothing of it waits or runs."""
        if sequence.ending:
            self._close(sequence, "it was ended")
        else:
            sequence.since = now
            self._idle[sequence.id] = sequence

    def _close(self, sequence: Sequence[T], why: str) -> None:
        del self._open[sequence.id]
        self._idle.pop(sequence.id, None)
        if sequence.stream is not None:
            self._of[sequence.stream].pop(sequence.id, None)
        self._remember(sequence.id, why)

    def _remember(self, id: str, why: str | None) -> None:
        self._gone.pop(id, None)
        self._gone[id] = why
        if len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)

    def _not_open(self, id: str) -> Unavailable:
        why = self._gone.get(id, "no request has begun it")
        return SequenceLost(self._name, id) if why is None else SequenceRefused(self._name, id, why)
