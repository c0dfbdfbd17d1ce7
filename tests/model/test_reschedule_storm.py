"""Requests from threads, an event loop and `map`, some of them cancelled, while two threads change the scheduler all
the time: everybody is answered, once and rightly, and nothing stays behind."""

import asyncio
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

import headrace as hr
from headrace.engine.topology import made_up

PATIENCE = 60.0
SCHEDULES: list[dict[str, Any]] = [
    {"scheduler": "single_stream"},
    {"scheduler": "multi_stream"},
    {"scheduler": "multi_stream", "num_streams": 2},
    {"scheduler": "multi_stream", "num_streams": 2, "num_cores": 3},
    {"scheduler": "elastic"},
    {"scheduler": "elastic", "num_streams": 1},
]


def answer(x: int) -> int:
    return 2 * x + 1


def slow(x: int) -> int:
    return 2 * x + (sum(range(5000)) > 0)


def mixed(x: int) -> int:
    return slow(x) if x % 7 == 0 else answer(x)


def together(xs: list[int]) -> list[int]:
    return [answer(x) for x in xs]


CALLERS = 3
REQUESTS = 1000


@pytest.mark.parametrize(
    ("work", "batching"),
    [
        (answer, {}),
        (slow, {}),
        (mixed, {}),
        (together, {"max_batch_size": 4, "max_batch_delay": 0.001}),
        (answer, {"max_bytes": 1 << 20}),
    ],
    ids=["short", "long", "mixed", "batched", "bytes bounded"],
)
def test_a_storm_of_reschedules_loses_nothing(work: Callable[..., Any], batching: dict[str, Any]) -> None:
    bound = {"max_bytes": batching.pop("max_bytes")} if "max_bytes" in batching else {}
    engine = hr.Engine(topology=made_up(cores=4, nodes=2), **bound)
    model = hr.compile_model(work, engine=engine, name="storm", **batching)
    errors: list[BaseException] = []
    cancelled = [0]
    over = threading.Event()
    switches = [0, 0]

    def calls(number: int) -> None:
        for x in range(REQUESTS):
            assert model(x * CALLERS + number) == answer(x * CALLERS + number)

    def submits() -> None:
        rng = random.Random(0)
        for start in range(0, REQUESTS, 20):
            futures = [model.submit(start + x) for x in range(20)]
            for future in rng.sample(futures, 3):
                future.cancel()
            for x, future in enumerate(futures):
                if future.exception(PATIENCE) is None:
                    assert future.result() == answer(start + x)
                else:
                    assert future.cancelled()
                    cancelled[0] += 1

    def maps() -> None:
        assert list(model.map(range(REQUESTS))) == [answer(x) for x in range(REQUESTS)]

    def awaits() -> None:
        async def several(start: int) -> None:
            for x in range(start, REQUESTS, 16):
                assert await model.asubmit(x) == answer(x)

        async def main() -> None:
            await asyncio.gather(*(several(start) for start in range(16)))

        asyncio.run(main())

    def switches_again_and_again(number: int) -> None:
        rng = random.Random(number)
        while not over.is_set():
            asked = rng.choice(SCHEDULES)
            model.reschedule(**asked, timeout=rng.choice([None, 0.0]))
            switches[number] += 1

    def guarded(do: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                do()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    try:
        switching = [guarded(lambda n=n: switches_again_and_again(n)) for n in range(2)]  # type: ignore[misc]
        working = [guarded(lambda n=n: calls(n)) for n in range(CALLERS)]  # type: ignore[misc]
        working += [guarded(do) for do in (submits, maps, awaits)]
        for thread in working:
            thread.join(PATIENCE)
            assert not thread.is_alive(), engine.dump_state()
        over.set()
        for thread in switching:
            thread.join(PATIENCE)
            assert not thread.is_alive(), engine.dump_state()
        assert not errors, errors
        assert min(switches) > 3
        seen = model.statistics()
        assert seen.submitted == (CALLERS + 3) * REQUESTS
        assert seen.submitted == seen.completed + seen.cancelled
        assert seen.cancelled <= cancelled[0]
        assert (seen.failed, seen.refused, seen.late, seen.waiting, seen.running) == (0, 0, 0, 0, 0)
    finally:
        over.set()
        model.close(drain=False)
        statistics = engine.statistics()
        engine.close(timeout=PATIENCE)
    assert (statistics.ports, statistics.streams, statistics.cores_leased, statistics.budget.inside) == (0, 0, 0, 0)
    assert not [each for each in threading.enumerate() if each.name.startswith("headrace-storm")]
