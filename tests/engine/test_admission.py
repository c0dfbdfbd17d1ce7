import asyncio
import gc
import random
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from headrace.engine.admission import Budget, BudgetStatistics
from headrace.engine.here import as_a_stream
from headrace.engine.permit import Permit, release_all
from headrace.errors import Closed, Overloaded, WouldDeadlock

PATIENCE = 30.0
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
InThreads = Callable[..., Any]
Until = Callable[[Callable[[], object]], None]
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """`asyncio.run` on each kind of loop."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(asyncio.wait_for(main, PATIENCE))

    return run


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def inside(budget: Budget) -> tuple[int, int]:
    statistics = budget.statistics()
    return statistics.inside, statistics.nbytes


# ---- now or not


def test_no_more_are_inside_than_the_bound() -> None:
    budget = Budget(2)
    first, _ = budget.admit(), budget.admit(10)
    with pytest.raises(Overloaded) as refused:
        budget.admit()
    assert (refused.value.inside, refused.value.limit, refused.value.unit) == (2, 2, "requests")
    first.release()
    budget.admit()
    assert budget.statistics() == BudgetStatistics(
        inside=2, nbytes=10, max_count=2, max_bytes=None, waiting=0, refused=1, unread=0
    )


def test_no_more_bytes_are_inside_than_the_bound() -> None:
    budget = Budget(10, max_bytes=100)
    budget.admit(60)
    with pytest.raises(Overloaded) as refused:
        budget.admit(41)
    assert (refused.value.inside, refused.value.limit, refused.value.unit) == (60, 100, "bytes")
    budget.admit(40)
    budget.admit(0)
    assert inside(budget) == (3, 100)


def test_one_larger_than_the_bound_may_be_inside_alone() -> None:
    budget = Budget(10, max_bytes=100)
    small = budget.admit(1)
    with pytest.raises(Overloaded):
        budget.admit(101)
    small.release()
    large = budget.admit(101)
    for nbytes in 0, 1:
        with pytest.raises(Overloaded):
            budget.admit(nbytes)
    large.release()
    budget.admit(100)


def test_a_permit_is_given_back_once() -> None:
    budget = Budget(2, max_bytes=100)
    first, second = budget.admit(30), budget.admit(40)
    for _ in range(3):
        first.release()
        assert inside(budget) == (1, 40)
    assert (first.held, second.held) == (False, True)


def test_a_permit_given_back_by_many_threads_is_given_back_once(in_threads: InThreads) -> None:
    budget = Budget(1000)
    start = threading.Barrier(4)
    permits = [budget.admit() for _ in range(300)]
    kept = [budget.admit() for _ in range(7)]
    in_threads(*[lambda: (start.wait(PATIENCE), [permit.release() for permit in permits])] * 4).join()
    assert inside(budget) == (len(kept), 0)


def test_several_permits_are_given_back_in_one_step_each_to_its_budget() -> None:
    one, other = Budget(10, 1000), Budget(10, 1000)
    permits = [one.admit(100), one.admit(50), other.admit(7)]
    gone = one.admit(3)
    gone.release()
    release_all([*permits[:2], gone])
    assert inside(one) == (0, 0)
    permits = [one.admit(100), other.admit(7), one.admit(50)]
    release_all(permits)
    assert inside(one) == (0, 0)
    assert inside(other) == (1, 7)


def test_who_waits_is_let_in_when_several_permits_are_given_back(in_threads: InThreads, until: Until) -> None:
    budget = Budget(2)
    permits = [budget.admit(), budget.admit()]
    waiting = in_threads(budget.acquire)
    until(lambda: budget.statistics().waiting == 1)
    release_all(permits)
    waiting.join()
    assert budget.statistics().inside == 1


def test_a_permit_grows_up_to_the_bound_and_gives_back_all_of_it() -> None:
    budget = Budget(10, max_bytes=100)
    permit, other = budget.admit(10), budget.admit(20)
    permit.grow(70)
    with pytest.raises(Overloaded) as refused:
        permit.grow(1)
    assert (refused.value.inside, refused.value.unit) == (100, "bytes")
    assert inside(budget) == (2, 100)
    other.release()
    permit.grow(1000)  # alone, like one that was as large from the start
    permit.release()
    assert inside(budget) == (0, 0)


def test_a_permit_that_was_given_back_grows_no_more() -> None:
    budget = Budget(10, max_bytes=100)
    permit = budget.admit(10)
    permit.release()
    permit.grow(50)
    permit.release()
    assert inside(budget) == (0, 0)


# ---- waiting on a thread


def test_a_thread_waits_until_there_is_room(in_threads: InThreads, until: Until) -> None:
    budget = Budget(1)
    permit = budget.acquire()
    got: list[Permit] = []
    crowd = in_threads(lambda: got.append(budget.acquire(5)))
    until(lambda: budget.statistics().waiting == 1)
    assert got == []
    permit.release()
    crowd.join()
    assert inside(budget) == (1, 5)
    assert got[0].held


def test_threads_are_let_in_as_they_came_and_nobody_passes_them(in_threads: InThreads, until: Until) -> None:
    budget = Budget(1)
    permit: Permit | None = budget.acquire()
    order: list[int] = []
    entered = threading.Semaphore(0)
    held: list[Permit] = []

    def enter(i: int) -> None:
        held.append(budget.acquire())
        order.append(i)
        entered.release()

    for i in range(5):
        in_threads(lambda i=i: enter(i))
        until(lambda i=i: budget.statistics().waiting == i + 1)
    for _ in range(5):
        assert permit is not None
        permit.release()
        with pytest.raises(Overloaded):
            budget.admit()
        assert entered.acquire(timeout=PATIENCE)
        permit = held[-1]
    assert order == list(range(5))


def test_who_comes_stands_behind_a_large_one_that_waits(in_threads: InThreads, until: Until) -> None:
    budget = Budget(10, max_bytes=100)
    permit = budget.admit(50)
    crowd = in_threads(lambda: budget.acquire(80))
    until(lambda: budget.statistics().waiting == 1)
    with pytest.raises(Overloaded):
        budget.admit(1)  # it would fit, and the large one would starve
    with pytest.raises(Overloaded):
        budget.acquire(1, timeout=0)
    permit.release()
    crowd.join()
    assert inside(budget) == (1, 80)


def test_a_large_one_whose_time_is_up_lets_those_behind_it_pass(in_threads: InThreads, until: Until) -> None:
    budget = Budget(10, max_bytes=100)
    budget.admit(50)

    def large() -> None:
        with pytest.raises(Overloaded):
            budget.acquire(80, timeout=0.05)

    in_threads(large)
    until(lambda: budget.statistics().waiting or budget.statistics().refused)
    assert budget.acquire(50, timeout=PATIENCE).held
    assert inside(budget) == (2, 100)


@pytest.mark.parametrize("timeout", [0, -1, 0.001])
def test_a_wait_ends_when_its_time_is_up_and_leaves_no_trace(timeout: float) -> None:
    budget = Budget(1)
    permit = budget.acquire(timeout=timeout)
    with pytest.raises(Overloaded):
        budget.acquire(timeout=timeout)
    assert (budget.statistics().waiting, budget.statistics().refused) == (0, 1)
    permit.release()
    assert inside(budget) == (0, 0)
    budget.acquire(timeout=timeout)


def test_a_stream_does_not_wait_for_room() -> None:
    budget = Budget(1)

    async def main() -> None:
        with as_a_stream(), pytest.raises(WouldDeadlock):
            await budget.acquire_async()

    with as_a_stream():
        permit = budget.acquire()
        with pytest.raises(WouldDeadlock):
            budget.acquire()
    asyncio.run(main())
    assert budget.statistics().waiting == 0
    permit.release()
    budget.admit()


def test_waiting_until_nobody_is_inside(in_threads: InThreads, until: Until) -> None:
    budget = Budget(1)
    assert budget.wait_until_idle()
    permit = budget.admit()
    for timeout in 0, -1, 0.001:
        assert not budget.wait_until_idle(timeout)
    assert budget._idle == []
    last: list[Permit] = []
    crowd = in_threads(lambda: last.append(budget.acquire()))
    until(lambda: budget.statistics().waiting == 1)
    idle: list[bool] = []
    waiting = in_threads(*[lambda: idle.append(budget.wait_until_idle())] * 3)
    until(lambda: len(budget._idle) == 3)
    permit.release()  # the next one is let in: somebody is inside all the time
    crowd.join()
    assert idle == []
    last[0].release()
    waiting.join()
    assert idle == [True] * 3


# ---- waiting on an event loop


def test_awaiting_room_is_first_come_first_served(run: Run) -> None:
    async def main() -> None:
        budget = Budget(2)
        held = [await budget.acquire_async(), await budget.acquire_async()]
        order: list[int] = []

        async def enter(i: int) -> None:
            held.append(await budget.acquire_async())
            order.append(i)

        tasks = [asyncio.create_task(enter(i)) for i in range(6)]
        await turns()
        assert order == []
        for i in range(6):
            held[i].release()
            await asyncio.wait([tasks[i]])
            assert order == list(range(i + 1))
            assert inside(budget) == (2, 0)

    run(main())


def test_one_that_gives_up_loses_neither_a_permit_nor_the_place_of_others(run: Run) -> None:
    async def main() -> None:
        budget = Budget(10, max_bytes=100)
        first = budget.admit(50)
        large, small = (asyncio.create_task(budget.acquire_async(nbytes)) for nbytes in (100, 50))
        await turns()
        assert budget.statistics().waiting == 2
        large.cancel()
        await asyncio.wait([large, small])
        assert large.cancelled()
        assert small.result().held, "only the large one was in its way"
        first.release()
        small.result().release()
        assert inside(budget) == (0, 0)

    run(main())


def test_one_cancelled_when_its_permit_is_on_its_way_passes_it_on(run: Run) -> None:
    async def main() -> None:
        budget = Budget(1)
        permit = budget.admit()
        gone, following = (asyncio.create_task(budget.acquire_async()) for _ in range(2))
        await turns()
        permit.release()  # it is `gone`'s now
        gone.cancel()  # before the loop could tell it
        await asyncio.wait([gone, following])
        assert gone.cancelled()
        following.result().release()
        assert inside(budget) == (0, 0)

    run(main())


@pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS)
def test_a_loop_that_is_closed_takes_no_permit_along(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    budget = Budget(1)
    permit = budget.admit()
    loop = factory()
    waiting = budget.acquire_async()
    task = loop.create_task(waiting)
    loop.run_until_complete(turns())
    loop.close()
    permit.release()
    waiting.close()  # what happens when the loop's tasks are collected
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio would complain of our test, rightly
    assert inside(budget) == (0, 0)
    budget.admit()


# ---- closing


def test_closing_refuses_those_who_wait_and_those_who_come(in_threads: InThreads, until: Until) -> None:
    budget = Budget(1)
    permit = budget.admit()

    def refused() -> None:
        with pytest.raises(Closed):
            budget.acquire()

    async def refused_async() -> None:
        with pytest.raises(Closed):
            await budget.acquire_async()

    crowd = in_threads(refused, refused, lambda: asyncio.run(refused_async()))
    until(lambda: budget.statistics().waiting == 3)
    budget.close()
    crowd.join()
    assert not budget.wait_until_idle(timeout=0), "who is inside stays"
    with pytest.raises(Closed):
        budget.admit()
    permit.release()
    assert budget.wait_until_idle()
    for come in budget.admit, refused_now(budget), lambda: asyncio.run(budget.acquire_async()):
        with pytest.raises(Closed):
            come()
    budget.close()


def refused_now(budget: Budget) -> Callable[[], Permit]:
    return lambda: budget.acquire(timeout=0)


# ---- everything at once


def test_a_finaliser_may_give_a_permit_back_whenever_the_collector_runs(in_threads: InThreads) -> None:
    # Also inside the budget's own lock, between a look at the room and the place in line.
    budget = Budget(1)

    class Abandoned:
        def __init__(self) -> None:
            self.itself, self.permit = self, budget.admit()

        def __del__(self) -> None:
            self.permit.release()

    def storm() -> None:
        gc.set_threshold(7)  # it runs whenever a few things were made that it looks after
        kept = []
        for i in range(600):
            kept.append([[] for _ in range(i % 13)])  # so that it runs now here, now there
            Abandoned()
            try:
                budget.acquire(timeout=0).release()
            except Overloaded:
                gc.collect()

    before = gc.get_threshold()
    try:
        in_threads(storm).join()
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert inside(budget) == (0, 0)


def test_room_made_while_one_takes_its_place_in_line_is_not_missed() -> None:
    budget = Budget(1)
    permit = budget.admit()

    looked = budget._fits

    def look(nbytes: int) -> bool:  # and then the collector runs
        fits = looked(nbytes)
        if permit.held:
            permit.release()
        return fits

    budget._fits = look  # type: ignore[method-assign]
    assert budget.acquire(timeout=0).held


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("seed", range(6))
def test_random_threads_and_tasks_never_pass_the_bounds_and_lose_nothing(seed: int, in_threads: InThreads) -> None:
    max_count, max_bytes = 5, 100
    budget = Budget(max_count, max_bytes)
    watching = threading.Lock()
    present: list[int] = []

    def check(permit: Permit) -> None:
        with watching:
            present.append(permit.nbytes)
            assert len(present) <= max_count
            assert sum(present) <= max_bytes or len(present) == 1

    def leave(permit: Permit) -> None:
        with watching:
            present.remove(permit.nbytes)
        permit.release()

    def thread(rng: random.Random) -> None:
        for _ in range(300):
            nbytes = rng.choice([0, 10, 50, 100, 300])
            try:
                permit = budget.acquire(nbytes, rng.choice([None, None, 0])) if rng.random() < 0.8 else budget.admit(1)
            except Overloaded:
                continue
            check(permit)
            time.sleep(0)  # the others' turn, while it is inside
            leave(permit)

    async def task(rng: random.Random) -> None:
        permit = await budget.acquire_async(rng.choice([0, 10, 50, 100, 300]))
        try:
            check(permit)
            await turns(rng.randint(0, 2))
        finally:
            leave(permit)

    async def loop(rng: random.Random) -> None:
        for _ in range(30):
            tasks = [asyncio.create_task(task(rng)) for _ in range(8)]
            await turns(rng.randint(0, 4))
            for each in rng.sample(tasks, 3):
                each.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert outcome is None or isinstance(outcome, asyncio.CancelledError)

    threads = [lambda i=i: thread(random.Random(seed * 100 + i)) for i in range(4)]
    in_threads(*threads, lambda: asyncio.run(loop(random.Random(seed)))).join()
    assert inside(budget) == (0, 0)
    assert budget.statistics().waiting == 0
    assert budget.wait_until_idle(timeout=0)


def test_who_is_interrupted_while_it_tells_the_next_one_of_its_room_tells_it_all_the_same(
    in_threads: Callable[..., Any], until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(1)
    permit, wake, interrupts = budget.admit(), budget.wake, [KeyboardInterrupt()]
    crowd = in_threads(lambda: budget.acquire().release())
    until(lambda: budget.statistics().waiting == 1)

    def interrupted() -> None:
        while interrupts:
            raise interrupts.pop()
        wake()

    monkeypatch.setattr(budget, "wake", interrupted)
    with pytest.raises(KeyboardInterrupt):
        permit.release()
    crowd.join()
    assert budget.statistics().inside == 0


def test_a_charge_that_is_a_function_is_asked_again_each_time_there_may_be_room(
    in_threads: Callable[..., Any], until: Callable[..., None]
) -> None:
    budget = Budget(10, max_bytes=100)
    first, second, known = budget.admit(60), budget.admit(30), [100]
    crowd = in_threads(lambda: budget.acquire(lambda: known[0], PATIENCE))
    until(lambda: budget.statistics().waiting == 1)
    known[0] = 50
    second.release()
    assert budget.statistics().waiting == 1, "60 and 50 are more than 100"
    known[0] = 40
    budget.mend()
    crowd.join()
    assert budget.statistics().nbytes == 100
    first.release()
