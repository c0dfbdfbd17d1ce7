"""What statistics say of times agrees with what they say of numbers: L = lambda W, over any span that ends empty."""

import random

import pytest

from headrace.engine.guard import Guard
from headrace.engine.source import Refused
from headrace.model.batcher import Batcher
from headrace.model.pending import Owner, Pending


class Nobody(Owner):
    name = "nobody"

    def on_error(self, pending: Pending) -> None:
        pass


@pytest.mark.parametrize("max_batch_size", [1, 4])
@pytest.mark.parametrize("seed", range(5))
def test_the_seconds_all_have_waited_are_the_sum_over_time_of_how_many_waited(seed: int, max_batch_size: int) -> None:
    rng, guard, owner = random.Random(seed), Guard(), Nobody()
    batcher = Batcher(max_batch_size)
    now = area = 0.0
    running: list[tuple[float, list[Pending]]] = []
    refused: Refused = []
    arrivals = sorted(rng.uniform(0, 10) for _ in range(300))
    while arrivals or running or len(batcher):
        ends = min((end for end, _ in running), default=float("inf"))
        step = min(ends, arrivals[0] if arrivals else float("inf"))
        area += (step - now) * len(batcher)
        now = step
        if arrivals and arrivals[0] == now:
            arrivals.pop(0)
            batcher.add(Pending(owner, (), guard), now)
        for end, batch in [each for each in running if each[0] == now]:
            running.remove((end, batch))
            batcher.ended(batch, now)
        while len(running) < 2 and (batch := batcher.pull(now, bool(running), refused)):
            running.append((now + rng.uniform(0.01, 0.1), batch))
    assert not refused
    assert batcher.counts.queue_seconds == pytest.approx(area, rel=1e-9), f"seed {seed}"
    assert batcher.counts.submitted == batcher.counts.completed == 300
