"""One at a time for each key, in the order in which they came."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from headrace.serving.turns import Turns

PATIENCE = 30
Until = Callable[[Callable[[], object]], None]


def test_nobody_has_a_turn_beside_another_and_they_come_in_order(until: Until) -> None:
    turns, order, inside = Turns(), list[int](), list[int]()
    gate = threading.Event()
    entered = threading.Event()

    def first() -> None:
        with turns.of("cat"):
            entered.set()
            assert gate.wait(PATIENCE)

    def another(i: int) -> None:
        with turns.of("cat"):
            inside.append(i)
            assert len(inside) == 1
            order.append(i)
            inside.remove(i)

    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert entered.wait(PATIENCE)
    for i in range(10):
        threads.append(threading.Thread(target=another, args=(i,)))
        threads[-1].start()
        until(lambda i=i: len(turns._lines["cat"]) == i + 2)
    gate.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert order == list(range(10))
    assert len(turns) == 0


def test_other_keys_do_not_wait() -> None:
    turns = Turns()
    with turns.of("cat"):
        done = threading.Event()

        def other() -> None:
            with turns.of("dog"):
                done.set()

        thread = threading.Thread(target=other)
        thread.start()
        assert done.wait(PATIENCE)
        thread.join()


def test_who_fails_in_its_turn_gives_it_on() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.of("cat"):
        _ = 1 // 0
    with turns.of("cat"):
        pass
    assert len(turns) == 0


@pytest.mark.parametrize("seed", range(5))
def test_many_at_once(seed: int) -> None:
    turns, inside = Turns(), {"a": 0, "b": 0, "c": 0}
    wrong: list[str] = []

    def go(number: int) -> None:
        random_ = random.Random(seed * 100 + number)
        for _ in range(200):
            key = random_.choice("abc")
            with turns.of(key):
                inside[key] += 1
                if inside[key] != 1:
                    wrong.append(key)
                inside[key] -= 1

    threads = [threading.Thread(target=go, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert (wrong, len(turns)) == ([], 0)
