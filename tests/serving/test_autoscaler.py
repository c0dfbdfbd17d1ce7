"""The number of workers follows the load while requests run. The clock is the test's; the workers are real."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from headrace.serving.autoscaler import Autoscaler
from headrace.serving.lifecycle import Lifecycle, workers_of
from headrace.serving.scaling import LONG
from headrace.serving.service import Service
from headrace.serving.sources import CompileOptions, Wanted
from headrace.testing import FakeClock

PATIENCE = 30


def test_workers_come_with_the_load_and_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "autoscaled.py").write_text("import time\ndef slow(x): time.sleep(0.05); return x\n")
    service, clock = Service(1000, None), FakeClock()
    lifecycle = Lifecycle(service, CompileOptions(isolation="process"))
    entry = lifecycle.register(Wanted("slow", "autoscaled:slow"), min_workers=1, max_workers=3)
    fixed = lifecycle.register(Wanted("fixed", "autoscaled:slow"), min_workers=1)
    autoscaler = Autoscaler(lifecycle, clock.now)
    first = entry.served.model.workers[0]
    requests = []
    for value in range(40):
        request = service.open("slow", None, 0)
        service.start(request, (value,), lambda _: None)
        requests.append(request)
    for _ in range(3):
        clock.advance(1.0)
        autoscaler.look()
    assert workers_of(entry) == 3, "all are waited for at the third look"
    assert [request.result(PATIENCE) for request in requests] == [[value] for value in range(40)]
    for _ in range(int(4 * LONG)):
        clock.advance(1.0)
        autoscaler.look()
    assert workers_of(entry) == 1
    left = entry.served.model.workers[0]
    assert (left.pid, left.threads) == (first.pid, first.threads), "a step restarts nobody"
    assert workers_of(fixed) == 1
    lifecycle.scale("slow", min_workers=2, max_workers=2)
    assert not lifecycle.follow_load(entry, 1), "that is out of its bounds by now"
    assert workers_of(entry) == 2
    assert service.stop(PATIENCE)


def test_its_thread_ends() -> None:
    service = Service(10, None)
    autoscaler = Autoscaler(Lifecycle(service, CompileOptions()))
    autoscaler.start()
    autoscaler.close()
    assert not autoscaler._thread.is_alive()
    assert service.stop(0)
