"""An operation is appended to all of its Vars at once. Append it Var by Var and two pushes can wait for each other for
ever: here in every program of two operations on two and on three Vars, in every order of their steps.

What appends Var by Var is made of the true parts: an operation is as many single ones as it has Vars, and starts when
all of them may. So it differs from ours in one thing alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations, permutations, product
from typing import Any

import pytest

import headrace as hr
from headrace.engine.dependencies import Dependencies, accesses
from headrace.engine.engine import Engine
from headrace.engine.topology import made_up

PATIENCE = 30.0
Shape = tuple[tuple[int, str], ...]
"""What an operation does, in the order it is appended: (which Var, "r" or "w")."""


class Node:
    def __init__(self, steps: Shape, variables: Sequence[hr.Var]) -> None:
        of = {how: [variables[i] for i, each in steps if each == how] for how in "rw"}
        self.reads, self.writes, self.needs = accesses(of["r"], of["w"])
        self.waiting_for = 0


def shapes(num_vars: int) -> list[Shape]:
    """Every way to read or write some of the Vars, appended in the order of their numbers."""
    some = chain.from_iterable(combinations(range(num_vars), size) for size in range(1, num_vars + 1))
    return [tuple(zip(chosen, how)) for chosen in some for how in product("rw", repeat=len(chosen))]


def programs(num_vars: int) -> Iterator[tuple[Shape, Shape]]:
    """The first operation takes its Vars in the order of their numbers: another order is the same under other names."""
    for first, second in product(shapes(num_vars), repeat=2):
        yield from ((first, order) for order in permutations(second))


def merges(first: int, second: int) -> Iterator[list[int]]:
    """Every order in which two threads take so many steps each: whose step it is."""
    for places in combinations(range(first + second), first):
        order = [1] * (first + second)
        for place in places:
            order[place] = 0
        yield order


def var_by_var(program: tuple[Shape, Shape], num_vars: int) -> tuple[int, int]:
    """(deadlocks, interleavings) when each Var is a step, and one more says that all have been appended."""
    stuck = total = 0
    for order in merges(len(program[0]) + 1, len(program[1]) + 1):
        variables = [hr.Var() for _ in range(num_vars)]
        dependencies = Dependencies[Node]()
        nodes = [[Node((step,), variables) for step in shape] for shape in program]
        steps = [iter(each) for each in nodes]
        for whose in order:
            if node := next(steps[whose], None):
                dependencies.push(node)
        unfinished = [0, 1]
        while able := [i for i in unfinished if not any(node.waiting_for for node in nodes[i])]:
            for i in able:
                unfinished.remove(i)
                for node in nodes[i]:
                    dependencies.complete(node)
        stuck += bool(unfinished)
        total += 1
    return stuck, total


def at_once(program: tuple[Shape, Shape], num_vars: int) -> tuple[int, int]:
    """(deadlocks, interleavings) when an operation's append is one step, and so is its end."""
    stuck = total = 0
    for first, early in product((0, 1), (False, True)):
        variables = [hr.Var() for _ in range(num_vars)]
        dependencies = Dependencies[Node]()
        ahead, behind = (Node(program[i], variables) for i in (first, 1 - first))
        assert dependencies.push(ahead)
        if early:  # it ends before the other one comes
            assert not dependencies.complete(ahead)
        started = dependencies.push(behind)
        if not early:
            started = behind in dependencies.complete(ahead) or started
        stuck += not started
        total += 1
    return stuck, total


def count(how: Callable[..., tuple[int, int]]) -> tuple[int, int, int]:
    """(programs, deadlocks, interleavings) over all programs of two and of three Vars."""
    counts = [how(program, num_vars) for num_vars in (2, 3) for program in programs(num_vars)]
    return len(counts), sum(stuck for stuck, _ in counts), sum(total for _, total in counts)


NAMED: dict[str, tuple[Any, int]] = {
    "both write x then y": ((((0, "w"), (1, "w")), ((0, "w"), (1, "w"))), 6),
    "one writes x then y, the other y then x": ((((0, "w"), (1, "w")), ((1, "w"), (0, "w"))), 12),
    "one reads x and writes y, the other reads y and writes x": ((((0, "r"), (1, "w")), ((1, "r"), (0, "w"))), 12),
    "both read": ((((0, "r"), (1, "r")), ((1, "r"), (0, "r"))), 0),
    "one Var in common": ((((0, "w"),), ((0, "w"), (1, "w"))), 0),
}


@pytest.mark.parametrize(("program", "deadlocks"), NAMED.values(), ids=NAMED)
def test_var_by_var_these_programs_deadlock_so_often(program: tuple[Shape, Shape], deadlocks: int) -> None:
    stuck, total = var_by_var(program, 2)
    assert stuck == deadlocks
    assert total == (20 if all(len(shape) == 2 for shape in program) else 10)
    assert at_once(program, 2)[0] == 0


def test_var_by_var_a_third_of_all_interleavings_deadlock() -> None:
    # Which shows that these programs are hard enough to tell the two ways apart.
    assert count(var_by_var) == (2124, 20_790, 68_152)


def test_appended_at_once_no_program_deadlocks() -> None:
    assert count(at_once) == (2124, 0, 4 * 2124)


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("turned", [False, True], ids=["same order", "opposite order"])
def test_threads_that_push_on_the_same_vars_do_not_stop_each_other(
    turned: bool, in_threads: Callable[..., Any]
) -> None:
    variables = [hr.Var(str(i)) for i in range(24)]
    threads, each = 3, 300
    engine = Engine(topology=made_up(cores=2), max_operations=threads * each)

    def push(mine: list[hr.Var]) -> None:
        for _ in range(each):
            engine.push(int, writes=mine)

    try:
        in_threads(*(lambda i=i: push(variables[:: -1 if turned and i % 2 else 1]) for i in range(threads))).join()
        engine.waitall(PATIENCE)
    finally:
        engine.close(timeout=1)  # it has nothing to do, or is stuck for ever
    assert {var.version for var in variables} == {threads * each}
