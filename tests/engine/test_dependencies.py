"""All interleavings of a few operations, and random ones of many, against one sentence: an operation may start exactly
when everything pushed before it and in conflict with it has ended."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import pytest

from headrace.engine.dependencies import Dependencies, Var, accesses
from headrace.errors import PoisonedVar


@dataclass(eq=False)
class Op:
    reads: tuple[Var, ...]
    writes: tuple[Var, ...]
    needs: tuple[Var, ...]
    waiting_for: int = 0

    def conflicts(self, other: "Op") -> bool:
        mine, others = {*self.reads, *self.writes}, {*other.reads, *other.writes}
        return bool(mine & {*other.writes} or others & {*self.writes})


def op(reads: Sequence[Var] = (), writes: Sequence[Var] = ()) -> Op:
    return Op(*accesses(reads, writes))


# What one operation does to each of some Vars: "r" reads, "w" writes, "." leaves alone.
def shapes(num_vars: int) -> list[str]:
    return ["".join(shape) for shape in product(".rw", repeat=num_vars)]


def ops_of(program: Sequence[str]) -> list[Op]:
    variables = [Var(str(i)) for i in range(len(program[0]))]
    return [op(*([var for var, access in zip(variables, shape) if access == how] for how in "rw")) for shape in program]


class Run:
    """One world in which events happen; after each, what has started is compared with the sentence above."""

    def __init__(self, program: Sequence[str]) -> None:
        self.ops = ops_of(program)
        self.dependencies: Dependencies[Op] = Dependencies()
        self.pushed: list[Op] = []
        self.started: list[Op] = []
        self.ended: list[Op] = []

    def events(self) -> list[Op]:
        """An operation that was not pushed yet is pushed; one that runs ends."""
        return [op for op in self.ops if op not in self.pushed or (op in self.started and op not in self.ended)]

    def happen(self, op: Op) -> None:
        if op not in self.pushed:
            self.pushed.append(op)
            ready = [op] if self.dependencies.push(op) else []
        else:
            self.ended.append(op)
            ready = self.dependencies.complete(op)
        assert not {*ready} & {*self.started}, "started twice"
        self.started += ready
        may_start = {
            later
            for place, later in enumerate(self.pushed)
            if all(earlier in self.ended for earlier in self.pushed[:place] if earlier.conflicts(later))
        }
        assert {*self.started} == may_start


def explore(program: Sequence[str]) -> int:
    """Every order of events there is. How many there were."""
    orders = 0
    unexplored: list[list[int]] = [[]]
    while unexplored:
        path = unexplored.pop()
        run = Run(program)
        for choice in path:
            run.happen(run.events()[choice])
        while events := run.events():
            unexplored += [[*path, other] for other in range(1, len(events))]
            path = [*path, 0]
            run.happen(events[0])
        assert len(run.ended) == len(run.ops), f"{program} waits for ever"
        orders += 1
    return orders


@pytest.mark.parametrize(("num_ops", "num_vars"), [(2, 1), (2, 2), (2, 3), (3, 1), (3, 2)])
def test_in_every_interleaving_an_operation_starts_exactly_when_its_conflicts_have_ended(
    num_ops: int, num_vars: int
) -> None:
    programs = list(product(shapes(num_vars), repeat=num_ops))
    if len(programs) > 200:  # three operations are the same three in any order
        programs = [program for program in programs if list(program) == sorted(program)]
    assert sum(explore(program) for program in programs) > len(programs)


class VarByVar(Dependencies[Op]):
    """What must not be: each Var under its own lock, so that others come in between two of them."""

    def push_in_steps(self, op: Op) -> Iterator[None]:
        op.waiting_for = 1  # the push itself: it must not start half pushed
        for var, write in [*((var, False) for var in op.reads), *((var, True) for var in op.writes)]:
            yield
            op.waiting_for += 1
            var._wait(op, write)
            self._start(var, [])
        op.waiting_for -= 1


def deadlocks(reads_and_writes: Sequence[tuple[str, str]], atomic: bool) -> tuple[int, int]:
    """(deadlocks, interleavings) of pushing operations with these reads and writes from a thread each."""
    steps = [i for i, (reads, writes) in enumerate(reads_and_writes) for _ in ([0] if atomic else reads + writes)]
    stuck = total = 0
    for order in sorted(set(permutations_of(steps))):
        variables = {name: Var(name) for name in "abc"}
        ops = [op([variables[v] for v in reads], [variables[v] for v in writes]) for reads, writes in reads_and_writes]
        dependencies = VarByVar()
        if atomic:
            for i in order:
                dependencies.push(ops[i])
        else:
            pushes = [dependencies.push_in_steps(op) for op in ops]
            for push in pushes:
                next(push)
            for i in order:
                next(pushes[i], None)
        waiting = {*ops}
        while able := [op for op in waiting if not op.waiting_for]:
            waiting -= {*able}
            for each in able:
                dependencies.complete(each)
        stuck += bool(waiting)
        total += 1
    return stuck, total


def permutations_of(items: Sequence[int]) -> Iterator[tuple[int, ...]]:
    if not items:
        yield ()
    for first in sorted(set(items)):
        rest = list(items)
        rest.remove(first)
        for order in permutations_of(rest):
            yield (first, *order)


CROSSED = {
    "two writers": [("", "ab"), ("", "ba")],
    "a reads b, b reads a": [("b", "a"), ("a", "b")],
    "three in a ring": [("", "ab"), ("", "bc"), ("", "ca")],
    "three Vars": [("", "abc"), ("", "cba")],
    "readers between writers": [("a", "b"), ("", "ba"), ("b", "a")],
}


@pytest.mark.parametrize("program", CROSSED.values(), ids=CROSSED)
def test_appending_var_by_var_deadlocks_and_appending_at_once_never_does(program: list[tuple[str, str]]) -> None:
    stuck, total = deadlocks(program, atomic=False)
    assert 0 < stuck < total
    assert deadlocks(program, atomic=True)[0] == 0


@pytest.mark.parametrize("seed", range(20))
def test_random_crowds_start_exactly_when_their_conflicts_have_ended(seed: int) -> None:
    rng = random.Random(seed)
    run = Run(["".join(rng.choices(".rw", weights=(6, 3, 1), k=5)) for _ in range(40)])
    while events := run.events():
        fresh = [op for op in events if op not in run.pushed]
        run.happen(fresh[0] if fresh and rng.random() < 0.6 else rng.choice(events))
    assert len(run.ended) == 40
    for var in {var for op in run.ops for var in op.writes}:
        assert var.version == sum(var in op.writes for op in run.ops)


def test_what_becomes_ready_on_one_var_comes_in_pushed_order() -> None:
    var, dependencies = Var(), Dependencies[Op]()
    writer, readers, last = op(writes=[var]), [op(reads=[var]) for _ in range(4)], op(writes=[var])
    assert [dependencies.push(each) for each in (writer, *readers, last)] == [True] + 5 * [False]
    assert dependencies.complete(writer) == readers
    assert [list(dependencies.complete(reader)) for reader in readers] == [[], [], [], [last]]


def test_a_reader_does_not_overtake_a_writer_that_waits() -> None:
    var, dependencies = Var(), Dependencies[Op]()
    first, writer, second = op(reads=[var]), op(writes=[var]), op(reads=[var])
    assert [dependencies.push(each) for each in (first, writer, second)] == [True, False, False]
    assert dependencies.complete(first) == [writer]
    assert dependencies.complete(writer) == [second]


def test_duplicates_count_once_and_a_var_read_and_written_is_written() -> None:
    a, b, c = Var("a"), Var("b"), Var("c")
    assert accesses([a, b], [c]) == ((a, b), (c,), (a, b))
    assert accesses([a, b, a], [c, c]) == ((a, b), (c,), (a, b))
    assert accesses([b, a], [a, c]) == ((b,), (a, c), (b, a))
    assert accesses([a, a], [a, a]) == ((), (a,), (a,))
    assert accesses(iter([a]), iter([b])) == ((a,), (b,), (a,))
    assert accesses([], [a]) == ((), (a,), ())


def test_an_operation_never_waits_for_itself() -> None:
    a, b, dependencies = Var(), Var(), Dependencies[Op]()
    each = [op([a, a, b], [b, b, a]) for _ in range(3)]
    assert [dependencies.push(one) for one in each] == [True, False, False]
    assert dependencies.complete(each[0]) == [each[1]]
    assert dependencies.complete(each[1]) == [each[2]]
    assert not dependencies.complete(each[2])
    assert (a.version, b.version) == (3, 3)


@pytest.mark.parametrize("wrong", [None, 1, "a Var", object(), [], {}, Var])
def test_what_is_not_a_var_is_refused(wrong: object) -> None:
    for reads, writes in ([wrong], []), ([], [wrong]), ([Var(), wrong], [Var()]):
        with pytest.raises(TypeError):
            accesses(reads, writes)  # type: ignore[arg-type]


def test_a_var_alone_is_not_a_list_of_vars() -> None:
    with pytest.raises(TypeError):
        accesses(Var(), ())  # type: ignore[arg-type]


def test_the_version_counts_the_writes_that_succeeded() -> None:
    var, dependencies = Var(), Dependencies[Op]()
    for error, version in [(None, 1), (ValueError(), 1), (None, 2)]:
        writer, reader = op(writes=[var]), op(reads=[var])
        dependencies.push(writer)
        dependencies.push(reader)
        dependencies.complete(writer, error)
        dependencies.complete(reader, error)  # a reader's failure is its own
        assert (var.version, var.error) == (version, error)


def test_poison_spreads_with_its_origin_and_only_a_full_write_heals() -> None:
    a, b, dependencies = Var("a"), Var("b"), Dependencies[Op]()
    origin = ValueError("the first cause")

    def run(each: Op, error: BaseException | None = None) -> PoisonedVar | None:
        assert dependencies.push(each)
        poisoned = dependencies.poison(each)
        dependencies.complete(each, poisoned or error)
        return poisoned

    assert run(op(writes=[a]), origin) is None
    for _ in range(2):  # sticky
        poisoned = run(op(reads=[a]))
        assert poisoned is not None
        assert (poisoned.name, poisoned.origin, poisoned.__cause__) == ("a", origin, origin)
    poisoned = run(op(reads=[a], writes=[b]))
    assert poisoned is not None
    assert isinstance(b.error, PoisonedVar)
    further = run(op(reads=[b]))
    assert further is not None
    assert (further.name, further.origin) == ("b", origin), "the origin is the failure, not what came of it"
    assert run(op(reads=[a], writes=[a])) is not None, "a write that needs the old value does not heal"
    assert a.error is not None
    assert run(op(writes=[a])) is None
    assert a.error is None
    assert run(op(reads=[a])) is None
    assert run(op(reads=[b])) is not None, "what was made of it stays poisoned"


def test_an_abandoned_write_leaves_its_var_as_it_was() -> None:
    for error in (None, ValueError()):
        var, dependencies = Var(), Dependencies[Op]()
        first, dropped, reader = op(writes=[var]), op(writes=[var]), op(reads=[var])
        for each in first, dropped, reader:
            dependencies.push(each)
        dependencies.complete(first, error)
        before = var.version, var.error
        assert dependencies.abandon(dropped) == [reader]
        assert (var.version, var.error) == before


def test_a_var_says_what_it_is() -> None:
    var = Var("weights")
    assert repr(var) == "<Var weights version 0 ok>"
    var.error = ValueError()
    assert repr(var) == "<Var weights version 0 poisoned>"
