"""Requests a stream has pulled several of, and that did not begin: put back, or gone."""

from typing import Any

import numpy as np
import pytest

from headrace.engine.guard import Guard
from headrace.model.batcher import Batcher
from headrace.model.instance import LocalInstance
from headrace.model.pending import Owner, Pending
from headrace.model.run import Requests, Run


class Nobody(Owner):
    name = "nobody's"

    def on_error(self, pending: Pending) -> None:
        pass


class Session:
    """Counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, inputs: tuple[Any, ...], names: tuple[str, ...] | None = None) -> list[Any]:
        self.runs += 1
        return [inputs[0] + 1]

    def close(self) -> None:
        pass


class Bench:
    def __init__(self, size: int, count: int) -> None:
        self.session, self.batcher, self.guard = Session(), Batcher(size), Guard()
        self.source = Requests(self.batcher, [LocalInstance(self.session, outputs=1)], "m")
        self.requests = [Pending(Nobody(), (np.full((1, 1), i),), self.guard) for i in range(count)]
        for each in self.requests:
            each.alike = "alike"
            self.batcher.add(each, 0.0)

    def pull(self) -> Run | Pending:
        work = self.source.pull(0.0, False, 0, [])
        assert work is not None
        return work

    def end(self, work: Run | Pending) -> None:
        work.run()
        with self.guard.lock:
            work.complete(1.0)
        work.deliver()


@pytest.mark.parametrize("size", [1, 4])
def test_one_that_was_cancelled_in_hand_is_not_run_and_its_end_is_counted(size: int) -> None:
    bench = Bench(size, 1)
    work = bench.pull()
    assert bench.requests[0].cancel()
    bench.end(work)
    counts = bench.batcher.counts
    assert bench.session.runs == 0
    assert counts.started == counts.completed + counts.failed == 1


@pytest.mark.parametrize("size", [1, 3])
def test_those_that_were_cancelled_in_hand_are_handed_back_and_the_others_wait_again(size: int) -> None:
    bench = Bench(size, 6)
    works = [bench.pull() for _ in range(6 // size)]
    for i in 1, 3, 4:
        assert bench.requests[i].cancel()
    gone = bench.source.put_back(works, 0.0)
    assert gone == [bench.requests[i] for i in (1, 3, 4)]
    for each in gone:
        with bench.guard.lock:
            each.complete(1.0)
        each.deliver()
        assert each.inputs == (), "it lets go of what it brought"
    while (work := bench.source.pull(2.0, False, 0, [])) is not None:
        bench.end(work)
    assert [bench.requests[i].result(0)[0].item() for i in (0, 2, 5)] == [1, 3, 6]
    counts = bench.batcher.counts
    assert counts.started == counts.completed + counts.failed == 6
    assert bench.session.runs == (3 if size == 1 else 1)
