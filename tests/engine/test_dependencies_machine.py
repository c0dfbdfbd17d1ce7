"""Anything that can happen to a few Vars, in any order, against a list that is obviously right.

The list: operations in the order they were pushed, with what they read and write. One may start when no earlier one
that has not ended is in conflict with it. Hypothesis chooses what happens and makes a failure as short as it can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.engine.dependencies import Dependencies, Var, accesses
from headrace.engine.forgetting import Forgetting
from headrace.errors import PoisonedVar

NUM_VARS = 3
WHICH = st.integers(0, 11)  # of a list, counted round: that gets shorter more easily than a choice out of it


class Op:
    """`shape`: for each Var "." leaves it alone, "r" reads, "w" overwrites, "m" reads and writes."""

    def __init__(self, number: int, shape: Sequence[str], variables: Sequence[Var]) -> None:
        self.number, self.shape = number, "".join(shape)
        self.waiting_for = 0
        self.reads, self.writes, self.needs = accesses(
            [var for var, how in zip(variables, shape) if how in "rm"],
            [var for var, how in zip(variables, shape) if how in "wm"],
        )

    def __repr__(self) -> str:
        return f"<{self.number}: {self.shape}>"


def conflict(one: Op, other: Op) -> bool:
    return any(a != "." != b and (a != "r" or b != "r") for a, b in zip(one.shape, other.shape))


class BesideAList(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.dependencies = Dependencies[Op]()
        self.variables = [Var(f"v{i}") for i in range(NUM_VARS)]
        self.granted: list[Op] = []  # what it has said may start, and has not ended
        self.unfinished: list[Op] = []  # all that was pushed and has not ended, oldest first
        self.versions = [0] * NUM_VARS
        self.origins: list[BaseException | None] = [None] * NUM_VARS
        self.pushed = 0

    def may_start(self) -> list[Op]:
        return [
            op
            for place, op in enumerate(self.unfinished)
            if not any(conflict(earlier, op) for earlier in self.unfinished[:place])
        ]

    def waiting(self) -> list[Op]:
        return [op for op in self.unfinished if op not in self.granted]

    def started(self, ready: Sequence[Op], touched: str) -> None:
        """`ready` may start now, because what stood in their way on `touched` has gone."""
        assert len({*ready}) == len(ready), "said twice"
        assert not {*ready} & {*self.granted}, "started twice"
        if NUM_VARS - touched.count(".") == 1:
            assert [op.number for op in ready] == sorted(op.number for op in ready)
        self.granted += ready

    def push_one(self, shape: Sequence[str]) -> Op:
        op = Op(self.pushed, shape, self.variables)
        self.pushed += 1
        self.unfinished.append(op)
        if self.dependencies.push(op):
            self.granted.append(op)
        return op

    def end(self, op: Op, error: BaseException | None) -> None:
        """As an engine does: what has a poisoned input fails with that, whatever would have come of it."""
        poisoned = self.dependencies.poison(op)
        bad = {f"v{i}": origin for i, origin in enumerate(self.origins) if origin and op.shape[i] in "rm"}
        if poisoned is None:
            assert not bad
        else:
            assert bad[poisoned.name] is poisoned.origin is poisoned.__cause__
            error = poisoned
        self.granted.remove(op)
        self.unfinished.remove(op)
        for i, how in enumerate(op.shape):
            if how in "wm":
                self.versions[i] += error is None
                self.origins[i] = error.origin if isinstance(error, PoisonedVar) else error
        self.started(self.dependencies.complete(op, error), op.shape)

    @rule(shape=st.lists(st.sampled_from("..rrwm"), min_size=NUM_VARS, max_size=NUM_VARS))
    def push(self, shape: list[str]) -> None:
        self.push_one(shape)

    @precondition(lambda self: self.granted)
    @rule(which=WHICH, fails=st.booleans())
    def finish(self, which: int, fails: bool) -> None:
        op = self.granted[which % len(self.granted)]
        self.end(op, ValueError(op.number) if fails else None)

    @precondition(lambda self: self.granted)
    @rule(which=WHICH)
    def cancel_one_that_may_start(self, which: int) -> None:
        op = self.granted[which % len(self.granted)]
        self.granted.remove(op)
        self.unfinished.remove(op)
        self.started(self.dependencies.abandon(op), op.shape)

    @precondition(lambda self: self.waiting())
    @rule(which=st.lists(WHICH, min_size=1, max_size=4))
    def cancel_some_that_wait(self, which: list[int]) -> None:
        waiting = self.waiting()
        ops = [*dict.fromkeys(waiting[i % len(waiting)] for i in which)]
        for op in ops:
            self.unfinished.remove(op)
        forgetting = Forgetting(ops)
        forgetting.carry_out()
        self.started(forgetting.ready, ops[0].shape if len(ops) == 1 else "")

    @precondition(lambda self: not self.unfinished and any(self.origins))
    @rule(which=WHICH, how=st.sampled_from("wm"))
    def write_what_is_poisoned(self, which: int, how: str) -> None:
        """A write that does not look at the old value heals; one that does fails of it."""
        poisoned = [i for i, origin in enumerate(self.origins) if origin]
        i = poisoned[which % len(poisoned)]
        shape = ["."] * NUM_VARS
        shape[i] = how
        version = self.variables[i].version
        self.end(self.push_one(shape), None)
        assert (self.variables[i].error is None) == (how == "w")
        assert self.variables[i].version == version + (how == "w")

    @invariant()
    def what_may_start_has_started_and_nothing_else(self) -> None:
        assert sorted(op.number for op in self.granted) == [op.number for op in self.may_start()]

    @invariant()
    def nothing_granted_waits_and_what_waits_is_not_granted(self) -> None:
        for op in self.unfinished:
            assert (op.waiting_for == 0) == (op in self.granted), op

    @invariant()
    def a_var_has_one_writer_or_readers(self) -> None:
        for one, other in combinations(self.granted, 2):
            shared = {*one.reads, *one.writes} & {*other.reads, *other.writes}
            assert not shared & {*one.writes, *other.writes}, f"{one} beside {other}"

    @invariant()
    def a_var_counts_its_good_writes_and_holds_the_last_ones_error(self) -> None:
        assert [var.version for var in self.variables] == self.versions
        for var, origin in zip(self.variables, self.origins):
            assert (var.error.origin if isinstance(var.error, PoisonedVar) else var.error) is origin

    def teardown(self) -> None:
        while self.granted:  # the newest first, which is not how they came
            self.end(self.granted[-1], None)
            self.what_may_start_has_started_and_nothing_else()
        assert not self.unfinished, "they wait for ever"
        # And nothing is held any more: each of these needs all there is.
        for shape in "www", "rrr", "mmm":
            op = self.push_one(shape)
            assert op in self.granted
            self.end(op, None)
        self.a_var_counts_its_good_writes_and_holds_the_last_ones_error()
        assert self.origins == [None] * NUM_VARS


BesideAList.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestWhateverHappensAnOperationStartsWhenItsConflictsHaveEnded = BesideAList.TestCase
