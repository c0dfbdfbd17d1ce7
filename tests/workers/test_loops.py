"""An event loop sends to a worker and hears its answers itself; whatever becomes of the loop, nobody waits for it."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from worker_watching import descriptors

import headrace as hr
from headrace.workers.answers import Answers

Compile = Callable[..., hr.Model]


@pytest.fixture
def heard_by(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads that took answers in, one after the other."""
    threads: list[int] = []
    take = Answers.take

    def watched(self: Answers, frame: Any) -> bytes:
        threads.append(threading.get_ident())
        return take(self, frame)

    monkeypatch.setattr(Answers, "take", watched)
    return threads


async def ask(model: hr.Model, count: int) -> None:
    for i in range(count):
        assert await model.asubmit(i) == 2 * i
    assert await asyncio.gather(*map(model.asubmit, range(count))) == [2 * i for i in range(count)]


def test_a_loop_hears_what_its_worker_answers(compiled: Compile, heard_by: list[int]) -> None:
    model = compiled("double")
    asyncio.run(ask(model, 300))
    assert heard_by.count(threading.get_ident()) > 100


def test_a_loop_that_is_blocked_is_not_waited_for(compiled: Compile, heard_by: list[int]) -> None:
    model = compiled("double")

    async def main() -> None:
        await ask(model, 100)
        for i in range(50):  # it blocks until it has its answer, which it cannot hear as a loop
            told = threading.Event()
            heard_by.clear()
            model.submit(i).add_done_callback(lambda _, told=told: told.set())  # type: ignore[misc]
            assert told.wait(60)
            assert threading.get_ident() not in heard_by
            assert model.submit(i).result(60) == 2 * i
            assert model(i) == 2 * i
        await ask(model, 100)

    asyncio.run(main())


def test_who_is_told_of_an_outcome_on_a_loop_must_not_wait_there(compiled: Compile) -> None:
    model = compiled("double")
    raised: list[str] = []

    def waits(_: object) -> None:
        try:
            model(1)
        except hr.WouldDeadlock as error:
            raised.append(type(error).__name__)

    async def main() -> None:
        await ask(model, 50)
        for i in range(50):
            future = model.submit(i)
            future.add_done_callback(waits)
            await future
        await ask(model, 50)

    asyncio.run(main())
    assert raised  # but where it was there already


def test_threads_and_loops_share_a_worker(compiled: Compile) -> None:
    model = compiled("double")
    right: list[bool] = []

    def calls() -> None:
        right.append(list(model.map(range(1000), window=20)) == [2 * i for i in range(1000)])

    def runs() -> None:
        asyncio.run(ask(model, 300))
        right.append(True)

    threads = [threading.Thread(target=target) for target in (calls, runs, calls, runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert right == [True] * 4


def test_nothing_is_left_of_loops_that_have_ended(compiled: Compile) -> None:
    model = compiled("double")
    asyncio.run(ask(model, 20))
    before = descriptors()
    for _ in range(5):
        asyncio.run(ask(model, 20))
        assert model(1) == 2
    assert sum(descriptors().values()) <= sum(before.values()) + 1  # the last one's ear
    model.close()
    assert sum(descriptors().values()) < sum(before.values())


def test_a_worker_that_dies_while_a_loop_listens_costs_its_own_request_alone(compiled: Compile) -> None:
    model = compiled("dies_if", idempotent=False)

    async def main() -> None:
        for _ in range(3):
            for i in range(50):
                assert await model.asubmit(i) == i
            with pytest.raises(hr.WorkerDied):
                await model.asubmit("die")

    asyncio.run(main())


def test_one_that_is_killed_between_two_requests_is_replaced_and_nothing_is_left(compiled: Compile) -> None:
    model = compiled("pid")

    async def main() -> None:
        held = []
        for _ in range(4):
            for _ in range(50):
                first = await model.asubmit(0)
            held.append(descriptors())
            os.kill(first, signal.SIGKILL)
            while await model.asubmit(0) == first:
                pass
        assert held[1:] == held[:-1]

    asyncio.run(main())


def test_rubbish_that_a_loop_hears_is_the_end_of_its_process(compiled: Compile) -> None:
    model = compiled("rubbish_if", idempotent=False)

    async def main() -> None:
        for i in range(50):
            assert await model.asubmit(i) == i
        with pytest.raises(hr.WorkerDied, match="no answer"):
            await model.asubmit("rubbish")
        assert await model.asubmit(1) == 1

    asyncio.run(main())
