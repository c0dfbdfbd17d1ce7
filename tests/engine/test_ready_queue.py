"""The order in which what may start does start, against a list that is searched for the best each time."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from headrace.engine.ready_queue import AGING, ReadyQueue

PRIORITIES = [0, 0, 0, 0.0, -0.0, False, 1, 1, True, 2.5, -1, -0.125, 40, float("inf"), float("-inf")]


@dataclass(eq=False)
class Item:
    number: int
    priority: Any
    queued_at: float = 0.0
    gone: bool = False

    def __repr__(self) -> str:
        return f"{self.number}: {self.priority} at {self.queued_at}"


class Naive:
    """What waits, in the order it came."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    def best(self) -> list[Item]:
        """Those that may be first. Several, where a step of priority and the seconds waited come to the same."""
        if not self.items:
            return []
        rank = min(map(self._rank, self.items))
        firsts: dict[float, Item] = {}
        for item in self.items:
            if self._rank(item) == rank:
                firsts.setdefault(item.priority, item)  # equal priorities: first come, first served
        return [*firsts.values()]

    def put_back(self, items: list[Item]) -> None:
        self.items = sorted(self.items + items, key=lambda item: item.number)

    @staticmethod
    def _rank(item: Item) -> float:
        return item.queued_at - AGING * item.priority


@pytest.mark.parametrize("seed", range(100))
def test_whatever_is_done_it_agrees_with_a_list_that_is_searched(seed: int) -> None:
    rng = random.Random(seed)
    queue: ReadyQueue[Item] = ReadyQueue()
    naive, now, came = Naive(), 1000.0, 0
    priorities = rng.sample(PRIORITIES, k=rng.randint(1, len(PRIORITIES)))
    step = rng.choice([0.0, 0.125, 0.5])

    def pop() -> Item | None:
        head, best = queue.head(), naive.best()
        item = queue.pop()
        assert item is head
        assert (item is None) == (not best)
        if item is not None:
            assert item in best, f"{item} came before {best}"
            naive.items.remove(item)
        return item

    for _ in range(400):
        event = rng.random()
        if event < 0.5:
            now += rng.choice([0.0, 0.0, step, rng.random()])
            came += 1
            item = Item(came, rng.choice(priorities))
            queue.add(item, now)
            assert item.queued_at == now
            naive.items.append(item)
        elif event < 0.8:
            pop()
        elif event < 0.9:  # a look for company: some are taken, the others go back
            popped = [item for _ in range(rng.randint(1, 6)) if (item := pop()) is not None]
            kept = [item for item in popped if rng.random() < 0.6]
            queue.put_back(kept)
            naive.put_back(kept)
        elif event < 0.95:
            for item in naive.items:
                item.gone = rng.random() < 0.3
            gone = queue.sweep(lambda item: item.gone)
            assert sorted(item.number for item in gone) == [item.number for item in naive.items if item.gone]
            naive.items = [item for item in naive.items if not item.gone]
        elif naive.items:
            oldest = min(item.queued_at for item in queue.oldest())
            assert oldest == min(item.queued_at for item in naive.items)
        assert len(queue) == len(naive.items)
        assert {*queue} == {*naive.items}
    while pop() is not None:
        pass
    assert len(queue) == 0
    assert not [*queue.oldest()]


@pytest.mark.parametrize("priority", [0, 1, -3, 2.5, float("inf"), float("-inf"), 1e300])
def test_equal_priorities_are_first_come_first_served_also_at_one_moment(priority: float) -> None:
    queue: ReadyQueue[Item] = ReadyQueue()
    items = [Item(i, priority) for i in range(50)]
    for item in items:
        queue.add(item, 1000.0 + item.number // 10)
    popped = [queue.pop() for _ in range(7)]
    assert popped == items[:7]
    queue.put_back(items[2:5] + items[6:7])
    expected = [*items[2:5], *items[6:]]
    assert [queue.pop() for _ in expected] == expected


@pytest.mark.parametrize("seed", range(20))
def test_steps_of_priority_overtake_only_what_came_less_than_so_many_agings_before(seed: int) -> None:
    rng = random.Random(seed)
    queue: ReadyQueue[Item] = ReadyQueue()
    now, came, overtaken = 1000.0, 0, 0
    for _ in range(1000):
        now += rng.expovariate(10)
        if rng.random() < 0.55:
            came += 1
            queue.add(Item(came, rng.choice([0, 0, 1, 2, 3.5, -1])), now)
        elif (item := queue.pop()) is not None:
            for other in queue:
                if other.number < item.number:
                    overtaken += 1
                    assert item.priority > other.priority
                    assert item.queued_at - other.queued_at <= (item.priority - other.priority) * AGING
    assert overtaken > 0


@pytest.mark.parametrize("steps", [1, 3])
def test_nothing_waits_for_ever_behind_what_matters_more(steps: int) -> None:
    queue: ReadyQueue[Item] = ReadyQueue()
    least = Item(0, 0)
    queue.add(least, 1000.0)
    for tick in range(1, 1000):
        now = 1000.0 + tick / 10
        for _ in range(2):  # twice as much comes as is done
            queue.add(Item(tick, steps), now)
        if queue.pop() is least:
            assert now - 1000.0 > steps * AGING, "what mattered more went first"
            break
    # When it came to be first, what had been overtaking it came at the most so many seconds after it: all of that is
    # done first, and it took twice as long to do as it took to come.
    assert now - 1000.0 < 2 * steps * AGING + 0.2


def test_what_is_swept_out_is_told_though_more_is_gone_while_it_is_looked_for() -> None:
    queue: ReadyQueue[Item] = ReadyQueue()
    items = [Item(i, priority) for i, priority in enumerate([0, 1, 0, 1])]
    for item in items:
        queue.add(item, 1000.0)
    asked: list[Item] = []

    def is_gone(item: Item) -> bool:  # a finaliser may cancel the others when the first has been found
        asked.append(item)
        return item is items[0] or len(asked) > len(items)

    told = queue.sweep(is_gone)
    assert {*told} | {*queue} == {*items}, "some have been lost"


@pytest.mark.parametrize("number", [np.float16, np.float32, np.int8, np.float64])
def test_a_priority_of_few_bits_does_not_cost_the_clock_its_own(number: Callable[[float], Any]) -> None:
    queue: ReadyQueue[Item] = ReadyQueue()
    now = 1e6 + 0.01  # the machine has been up for some days
    last, first = Item(0, 0), Item(1, number(1))
    queue.add(last, now)
    queue.add(first, now + 0.75)
    assert queue.head() is first
    later = Item(2, number(1))
    queue.add(later, now + 1.01)
    assert [queue.pop() for _ in range(3)] == [first, last, later]
