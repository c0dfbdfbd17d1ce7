"""A random storm on the data plane: whatever happens, each request ends exactly once and the budget ends at 0."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

import headrace as hr
from headrace.errors import BackendError, Closed, Overloaded
from headrace.serving.inflight import InFlight
from headrace.serving.registry import State
from headrace.serving.served import Served
from headrace.serving.service import Service

CLIENTS = 60
REQUESTS = 8


class Failure(Exception):
    pass


def answer_to(x: int) -> int:
    if x % 5 == 0:
        raise Failure(x)
    return x * x


def answers_to(xs: list[int]) -> list[int]:
    return [answer_to(x) for x in xs]


class Storm:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        rng = self.rng
        size = rng.choice([1, 1, 3, 16])
        model = hr.compile_model(
            answer_to if size == 1 else answers_to,
            scheduler=rng.choice(["single_stream", "multi_stream"]),
            max_batch_size=size,
            max_batch_delay=rng.choice([0.0, 0.001]),
            name="storm",
        )
        self.service = Service(max_requests=rng.choice([3, 20, 200]), max_bytes=rng.choice([None, 2000]))
        self.entry = self.service.registry.add("storm", "1")
        self.entry.state, self.entry.served = State.READY, Served("storm", "1", model)
        self.close_after = rng.randrange(CLIENTS * REQUESTS)
        self.opened = 0
        self.ends: Counter[str] = Counter()
        self.delivered: Counter[InFlight] = Counter()
        self.departed: set[InFlight] = set()

    async def run(self) -> None:
        await asyncio.gather(*(self.client(number) for number in range(CLIENTS)))

    async def client(self, number: int) -> None:
        for turn in range(REQUESTS):
            x = number * REQUESTS + turn
            await self.pause()
            self.opened += 1
            if self.opened == self.close_after:
                await self.close_in_the_middle()
            try:
                request = self.service.open("storm", None, self.rng.randrange(100))
            except Overloaded:
                self.ends["overloaded"] += 1
                continue
            self.ends[await self.go_on(request, x)] += 1

    async def go_on(self, request: InFlight, x: int) -> str:
        """One request that has been opened: how it ended."""
        await self.pause()
        fate = self.rng.random()
        if fate < 0.1:
            self.service.refuse(request)
            return "refused"
        if fate < 0.2:
            request.depart()
            return "departed while it came in"
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def deliver(settled: InFlight) -> None:
            self.delivered[settled] += 1  # on the thread that settles it
            loop.call_soon_threadsafe(arrived.set)

        self.service.start(request, (x,), deliver)
        if fate < 0.5:
            await self.pause()
            request.depart()
            self.departed.add(request)
            return "departed"
        async with asyncio.timeout(30):
            await arrived.wait()
        return self.judge(request, x)

    def judge(self, request: InFlight, x: int) -> str:
        error = request.exception(0)
        if isinstance(error, Closed):
            return "closed"
        if error is None:
            assert request.result() == [answer_to(x)]
            return "answered"
        assert isinstance(error, BackendError), error
        assert isinstance(error.__cause__, Failure)
        assert error.__cause__.args == (x,)
        return "failed"

    async def close_in_the_middle(self) -> None:
        assert self.entry.served is not None
        await asyncio.to_thread(self.entry.served.model.close, drain=self.rng.random() < 0.5)

    async def pause(self) -> None:
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)  # a turn of the loop, no time


@pytest.mark.parametrize("seed", range(20))
def test_every_request_ends_exactly_once_and_nobody_stays_inside(seed: int) -> None:
    storm = Storm(seed)
    asyncio.run(storm.run())
    assert storm.service.stop(30), storm.service.statistics()
    assert sum(storm.ends.values()) == CLIENTS * REQUESTS
    assert set(storm.delivered.values()) <= {1}
    heard = sum(storm.ends[end] for end in ("answered", "failed", "closed"))
    assert len(set(storm.delivered) - storm.departed) == heard
    found = storm.service.statistics()
    assert (found.inside, found.nbytes, found.waiting) == (0, 0, 0)
    assert storm.ends["answered"] + storm.ends["closed"] + storm.ends["overloaded"] > 0
    hr.waitall(30)
