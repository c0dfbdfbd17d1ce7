"""Which worker runs alone what is to run so, and who goes on meanwhile. Without workers."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace.engine.source import Refused
from headrace.model.batcher import Batcher
from headrace.model.pending import Pending
from headrace.workers.suspects import Keeper, Suspects

AT_ONCE = 4


def request() -> Pending:
    made = SimpleNamespace(_done=False, _begun=True, deadline=None, priority=0, rows=1, queued_at=0.0, counts=None)
    return cast(Pending, made)


class Some:
    def __init__(self, suspects: int, newcomers: int = 0) -> None:
        self.others = Batcher()
        self.suspects = Suspects(self.others, AT_ONCE)
        self.them = [request() for _ in range(suspects)]
        self.suspects.put_back(self.them, 0.0)
        for _ in range(newcomers):
            self.others.add(request(), 1.0)

    def turn(self, worker: Any, is_only: bool) -> list[bool]:
        """What a worker takes: whether each is a suspect."""
        taken: list[bool] = []
        refused: Refused = []
        room = self.suspects.room(cast(Keeper, worker), is_only)
        while worker.inside < room:
            work = self.suspects.pull(worker, 2.0, refused)
            if work is None:
                work = self.others.pull_one(2.0, refused)
                self.suspects.took(worker, work is not None)
                if work is None:
                    work = self.suspects.pull(worker, 2.0, refused)
            if work is None:
                break
            worker.inside += 1
            taken.append(any(work is each for each in self.them))
        return taken


def worker() -> Any:
    return SimpleNamespace(inside=0, alone=None)


def test_one_worker_runs_them_one_by_one_and_the_other_goes_on_as_ever() -> None:
    some, keeper, other = Some(3, newcomers=6), worker(), worker()
    some.suspects.has_died(keeper)
    assert some.turn(other, False) == [False] * AT_ONCE
    for _ in range(3):
        assert some.turn(keeper, False) == [True]
        assert some.turn(keeper, False) == []
        keeper.inside = 0
    assert some.turn(keeper, False) == [False] * 2


def test_the_only_worker_takes_newcomers_between_them() -> None:
    some, only = Some(3, newcomers=6), worker()
    some.suspects.has_died(only)
    taken = []
    for _ in range(6):
        taken.append(some.turn(only, True))
        only.inside = 0
    assert taken == [[True], [False] * AT_ONCE, [True], [False] * 2 + [], [True], []]


def test_one_that_has_others_inside_ends_them_first() -> None:
    some, only = Some(1), worker()
    only.inside = 2
    assert some.turn(only, True) == []
    only.inside = 1
    assert some.turn(only, True) == []
    only.inside = 0
    assert some.turn(only, True) == [True]


@pytest.mark.parametrize("is_only", [True, False])
def test_newcomers_that_come_while_one_runs_alone_wait_for_that_one_only(is_only: bool) -> None:
    some, keeper = Some(1), worker()
    assert some.turn(keeper, is_only) == [True]
    some.others.add(request(), 1.0)
    assert some.turn(keeper, is_only) == []
    keeper.inside = 0
    assert some.turn(keeper, is_only) == [False]


def test_where_the_keeper_gives_up_another_one_does_it() -> None:
    some, keeper, other = Some(2), worker(), worker()
    some.suspects.has_died(keeper)
    assert some.turn(other, False) == []
    some.suspects.gives_up(keeper)
    assert some.turn(other, False) == [True]
