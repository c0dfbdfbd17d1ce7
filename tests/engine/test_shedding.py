"""Who makes room on a full engine that sheds: the pure heap against a naive twin, and the engine as users see it."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import headrace as hr
from headrace.engine.shedding import Shedding
from headrace.engine.topology import made_up
from headrace.testing import Gate

PATIENCE = 30.0
FOREVER = float("inf")
FAR = 1e9
"""A deadline nothing here reaches, on a clock of seconds since some start."""


# ---- pure


class Item:
    def __init__(self, priority: float, deadline: float | None, order: int) -> None:
        self.priority, self.deadline, self.order, self.queued = priority, deadline, order, True

    @property
    def worth(self) -> tuple[float, float]:
        return self.priority, -(FOREVER if self.deadline is None else self.deadline)

    def __repr__(self) -> str:
        return f"<{self.order}: {self.priority}, {self.deadline}>"


def naive_victim(items: list[Item], newcomer: Item) -> Item | None:
    """Lowest priority, then latest deadline, then newest; nobody, where that would be the newcomer."""
    queued = [item for item in items if item.queued]
    least = min(queued, key=lambda item: (*item.worth, -item.order), default=None)
    return least if least is not None and least.worth < newcomer.worth else None


@pytest.mark.parametrize("seed", range(10))
def test_the_heap_agrees_with_looking_at_everything(seed: int) -> None:
    rng = random.Random(seed)
    shedding: Shedding[Item] = Shedding(lambda item: item.queued)
    items: list[Item] = []
    shed = refused = 0
    for order in range(2500):  # beyond the first sweep
        newcomer = Item(rng.choice([-1, 0, 0, 0, 0.5, 3]), rng.choice([None, None, 5.0, 7.0, 7.5]), order)
        while rng.random() < 0.3:  # one begins, or is cancelled
            rng.choice(items or [newcomer]).queued = False
        newcomer.queued = True
        if rng.random() < 0.5:
            expected = naive_victim(items, newcomer)
            victim = shedding.victim(newcomer.priority, newcomer.deadline)
            assert victim is expected
            if victim is None:
                refused += 1
                continue
            victim.queued = False
            shed += 1
        items.append(newcomer)
        shedding.add(newcomer, newcomer.priority, newcomer.deadline)
        items = [item for item in items if item.queued] if order % 100 == 0 else items
    assert shed > 100
    assert refused > 20


def test_what_has_ended_takes_no_room_in_the_heap_for_long() -> None:
    shedding: Shedding[Item] = Shedding(lambda item: item.queued)
    kept = [Item(0, None, order) for order in range(20_000)]
    for item in kept[:3000]:
        shedding.add(item, item.priority, item.deadline)
    for item in kept:
        item.queued = False
    most = 0
    for item in kept[3000:]:
        shedding.add(item, item.priority, item.deadline)
        most = max(most, len(shedding))
    assert most <= 2 * 3000 + 2
    assert len(shedding) <= 1025
    assert shedding.victim(1, None) is None


# ---- an engine


class Held:
    """An engine of one core that sheds. Its one stream stands at a gate: what comes waits."""

    def __init__(self, max_operations: int, on_full: str = "shed", max_bytes: int | None = None) -> None:
        self.engine = hr.Engine(
            topology=made_up(1), max_operations=max_operations, on_full=on_full, max_bytes=max_bytes
        )
        self.gate = Gate()

    def hold(self, **access: Any) -> hr.Future[Any]:
        future = self.engine.push(self.gate, **access)
        self.gate.wait()
        return future

    @property
    def inside(self) -> int:
        return self.engine.statistics().budget.inside


@pytest.fixture
def held() -> Iterator[Callable[..., Held]]:
    made: list[Held] = []

    def hold(max_operations: int = 3, **options: Any) -> Held:
        made.append(Held(max_operations, **options))
        return made[-1]

    yield hold
    for each in made:
        each.gate.open()
        each.engine.close(drain=False, timeout=PATIENCE)


def ended_as(future: hr.Future[Any]) -> str:
    error = future.exception(PATIENCE)
    return type(error).__name__ if error is not None else "ran"


@pytest.mark.parametrize(
    ("waiting", "newcomer", "shed"),
    [
        ([(0, None), (-1, None), (1, None)], (0, None), 1),  # the lowest priority
        ([(0, None), (-1, None), (1, None)], (9, None), 1),
        ([(0, 5.0), (0, 9.0), (0, 7.0)], (0, 6.0), 1),  # among equals the latest deadline
        ([(0, 5.0), (0, None), (0, 7.0)], (0, 9.0), 1),  # none is the latest of all
        ([(0, None), (0, None), (0, None)], (1, None), 2),  # then the newest
        ([(0, 5.0), (0, 5.0), (1, None)], (1, None), 1),
        ([(-1, 5.0), (0, None), (0, 9.0)], (0, 1.0), 0),  # a deadline outweighs no priority
        ([(0, None), (0, None), (0, None)], (0, None), None),  # an equal newcomer goes itself
        ([(0, 5.0), (0, 5.0), (0, 5.0)], (0, 5.0), None),
        ([(0, 5.0), (0, 6.0), (0, 7.0)], (0, None), None),
        ([(1, None), (1, None), (1, None)], (0, 1.0), None),
    ],
)
def test_what_matters_least_makes_room(
    waiting: list[tuple[float, float | None]],
    newcomer: tuple[float, float | None],
    shed: int | None,
    held: Callable[..., Held],
) -> None:
    here = held(max_operations=4)

    def push(priority: float, deadline: float | None) -> hr.Future[Any]:
        return here.engine.push(lambda: "ran", priority=priority, deadline=None if deadline is None else FAR + deadline)

    first = here.hold()
    futures = [push(*each) for each in waiting]
    if shed is None:
        with pytest.raises(hr.Overloaded):
            push(*newcomer)
    else:
        futures.append(push(*newcomer))
        assert futures[shed].done(), "it is told at once"
    assert here.inside == 4
    here.gate.open()
    first.result(PATIENCE)
    outcomes = [ended_as(future) for future in futures]
    assert outcomes == ["Overloaded" if i == shed else "ran" for i in range(len(futures))]


def test_what_has_begun_is_never_shed(held: Callable[..., Held]) -> None:
    here = held(max_operations=1)
    running = here.hold(priority=-100)
    with pytest.raises(hr.Overloaded):
        here.engine.push(lambda: None, priority=100)
    assert not running.done()
    here.gate.open()
    assert ended_as(running) == "ran"


def test_what_writes_is_never_shed_and_may_shed_what_reads(held: Callable[..., Held]) -> None:
    here, var = held(max_operations=4), hr.Var("weights")
    here.hold(writes=[var])
    write = here.engine.push(lambda: "ran", writes=[var], priority=-100)
    read = here.engine.push(lambda: "ran", reads=[var], priority=-50)
    both = here.engine.push(lambda: "ran", reads=[var], writes=[var], priority=-100)
    another = here.engine.push(lambda: "ran", writes=[var], priority=-10)
    assert ended_as(read) == "Overloaded"
    with pytest.raises(hr.Overloaded):  # only writers wait
        here.engine.push(lambda: None, priority=100)
    here.gate.open()
    assert [ended_as(each) for each in (write, both, another)] == ["ran"] * 3
    assert (var.version, var.error) == (4, None)


def test_a_shed_reader_lets_go_of_what_it_read(held: Callable[..., Held]) -> None:
    here, var = held(max_operations=3), hr.Var()
    here.hold()  # granted, and not begun: it holds `var` as a reader until it is reached
    read = here.engine.push(lambda: "ran", reads=[var], priority=-1)
    write = here.engine.push(lambda: "ran", writes=[var])
    urgent = here.engine.push(lambda: "ran", priority=1)
    assert ended_as(read) == "Overloaded"
    here.gate.open()
    assert [ended_as(each) for each in (write, urgent)] == ["ran", "ran"]
    assert var.version == 1


def test_models_and_operations_make_room_for_each_other(held: Callable[..., Held]) -> None:
    here = held(max_operations=3)
    with hr.compile_model(lambda x: x, engine=here.engine) as model:
        here.hold()
        operation = here.engine.push(lambda: "ran", priority=-2)
        request = model.submit(1, priority=-1)
        second = model.submit(2)  # the operation matters less than either
        assert (operation.done(), request.done(), here.inside) == (True, False, 3)
        third = here.engine.push(lambda: "ran")  # and now the first request does
        assert (request.done(), second.done(), here.inside) == (True, False, 3)
        with pytest.raises(hr.Overloaded):
            model.submit(3)
        here.gate.open()
        assert (second.result(PATIENCE), third.result(PATIENCE)) == (2, "ran")
        assert [ended_as(each) for each in (operation, request)] == ["Overloaded", "Overloaded"]
        here.engine.push(int, priority=-100).result(PATIENCE)  # what was shed stood before it, and has left the queue
    of_model, of_engine = model.statistics(), here.engine.statistics()
    assert (of_model.submitted, of_model.completed, of_model.cancelled) == (2, 1, 1)
    assert (of_engine.operations.pushed, of_engine.operations.completed, of_engine.operations.cancelled) == (4, 3, 1)
    assert of_engine.budget.inside == 0


def test_who_was_shed_is_told_why_and_waitall_does_not_lose_it(held: Callable[..., Held]) -> None:
    here = held(max_operations=2)
    here.hold()
    shed = here.engine.push(lambda: None)
    here.engine.push(lambda: None, priority=1)
    here.gate.open()
    with pytest.raises(BaseExceptionGroup) as group:
        here.engine.waitall(PATIENCE)
    (error,) = group.value.exceptions
    assert isinstance(error, hr.Overloaded)
    assert "made room for what matters more" in "".join(error.__notes__)
    assert shed.exception() is error


def test_an_event_loop_sheds_and_never_waits(held: Callable[..., Held]) -> None:
    here = held(max_operations=3)

    async def main() -> list[Any]:
        low = [asyncio.create_task(model.asubmit(i)) for i in range(2)]
        await asyncio.sleep(0)
        assert here.inside == 3
        high = asyncio.create_task(model.asubmit("high", priority=1))
        pushed = here.engine.push(lambda: "pushed", priority=1)
        await asyncio.sleep(0)
        with pytest.raises(hr.Overloaded):
            await model.asubmit("as low", priority=-1)
        with pytest.raises(hr.Overloaded):
            model.submit("as low")
        assert here.inside == 3
        here.gate.open()
        return await asyncio.gather(*low, high, pushed, return_exceptions=True)

    with hr.compile_model(lambda x: x, engine=here.engine) as model:
        here.hold()
        *shed, high, pushed = asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert [type(each) for each in shed] == [hr.Overloaded] * 2
    assert (high, pushed) == ("high", "pushed")


@pytest.mark.parametrize("seed", range(12))
def test_a_random_program_is_shed_as_by_looking_at_everything(seed: int, held: Callable[..., Held]) -> None:
    """Pushes, requests, writes and cancels while nothing can begin; then everything that is left runs."""
    rng, bound = random.Random(seed), 12
    here, var = held(max_operations=bound), hr.Var()
    items: list[Item] = []
    futures: dict[int, hr.Future[Any]] = {}
    expected: dict[int, str] = {}
    with hr.compile_model(lambda x: x, engine=here.engine) as model:
        here.hold()
        for order in range(300):
            item = Item(rng.choice([-2, -1, 0, 0, 1, 2.5]), rng.choice([None, 1.0, 2.0]), order)
            writes = rng.random() < 0.05
            queued = [each for each in items if each.queued]
            if queued and rng.random() < 0.2:
                gone = rng.choice(queued)
                gone.queued = not futures[gone.order].cancel()
                expected[gone.order] = "Cancelled"
            victim = None
            if here.inside == bound:
                # What writes is among `futures`, and not among those that can be shed.
                victim = naive_victim(items, item)
                if victim is None:
                    expected[order] = "refused"
                else:
                    victim.queued = False
                    expected[victim.order] = "Overloaded"
            try:
                if rng.random() < 0.5 and item.deadline is None and not writes:
                    futures[order] = model.submit(order, priority=item.priority)
                else:
                    deadline = None if item.deadline is None else FAR + item.deadline
                    access = {"writes": [var]} if writes else {}
                    futures[order] = here.engine.push(
                        lambda order=order: order, priority=item.priority, deadline=deadline, **access
                    )
            except hr.Overloaded:
                assert expected.get(order) == "refused"
                continue
            assert expected.get(order) is None
            expected[order] = "ran"
            if not writes:
                items.append(item)
            assert here.inside <= bound
        assert here.inside == bound
        here.gate.open()
        outcomes = {order: ended_as(future) for order, future in futures.items()}
    assert outcomes == {order: outcome for order, outcome in expected.items() if outcome != "refused"}
    assert {"ran", "Overloaded", "Cancelled"} <= set(outcomes.values())
    here.engine.close()
    of_model, of_engine = model.statistics(), here.engine.statistics().operations
    assert of_model.submitted == of_model.completed + of_model.cancelled
    assert of_engine.pushed == of_engine.completed + of_engine.cancelled
    assert here.inside == 0


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("seed", range(3))
def test_threads_that_shed_each_other_never_pass_the_bound(seed: int, in_threads: Callable[..., Any]) -> None:
    bound = 6
    ended: list[str] = []
    with hr.Engine(topology=made_up(2), max_operations=bound, on_full="shed") as engine:
        model = hr.compile_model(lambda x: x, engine=engine)

        def crowd(rng: random.Random) -> None:
            for i in range(120):
                try:
                    if rng.random() < 0.5:
                        future = model.submit(i, priority=rng.choice([-1, 0, 2]))
                    else:
                        future = engine.push(lambda: None, priority=rng.choice([-1, 0, 2]))
                except hr.Overloaded:
                    ended.append("refused")
                else:
                    future.add_done_callback(lambda future: ended.append(ended_as(future)))
                assert engine.statistics().budget.inside <= bound

        in_threads(*(lambda i=i: crowd(random.Random(seed * 10 + i)) for i in range(4))).join()
        model.close()
    assert len(ended) == 4 * 120
    assert set(ended) <= {"ran", "Overloaded", "refused"}
    of_model, of_engine = model.statistics(), engine.statistics()
    assert of_model.submitted == of_model.completed + of_model.cancelled
    assert of_engine.operations.pushed == of_engine.operations.completed + of_engine.operations.cancelled
    assert of_model.completed + of_engine.operations.completed == ended.count("ran")
    assert of_engine.budget.inside == 0


# ---- what shed work leaves behind


def test_a_result_that_was_let_go_of_is_not_kept_by_an_engine_that_sheds(held: Callable[..., Held]) -> None:
    here = held()
    future = here.engine.push(lambda: np.zeros(8))
    future.result(PATIENCE)
    here.engine.push(lambda: None).result(PATIENCE)  # the stream has another one in hand
    gone = weakref.ref(future)
    del future
    gc.collect()
    assert gone() is None


def test_shed_readers_behind_a_stuck_write_take_a_bounded_room(held: Callable[..., Held]) -> None:
    here, var = held(max_operations=3), hr.Var()
    here.hold(writes=[var])
    pushed = [weakref.ref(here.engine.push(lambda: None, reads=[var], priority=i)) for i in range(3000)]
    gc.collect()
    # Some hundred tombstones, as for those that were cancelled; and a thousand errors that `waitall` remembers.
    assert sum(each() is not None for each in pushed) < 2000


def test_a_result_that_was_let_go_of_makes_room_in_an_engine_that_sheds(held: Callable[..., Held]) -> None:
    here = held(max_bytes=100, max_operations=8)
    for _ in range(5):
        future = here.engine.push(lambda: np.zeros(80, np.uint8))
        future.wait_to_read(PATIENCE)
        here.engine.push(lambda: None, priority=-1).result(PATIENCE)
        del future
        gc.collect()
        assert here.engine.statistics().budget.nbytes == 0


# ---- engines that do not shed


def test_who_blocks_waits_however_much_it_matters(held: Callable[..., Held], in_threads: Any, until: Any) -> None:
    here = held(max_operations=2, on_full="block")
    here.hold()
    low = here.engine.push(lambda: "ran", priority=-5)
    crowd = in_threads(lambda: here.engine.push(lambda: None, priority=5).result(PATIENCE))
    until(lambda: here.engine.statistics().budget.waiting == 1)
    assert not low.done()
    here.gate.open()
    crowd.join()
    assert ended_as(low) == "ran"


def test_who_rejects_refuses_the_newcomer_however_much_it_matters(held: Callable[..., Held]) -> None:
    here = held(max_operations=2, on_full="reject")
    here.hold()
    low = here.engine.push(lambda: "ran", priority=-5)
    with pytest.raises(hr.Overloaded):
        here.engine.push(lambda: None, priority=5)
    here.gate.open()
    assert ended_as(low) == "ran"
    assert threading.active_count() < 50
