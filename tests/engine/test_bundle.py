"""Several short runs in one: whoever takes something out of a bundle has it alone, at any moment.

What streams and the engine do with bundles is in `test_turns`, step by step.
"""

import logging
import threading
from collections import Counter

import pytest

from headrace.engine.bundle import Bundle
from headrace.engine.future import Future
from headrace.testing import Gate

PATIENCE = 30.0


class Step:
    name = "step"

    def __init__(self, happened: list[tuple[str, int]], index: int, gate: Gate | None = None) -> None:
        self.happened, self.index, self.gate = happened, index, gate
        self.future: Future[int] = Future()

    def futures(self) -> list[Future[int]]:
        return [self.future]

    def run(self) -> None:
        if self.gate is not None:
            self.gate()
        self.happened.append(("run", self.index))

    def complete(self, now: float) -> None:
        self.happened.append(("complete", self.index))

    def deliver(self) -> None:
        self.happened.append(("deliver", self.index))
        if self.index == 1:
            raise SystemExit("it cannot be told")


def test_all_are_run_then_completed_then_delivered_each_once_and_in_order(caplog: pytest.LogCaptureFixture) -> None:
    happened: list[tuple[str, int]] = []
    bundle = Bundle(Step(happened, i) for i in range(3))
    bundle.run()
    bundle.complete(0.0)
    with caplog.at_level(logging.CRITICAL, "headrace.engine"):
        bundle.deliver()
    assert happened == [(what, i) for what in ("run", "complete", "deliver") for i in range(3)]
    bundle.complete(0.0)
    bundle.deliver()
    assert len(happened) == 9


def test_what_runs_is_named_first_and_what_is_in_hand_is_told(caplog: pytest.LogCaptureFixture) -> None:
    happened: list[tuple[str, int]] = []
    gate = Gate()
    steps = [Step(happened, 0), Step(happened, 1, gate), Step(happened, 2)]
    bundle = Bundle(steps)
    thread = threading.Thread(target=bundle.run)
    thread.start()
    gate.wait()
    assert [*bundle.futures()] == [steps[i].future for i in (1, 0, 2)]
    assert bundle.name == "step"
    gate.open()
    thread.join(PATIENCE)
    assert {*bundle.futures()} == {step.future for step in steps}
    bundle.complete(0.0)
    assert (bundle.name, [*bundle.futures()]) == ("nothing more", [])


@pytest.mark.parametrize("seed", range(5))
def test_whoever_takes_back_and_whoever_runs_share_them_out(seed: int) -> None:
    """Threads that meet in the middle, many times over."""
    total: Counter[str] = Counter()
    for _ in range(200):
        happened: list[tuple[str, int]] = []
        steps = [Step(happened, i) for i in range(20)]
        bundle = Bundle(steps)
        taken: list[Step] = []
        thread = threading.Thread(target=lambda b=bundle, t=taken: t.extend(b.take_back()))  # type: ignore[misc]
        thread.start()
        bundle.run()
        thread.join(PATIENCE)
        settled = bundle.settle(0.0)
        assert [*settled, *taken] == steps, "each once: the first ones were run, the last ones taken back"
        total["ran"] += len(settled)
        total["taken"] += len(taken)
    assert total["ran"] + total["taken"] == 4000
