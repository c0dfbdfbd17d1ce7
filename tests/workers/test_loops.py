"""An event loop sends to a worker and hears its answers itself; whatever becomes of the loop, nobody waits for it."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from worker_watching import descriptors, reached

import headrace as hr
from headrace.workers.connection import Connection
from headrace.workers.watch import Watch

Compile = Callable[..., hr.Model]


async def ask(model: hr.Model, count: int) -> None:
    async with asyncio.timeout(20):
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

    threads = [threading.Thread(target=target, daemon=True) for target in (calls, runs, calls, runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not [thread for thread in threads if thread.is_alive()], "somebody waits for ever"
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
            async with asyncio.timeout(20):
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


# ---- who sends


@pytest.fixture
def sent_by(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads that sent something to a process, one after the other."""
    threads: list[int] = []
    send = Connection.send

    def watched(self: Connection, data: bytes) -> None:
        threads.append(threading.get_ident())
        send(self, data)

    monkeypatch.setattr(Connection, "send", watched)
    return threads


def test_a_thread_sends_to_an_idle_worker_itself(compiled: Compile, sent_by: list[int]) -> None:
    model = compiled("double")
    seen: list[tuple[int, int]] = []

    def calls() -> None:
        model(0)
        sent_by.clear()
        for i in range(200):
            assert model(i) == 2 * i
        seen.append((sent_by.count(threading.get_ident()), len(sent_by)))

    caller = threading.Thread(target=calls)
    caller.start()
    caller.join(20)
    ((by_caller, all_sent),) = seen
    assert all_sent == 200  # each once
    assert by_caller > 0  # but where the worker's thread was awake still


def test_what_lies_behind_a_long_run_that_a_loop_sent_is_looked_at_soon(
    compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's thread sleeps, with nothing in hand, when a loop sends something: it has to be woken."""
    monkeypatch.setattr("headrace.workers.watch.IDLE", 1000.0)
    monkeypatch.setattr("headrace.workers.hearing.DEAF", 0.0)
    asleep: dict[int, float] = {}
    patience = Watch.patience

    def watched(self: Watch) -> float:
        asleep[threading.get_ident()] = seconds = patience(self)
        return seconds

    monkeypatch.setattr(Watch, "patience", watched)
    model = compiled("gate_if", workers=2)

    async def main() -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*map(model.asubmit, range(2000)))  # runs are short, and many are sent ahead
            for i in range(100):
                await model.asubmit(i)  # one by one: a loop sends and hears
            while list(asleep.values()) != [1000.0] * 2:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.001)
        long = asyncio.ensure_future(model.asubmit(str(tmp_path)))
        others = [asyncio.ensure_future(model.asubmit(i)) for i in range(300)]
        _, waiting = await asyncio.wait(others, timeout=10)
        assert not waiting, f"{len(waiting)} wait behind the long one"
        assert [other.result() for other in others] == list(range(300))
        reached(tmp_path)
        assert not long.done()
        (tmp_path / "open").touch()
        await long

    asyncio.run(main())
