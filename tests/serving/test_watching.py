"""What has come, changed and gone. Pure."""

from __future__ import annotations

import random

import pytest

from headrace.serving.watching import Seen, Watching


def test_what_comes_is_told_once_it_stays_the_same() -> None:
    watching = Watching()
    assert watching.look({"a": 1}) == Seen()
    assert watching.look({"a": 2}) == Seen()
    assert watching.look({"a": 2}) == Seen(come=("a",))
    assert watching.look({"a": 2}) == Seen()


def test_what_was_there_from_the_start_is_not_told() -> None:
    watching = Watching({"a": 1})
    assert watching.look({"a": 1}) == Seen()


def test_a_change_is_told_once_it_stays_the_same_and_what_goes_when_it_is_gone_at_two_looks() -> None:
    watching = Watching({"a": 1, "b": 1})
    assert watching.look({"a": 2, "b": 1}) == Seen()
    assert watching.look({"a": 2, "b": 1}) == Seen(changed=("a",))
    assert watching.look({"b": 1}) == Seen()
    assert watching.look({"b": 1}) == Seen(gone=("a",))


def test_what_is_replaced_by_renaming_is_no_going() -> None:
    watching = Watching({"a": 1})
    assert watching.look({}) == Seen()
    assert watching.look({"a": 2}) == Seen()
    assert watching.look({"a": 2}) == Seen(changed=("a",))


@pytest.mark.parametrize("seed", range(20))
def test_whoever_does_as_it_is_told_has_what_is_there_after_two_quiet_looks(seed: int) -> None:
    random_ = random.Random(seed)
    watching, mine, there = Watching(), dict[str, int](), dict[str, int]()
    for step in range(300):
        if step % 10 < 7:
            name = random_.choice("abcd")
            there = {**there, name: random_.randrange(3)}
            if random_.random() < 0.3:
                there = {key: value for key, value in there.items() if key != name}
        seen = watching.look(there)
        for name in seen.come:
            assert name not in mine
        for name in seen.changed:
            assert mine[name] != there[name]
        mine.update({name: there[name] for name in (*seen.come, *seen.changed)})
        for name in seen.gone:
            del mine[name]
        if step % 10 == 9:
            assert mine == there
