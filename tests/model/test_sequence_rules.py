"""Which request of which sequence may go to which stream: rules, and random programs beside a naive twin."""

from __future__ import annotations

import random
from typing import Any

import pytest

from headrace.engine.guard import Guard
from headrace.engine.source import Refused
from headrace.errors import Closed, DeadlineExceeded, HeadraceError, SequenceLost, SequenceRefused
from headrace.model.pending import Owner, Pending
from headrace.model.sequence_batcher import SequenceBatcher
from headrace.model.sequences import SequenceOptions, Sequences, Turn
from headrace.testing import FakeClock


class Item:
    def __init__(self, name: str) -> None:
        self.name, self.left = name, False

    def __repr__(self) -> str:
        return self.name


class Desk:
    """Sequences, a clock, and short names for what happens."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        options = {"max_queue": 10, **options}
        self.sequences: Sequences[Item] = Sequences(SequenceOptions(**options), "m", lambda item: item.left)

    def add(self, name: str, *, start: bool = False, end: bool = False) -> Item:
        """`a1`: of sequence `a`."""
        item = Item(name)
        self.sequences.add(item, Turn(name[0], start, end), self.clock.now())
        return item

    def take(self, stream: int, room: int = 8, share: int = 8) -> list[Item]:
        return self.sequences.take(stream, share, room, lambda item: not item.left, self.clock.now())

    def end(self, *items: Item) -> None:
        for item in items:
            self.sequences.ended(item, self.clock.now())


def names(items: list[Item]) -> str:
    return " ".join(item.name for item in items)


def test_a_sequence_stays_where_it_began_in_order_and_one_at_a_time() -> None:
    desk = Desk()
    first = desk.add("a1", start=True)
    desk.add("a2"), desk.add("a3")
    assert names(desk.take(0)) == "a1"
    assert desk.take(0) == desk.take(1) == []
    desk.end(first)
    assert desk.take(1) == []
    (second,) = desk.take(0)
    desk.end(second)
    assert (names([second]), names(desk.take(0))) == ("a2", "a3")


def test_a_run_has_at_most_one_of_each_and_whose_turn_came_first_goes_first() -> None:
    desk = Desk()
    for name in ("a1", "b1", "c1"):
        desk.add(name, start=True)
    desk.add("a2")
    assert names(desk.take(0, room=2)) == "a1 b1"
    assert names(desk.take(0)) == "c1"


def test_nobody_takes_more_new_ones_than_its_share() -> None:
    desk = Desk()
    for name in ("a1", "b1", "c1"):
        desk.add(name, start=True)
    assert names(desk.take(0, share=1)) == "a1"
    assert desk.take(0, share=0) == []
    assert names(desk.take(1, share=2)) == "b1 c1"


def test_what_belongs_to_no_open_sequence_is_refused_in_the_old_words() -> None:
    desk = Desk()
    with pytest.raises(
        SequenceRefused, match=r'^Model "m" has no worker .*if it is closed, or expired; or exc.* begun it'
    ):
        desk.add("a1")


def test_after_its_end_a_sequence_is_closed_and_may_begin_anew() -> None:
    desk = Desk()
    last = desk.add("a1", start=True, end=True)
    with pytest.raises(SequenceRefused, match="ended by a request before"):
        desk.add("a2")
    assert desk.take(0) == [last]
    desk.end(last)
    assert len(desk.sequences) == 0
    with pytest.raises(SequenceRefused, match="it was ended"):
        desk.add("a3")
    desk.add("a4", start=True)
    assert names(desk.take(1)) == "a4"  # another may do it


def test_bounds_are_on_what_waits_of_one_and_on_how_many_there_are() -> None:
    desk = Desk(max_queue=1, max_sequences=1)
    desk.add("a1", start=True)
    with pytest.raises(SequenceRefused, match="maxSequenceJobQueueSize"):
        desk.add("a2")
    desk.take(0)
    desk.add("a2")  # what runs does not count
    with pytest.raises(SequenceRefused, match="maxNumSequence"):
        desk.add("b1", start=True)


def test_who_has_left_counts_for_nothing_and_the_others_keep_their_order() -> None:
    desk = Desk(max_queue=3)
    first = desk.add("a1", start=True)
    desk.take(0)
    gone = [desk.add("a2"), desk.add("a3")]
    desk.add("a4")
    for item in gone:
        item.left = True
    desk.add("a5")
    desk.end(first)
    (fourth,) = desk.take(0)
    desk.end(fourth)
    assert (names([fourth]), names(desk.take(0))) == ("a4", "a5")


def test_an_idle_sequence_expires_and_one_that_works_does_not() -> None:
    desk = Desk(max_idle=10)
    item = desk.add("a1", start=True)
    desk.take(0)
    desk.clock.advance(100)
    desk.add("a2")
    desk.end(item)
    desk.end(*desk.take(0))
    desk.clock.advance(9.9)
    desk.add("a3")
    desk.end(*desk.take(0))
    desk.clock.advance(10)
    with pytest.raises(SequenceRefused, match="no request for 10 s"):
        desk.add("a4")
    assert desk.sequences.count(0) == 0


def test_with_its_process_a_sequence_is_lost_but_for_what_begins_it_anew() -> None:
    desk = Desk()
    running = desk.add("a1", start=True)
    assert desk.take(0) == [running]
    waiting = desk.add("a2")
    desk.add("a3", start=True), desk.add("a4")
    ((lost, error),) = desk.sequences.lose(0)
    assert (lost, type(error)) == (waiting, SequenceLost)
    desk.end(running)
    (anew,) = desk.take(1)
    desk.end(anew)
    assert (names([anew]), names(desk.take(1))) == ("a3", "a4")


def test_what_comes_for_a_lost_sequence_is_told_so() -> None:
    desk = Desk()
    desk.add("a1", start=True)
    desk.end(*desk.take(0))
    assert desk.sequences.lose(0) == []
    with pytest.raises(SequenceLost, match="begin it anew"):
        desk.add("a2")


def test_what_was_taken_and_did_not_begin_waits_first_again_unless_its_state_is_gone() -> None:
    desk = Desk()
    first = desk.add("a1", start=True)
    desk.end(*desk.take(0))
    second, _ = desk.add("a2"), desk.add("a3")
    assert desk.take(0) == [second]
    assert desk.sequences.put_back(second, desk.clock.now()) is None
    assert desk.take(0) == [second]
    desk.sequences.lose(0)
    assert isinstance(desk.sequences.put_back(second, desk.clock.now()), SequenceLost)
    first = desk.add("b1", start=True)
    assert desk.take(0) == [first]
    desk.sequences.lose(0)
    assert desk.sequences.put_back(first, desk.clock.now()) is None
    assert desk.take(1) == [first]


def test_who_drains_may_leave_when_its_sequences_have_ended_or_its_time_is_up() -> None:
    desk = Desk(max_idle=1000)
    assert desk.sequences.may_leave(7, desk.clock.now(), 30)
    desk.add("a1", start=True)
    desk.end(*desk.take(0))
    assert not desk.sequences.may_leave(0, desk.clock.now(), 30)
    desk.clock.advance(29)
    assert not desk.sequences.may_leave(0, desk.clock.now(), 30)
    last = desk.add("a2", end=True)
    assert desk.take(0) == [last]
    desk.end(last)
    assert desk.sequences.may_leave(0, desk.clock.now(), 30)
    desk.add("b1", start=True)
    desk.end(*desk.take(0))
    desk.clock.advance(1)
    assert desk.sequences.may_leave(0, desk.clock.now(), 30)


def test_what_waits_is_counted_also_when_some_have_left() -> None:
    guard = Guard()
    batcher = SequenceBatcher(
        4, SequenceOptions(max_queue=2, timeout=5.0), "m", lambda request: Turn(request.inputs[0], True)
    )
    requests = [Pending(Nobody(), ("a",), guard) for _ in range(4)]
    for request in requests[:2]:
        batcher.add(request, 1.0)
    with pytest.raises(SequenceRefused):
        batcher.add(requests[2], 1.0)
    assert len(batcher) == 2
    requests[1].cancel()
    batcher.add(requests[2], 2.0)
    refused: Refused = []
    assert batcher.take(0, 1, 3.0, refused) == [requests[0]]
    assert (len(batcher), batcher.counts.cancelled, batcher.counts.started) == (1, 1, 1)
    batcher.ended([requests[0]], 4.0)
    assert batcher.take(0, 1, 7.1, refused) == []  # it has waited for 5.1 s
    assert [type(error) for _, error in refused] == [DeadlineExceeded]
    assert len(batcher) == 0
    assert batcher.is_empty()


def test_an_abandoned_batcher_refuses_all_that_waits() -> None:
    guard, refused = Guard(), []  # type: ignore[var-annotated]
    batcher = SequenceBatcher(4, SequenceOptions(max_queue=2), "m", lambda request: Turn(request.inputs[0], True))
    requests = [Pending(Nobody(), (name,), guard) for name in ("a", "a", "b")]
    for request in requests:
        batcher.add(request, 1.0)
    batcher.abandon(Closed("x"))
    assert batcher.take(0, 3, 2.0, refused) == []
    assert {id(request) for request, _ in refused} == {id(request) for request in requests}
    assert len(batcher) == 0


class Nobody(Owner):
    name = "m"

    def on_error(self, pending: Pending) -> None:
        pass


# ---- a naive twin


class Twin:
    """The same rules, looked up in one list of everything each time."""

    def __init__(self, options: SequenceOptions) -> None:
        self.options = options
        self.open: dict[str, dict[str, Any]] = {}
        self.gone: dict[str, str] = {}
        self.turn = 0

    def listed(self, each: dict[str, Any]) -> None:
        self.turn += 1
        each["turn"] = self.turn

    def close(self, id: str, why: str) -> None:
        del self.open[id]
        self.gone[id] = why

    def expire(self, now: float) -> None:
        for id, each in list(self.open.items()):
            if not each["waiting"] and each["running"] is None and each["idle"] + self.options.max_idle <= now:
                self.close(id, "SequenceRefused")

    def add(self, item: Item, turn: Turn, now: float) -> str | None:
        self.expire(now)
        each = self.open.get(turn.id)
        if each is None:
            if not turn.start:
                return self.gone.get(turn.id, "SequenceRefused")
            if len(self.open) >= self.options.max_sequences:
                return "SequenceRefused"
            each = self.open[turn.id] = {"waiting": [], "running": None, "stream": None, "ending": False}
        elif each["ending"] and not turn.start:
            return "SequenceRefused"
        alive = [one for one in each["waiting"] if not one[0].left]
        if len(each["waiting"]) >= self.options.max_queue:
            if len(alive) >= self.options.max_queue:
                return "SequenceRefused"
            before, each["waiting"] = each["waiting"], alive
        else:
            before = each["waiting"]
        if not before and each["running"] is None:
            self.listed(each)
        each["waiting"].append((item, turn))
        each["ending"] = turn.end
        return None

    def take(self, stream: int, share: int, room: int, now: float) -> list[Item]:
        taken: list[Item] = []
        for each in sorted(self.open.values(), key=lambda each: each.get("turn", 0)):
            if len(taken) == room:
                break
            is_new = each["stream"] is None
            if not each["waiting"] or each["running"] is not None or not (is_new or each["stream"] == stream):
                continue
            if is_new and share <= 0:
                continue
            while each["waiting"] and each["waiting"][0][0].left:
                each["waiting"].pop(0)
            if not each["waiting"]:
                self.rest(each, now)
                continue
            share -= is_new
            each["stream"], each["running"] = stream, each["waiting"].pop(0)
            taken.append(each["running"][0])
        return taken

    def rest(self, each: dict[str, Any], now: float) -> None:
        id = next(id for id, one in self.open.items() if one is each)
        if each["ending"]:
            self.close(id, "SequenceRefused")
        else:
            each["idle"] = now

    def ended(self, item: Item, now: float) -> None:
        for each in list(self.open.values()):
            if each["running"] is not None and each["running"][0] is item:
                each["running"] = None
                if each["waiting"]:
                    self.listed(each)
                else:
                    self.rest(each, now)

    def lose(self, stream: int) -> list[Item]:
        refused: list[Item] = []
        for id, each in sorted(self.open.items(), key=lambda pair: pair[1].get("bound", 0)):
            if each["stream"] != stream:
                continue
            starts = [place for place, (_, turn) in enumerate(each["waiting"]) if turn.start]
            keep = each["waiting"][starts[0] :] if starts else []
            refused += [item for item, _ in each["waiting"][: starts[0] if starts else None]]
            self.close(id, "SequenceLost")
            if keep:
                anew = {"waiting": keep, "running": None, "stream": None, "ending": keep[-1][1].end}
                self.open[id] = anew
        return refused


@pytest.mark.parametrize("seed", range(60))
def test_random_programs_agree_with_a_naive_twin(seed: int) -> None:
    rng = random.Random(seed)
    options = SequenceOptions(max_idle=5.0, max_sequences=4, max_queue=rng.choice((1, 3)))
    clock, twin = FakeClock(), Twin(options)
    sequences: Sequences[Item] = Sequences(options, "m", lambda item: item.left)
    running: dict[int, list[Item]] = {0: [], 1: [], 2: []}
    waiting: list[Item] = []
    order: dict[str, list[int]] = {}
    for number in range(600):
        clock.advance(rng.choice((0.0, 0.1, 2.0)))
        now, stream = clock.now(), rng.randrange(3)
        event = rng.choices(("add", "take", "end", "leave", "lose"), (10, 8, 9, 1, 0.3))[0]
        if event == "add":
            id = rng.choice("abcdef")
            item, turn = Item(f"{id}{number}"), Turn(id, rng.random() < 0.4, rng.random() < 0.2)
            expected = twin.add(item, turn, now)
            try:
                sequences.add(item, turn, now)
                came = None
                waiting.append(item)
            except HeadraceError as error:
                came = type(error).__name__
            assert came == expected
        elif event == "take":
            share, room = rng.randrange(3), rng.randrange(1, 4)
            taken = sequences.take(stream, share, room, lambda item: not item.left, now)
            assert taken == twin.take(stream, share, room, now)
            assert len({item.name[0] for item in taken}) == len(taken)
            for item in taken:
                assert item.name[0] not in {one.name[0] for items in running.values() for one in items}
                order.setdefault(item.name[0], []).append(int(item.name[1:]))
            running[stream] += taken
        elif event == "end" and running[stream]:
            item = running[stream].pop(rng.randrange(len(running[stream])))
            sequences.ended(item, now)
            twin.ended(item, now)
        elif event == "leave" and waiting:
            rng.choice(waiting).left = True
        elif event == "lose":
            refused = [item for item, _ in sequences.lose(stream)]
            assert sorted(map(repr, refused)) == sorted(map(repr, twin.lose(stream)))
            for item in running[stream]:
                sequences.ended(item, now)
            running[stream] = []
            # Of those begun anew the order in which their turns come is the order in which their first ones were.
            for anew in list(sequences._new):
                if "turn" not in twin.open[anew.id]:
                    twin.listed(twin.open[anew.id])
        assert len(sequences) == len(twin.open)
    for numbers in order.values():
        assert numbers == sorted(numbers)  # whatever happened
