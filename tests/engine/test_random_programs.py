"""Random programs end the same on the engine and on the naive one, which runs each operation where it is pushed."""

import random
from collections.abc import Callable
from typing import Any

import pytest

import headrace as hr
from headrace.engine.engine import Engine
from headrace.engine.future import Future
from headrace.engine.naive import NaiveEngine
from headrace.engine.topology import made_up
from headrace.errors import Cancelled, Closed, DeadlineExceeded, WouldDeadlock

PATIENCE = 30.0


def run_program(engine: Engine | NaiveEngine, seed: int) -> dict[str, Any]:
    """Pushes the operations of program `seed`. Everything that can be seen of it afterwards."""
    rng = random.Random(seed)
    variables = [hr.Var(f"v{i}") for i in range(rng.randint(1, 6))]
    values = dict.fromkeys(variables, 0)

    def operation(number: int, reads: list[hr.Var], writes: list[hr.Var], fails: bool) -> Callable[[], int]:
        def run() -> int:
            seen = hash((number, *(values[var] for var in reads)))
            if fails:
                raise ValueError(number)
            for i, var in enumerate(writes):
                values[var] = hash((seen, i))
            return seen

        return run

    futures: list[Future[int] | None] = []
    for number in range(rng.randint(20, 120)):
        reads = rng.sample(variables, rng.randint(0, len(variables)))
        writes = rng.sample(variables, rng.choice([0, 0, 1, 1, min(2, len(variables))]))
        if rng.random() < 0.3:  # read, modify, write
            reads = [*reads, *writes]
        if rng.random() < 0.1:  # given twice
            reads, writes = reads * 2, writes * 2
        try:
            future = engine.push(
                operation(number, reads, writes, fails=rng.random() < 0.08),
                reads=reads,
                writes=writes,
                priority=rng.choice([0, 0, 1, -1]),
                deadline=rng.choice([None, None, 0.0 if rng.random() < 0.05 else 1e12]),  # long past, or never
            )
        except DeadlineExceeded:
            future = None
        futures.append(future)
    outcomes: list[object] = []
    unseen = 0
    if rng.random() < 0.5:
        try:
            engine.waitall(PATIENCE)
        except ExceptionGroup as group:
            unseen = len(group.exceptions)
    for future in futures:
        if future is None:
            outcomes.append("refused")
            continue
        error = future.exception(PATIENCE)
        outcomes.append(future.result() if error is None else (type(error), str(error)))
    engine.waitall(PATIENCE)  # everything has been looked at: nothing to raise
    return {
        "outcomes": outcomes,
        "unseen": unseen,
        "values": [values[var] for var in variables],
        "versions": [var.version for var in variables],
        "errors": [None if var.error is None else str(var.error) for var in variables],
    }


@pytest.mark.parametrize("seed", range(30))
def test_the_engine_agrees_with_the_naive_engine(seed: int) -> None:
    with Engine(topology=made_up(cores=4), max_operations=16 + seed) as engine, NaiveEngine() as naive:
        assert run_program(engine, seed) == run_program(naive, seed)


def test_random_programs_have_everything_in_them() -> None:
    runs = [run_program(NaiveEngine(), seed) for seed in range(30)]
    kinds = {outcome[0] if isinstance(outcome, tuple) else type(outcome) for r in runs for outcome in r["outcomes"]}
    assert kinds == {int, str, ValueError, hr.PoisonedVar}
    assert any(run["unseen"] for run in runs)
    assert any(error is None and version for r in runs for error, version in zip(r["errors"], r["versions"]))


# ---- the naive engine itself


def test_naive_has_the_outcome_when_push_returns() -> None:
    engine, order = NaiveEngine(), []
    future = engine.push(lambda: order.append("ran") or 7)
    assert order == ["ran"]
    assert future.result(timeout=0) == 7


def test_naive_can_be_polled() -> None:
    engine = NaiveEngine()
    futures = [engine.push(lambda i=i: i) for i in range(3)]
    assert engine.poll(2) == futures[:2]
    assert futures[2].result() == 2
    assert engine.poll() == []


def test_naive_is_reentrant_and_an_operation_follows_the_one_that_holds_its_var() -> None:
    engine, var, order = NaiveEngine(), hr.Var(), []

    def outer() -> tuple[Future[None], Future[None]]:
        held = engine.push(lambda: order.append("held"), reads=[var])
        free = engine.push(lambda: order.append("free"))
        assert free.can_read()
        assert not held.can_read()
        order.append("outer")
        return held, free

    held, _ = engine.push(outer, writes=[var]).result()
    assert held.can_read()
    assert order == ["free", "outer", "held"]


def test_naive_tells_an_operation_that_it_would_wait_for_itself() -> None:
    engine, var = NaiveEngine(), hr.Var()
    for wait in (lambda: engine.push(int, reads=[var]).result(), engine.waitall):
        assert isinstance(engine.push(wait, writes=[var]).exception(), WouldDeadlock)
    assert engine.push(lambda: engine.push(lambda: 7).result()).result() == 7, "what is there already can be read"


def test_naive_does_not_run_what_was_cancelled() -> None:
    engine, var = NaiveEngine(), hr.Var()
    inner: list[Future[int]] = []

    def outer() -> None:
        inner.append(engine.push(lambda: pytest.fail("it must not run"), writes=[var]))
        inner.append(engine.push(lambda: 7, reads=[var]))
        assert inner[0].cancel()

    engine.push(outer, writes=[var]).result()
    assert isinstance(inner[0].exception(0), Cancelled)
    assert inner[1].result(0) == 7
    assert var.version == 1
    engine.waitall()


def test_naive_refuses_what_the_engine_refuses() -> None:
    engine, var = NaiveEngine(), hr.Var()
    push: Any = engine.push
    for wrong in (
        lambda: push(3, writes=[var]),
        lambda: push(int, reads=[var, 3]),
        lambda: push(int, writes=3),
        lambda: push(int, writes=[var], priority="high"),
        lambda: push(int, writes=[var], deadline="soon"),
    ):
        with pytest.raises(TypeError):
            wrong()
    assert push(int, writes=[var]).result(0) == 0
    engine.close()
    with pytest.raises(Closed):
        push(int)


def test_naive_is_safe_from_any_thread(in_threads: Callable[..., Any]) -> None:
    engine, var, values = NaiveEngine(), hr.Var(), [0]

    def add() -> None:
        values[0] = values[0] + 1

    in_threads(*[lambda: [engine.push(add, writes=[var]) for _ in range(200)]] * 4).join()
    assert values == [800]
    assert var.version == 800
