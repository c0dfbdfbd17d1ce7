"""The number of workers follows the load while requests run. The clock is the test's; the workers are real."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import HeadraceError, InvalidOption
from headrace.serving.autoscaler import Autoscaler
from headrace.serving.compile_options import CompileOptions
from headrace.serving.counting import workers_of
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.scaling import LONG, Scaling
from headrace.serving.service import Service
from headrace.serving.wanted import Wanted
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
        autoscaler.settle()
    assert workers_of(entry) == 3, "all are waited for at the third look"
    assert [request.result(PATIENCE) for request in requests] == [[value] for value in range(40)]
    for _ in range(int(4 * LONG)):
        clock.advance(1.0)
        autoscaler.look()
        autoscaler.settle()
    assert workers_of(entry) == 1
    left = entry.served.model.workers[0]
    assert (left.pid, left.threads) == (first.pid, first.threads), "a step restarts nobody"
    assert workers_of(fixed) == 1
    lifecycle.scale("slow", min_workers=2, max_workers=2)
    assert not lifecycle.follow_load(entry, 1), "that is out of its bounds by now"
    assert workers_of(entry) == 2
    assert service.stop(PATIENCE)


def test_a_step_that_takes_long_holds_up_neither_others_nor_the_end(
    monkeypatch: pytest.MonkeyPatch, digits: Path, until: Callable[[Callable[[], object]], None]
) -> None:
    service, clock = Service(1000, None), FakeClock()
    lifecycle = Lifecycle(service, CompileOptions())
    for name in "one", "two":
        lifecycle.register(Wanted(name, str(digits)), min_workers=1, max_workers=2)
    gate, stepped = threading.Event(), []

    def follow(entry: Any, workers: int) -> bool:
        stepped.append(entry.name)
        if entry.name == "one":
            gate.wait()
        return False

    monkeypatch.setattr(lifecycle, "follow_load", follow)
    monkeypatch.setattr(Scaling, "wanted", lambda *_: 2)
    autoscaler = Autoscaler(lifecycle, clock.now)
    autoscaler.look()
    until(lambda: len(stepped) == 2)
    autoscaler.look()
    until(lambda: len(stepped) == 3)
    assert stepped.count("one") == 1, "its step still goes on"
    autoscaler.start()
    autoscaler.close()
    assert not autoscaler._thread.is_alive()
    gate.set()
    autoscaler.settle()
    assert service.stop(PATIENCE)


@pytest.mark.parametrize("wrong", [InvalidOption("no"), ZeroDivisionError("nobody thought of it")])
def test_what_could_not_be_done_is_tried_later_and_later(
    monkeypatch: pytest.MonkeyPatch, digits: Path, caplog: pytest.LogCaptureFixture, wrong: Exception
) -> None:
    service, clock = Service(1000, None), FakeClock()
    lifecycle = Lifecycle(service, CompileOptions())
    entry = lifecycle.register(Wanted("digits", str(digits)), min_workers=1, max_workers=2)

    def follow(entry: Any, workers: int) -> bool:
        raise wrong

    monkeypatch.setattr(lifecycle, "follow_load", follow)
    monkeypatch.setattr(Scaling, "wanted", lambda *_: 2)
    autoscaler = Autoscaler(lifecycle, clock.now)
    for _ in range(100):
        autoscaler.look()
        autoscaler.settle()
        clock.advance(1.0)
    assert [record.args[3] for record in caplog.records if "stays at" in record.msg] == [2, 4, 8, 16, 32, 60]
    assert any(record.exc_info for record in caplog.records) is not isinstance(wrong, HeadraceError)
    assert workers_of(entry) == 1
    assert service.stop(PATIENCE)


def test_a_model_in_this_process_grows_as_far_as_there_are_cores(digits: Path) -> None:
    service, clock = Service(1000, None), FakeClock()
    lifecycle = Lifecycle(service, CompileOptions(max_batch_size=1))
    entry = lifecycle.register(Wanted("digits", str(digits)), min_workers=1, max_workers=10_000)
    cores = len(entry.served.model.engine.cores)
    requests = [service.open("digits", None, 0) for _ in range(900)]
    autoscaler = Autoscaler(lifecycle, clock.now)
    for _ in range(3):
        clock.advance(1.0)
        autoscaler.look()
        autoscaler.settle()
    assert workers_of(entry) == min(cores, 256)
    for request in requests:
        service.refuse(request)
    assert service.stop(PATIENCE)


def test_its_thread_ends() -> None:
    service = Service(10, None)
    autoscaler = Autoscaler(Lifecycle(service, CompileOptions()))
    autoscaler.start()
    autoscaler.close()
    assert not autoscaler._thread.is_alive()
    assert service.stop(0)
