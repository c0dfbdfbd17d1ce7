"""One after the other, in order; who takes long holds up the others for a while only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.engine.ownership import default_engine
from headrace.serving.compile_options import CompileOptions
from headrace.serving.counting import workers_of
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.located import Located
from headrace.serving.looking import look
from headrace.serving.management import Management
from headrace.serving.one_by_one import ALONE, OneByOne, left
from headrace.serving.operations import RUNNING
from headrace.serving.registry import State
from headrace.serving.service import Service
from headrace.serving.settings import Settings
from headrace.serving.sources import Sources
from headrace.serving.wanted import Wanted
from headrace.testing import Gate

PATIENCE = 30
FOREVER = 1e6
Until = Callable[[Callable[[], object]], None]


def test_when_the_next_may_begin() -> None:
    assert left([], 100.0, 10.0, 2) == 0.0, "nobody has the turn"
    assert left([97.0], 100.0, 10.0, 2) == 7.0
    assert left([90.0], 100.0, 10.0, 2) == 0.0, "it has taken long"
    assert left([80.0, 97.0], 100.0, 10.0, 3) == 7.0, "so has not the one after it"
    assert left([80.0, 85.0], 100.0, 10.0, 2) is None, "there are as many as may be"


@pytest.mark.parametrize("most", [1, 3])
def test_so_many_at_once_and_in_order(until: Until, most: int) -> None:
    line, began, inside, gate = OneByOne(0.0, most), list[int](), threading.Semaphore(0), threading.Semaphore(0)

    def go(i: int) -> None:
        with line.turn():
            began.append(i)
            inside.release()
            assert gate.acquire(timeout=PATIENCE)

    threads = [threading.Thread(target=go, args=(i,)) for i in range(8)]
    for i, thread in enumerate(threads):
        thread.start()
        until(lambda i=i: len(line._since) + len(line._line) == i + 1)
    for _ in range(most):
        assert inside.acquire(timeout=PATIENCE)
    for ended in range(8):
        assert began == list(range(min(8, most + ended)))
        assert not inside.acquire(blocking=False)
        gate.release()
        if most + ended < 8:
            assert inside.acquire(timeout=PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
    assert (line._since, len(line._line)) == ({}, 0)


def test_one_that_takes_long_is_not_waited_for(until: Until) -> None:
    line, gate, second = OneByOne(0.001), Gate(), threading.Event()

    def first() -> None:
        with line.turn():
            gate()

    def another() -> None:
        with line.turn():
            second.set()

    threads = [threading.Thread(target=first), threading.Thread(target=another)]
    threads[0].start()
    gate.wait()
    threads[1].start()
    assert second.wait(PATIENCE)
    gate.open()
    for thread in threads:
        thread.join(PATIENCE)


def test_who_fails_in_its_turn_gives_it_on() -> None:
    line = OneByOne(FOREVER)
    with pytest.raises(ZeroDivisionError), line.turn():
        _ = 1 // 0
    with line.turn():
        pass


# ---- loads


class Slow(Sources):
    """What comes from `hangs.onnx` waits at a gate, and is what it was to be."""

    def __init__(self, store: Path) -> None:
        super().__init__(store)
        self.gate = Gate()

    def locate(self, wanted: Wanted) -> Located:
        located = super().locate(wanted)
        if not wanted.source.endswith("hangs.onnx"):
            return located
        return replace(located, build=lambda name, options: (self.gate(), located.build(name, options))[1])


@pytest.fixture
def store(tmp_path: Path, add_one: Any) -> Path:
    for name in "one", "hangs":
        add_one(tmp_path / f"{name}.onnx")
    return tmp_path


@pytest.fixture
def lifecycle(store: Path) -> Iterator[Lifecycle]:
    service = Service(100, None)
    yield Lifecycle(service, CompileOptions(), Slow(store))
    assert service.stop(PATIENCE)


@pytest.fixture
def management(lifecycle: Lifecycle) -> Iterator[Management]:
    management = Management(lifecycle)
    yield management
    lifecycle.sources.gate.open()  # type: ignore[attr-defined]
    assert management.close(PATIENCE)


def test_a_load_that_hangs_holds_up_nothing_but_loads(management: Management, lifecycle: Lifecycle) -> None:
    lifecycle._building.line = OneByOne(FOREVER)
    for version in "1", "2", "3":
        management.register("one.onnx", name="other", version=version, workers=1).future.result(PATIENCE)
    hangs = management.register("hangs.onnx", workers=1)
    lifecycle.sources.gate.wait()  # type: ignore[attr-defined]
    assert management.scale("other", "1", min_workers=1, max_workers=2).future.result(PATIENCE)
    assert management.scale("other", "1", min_workers=0).future.result(PATIENCE).state is State.REGISTERED
    assert management.change("other", "2", Settings(queue=3)).future.result(PATIENCE)
    assert management.set_default("other", "3").future.result(PATIENCE)
    assert management.unregister("other", "2").future.result(PATIENCE).state is State.UNLOADED
    assert management.register("one.onnx", name="known", workers=0).future.result(PATIENCE)
    service = lifecycle.service
    assert [look(entry, service).state for entry in service.registry.entries("other")] == [
        State.REGISTERED,
        State.READY,
    ]
    assert hangs.state == RUNNING
    waits = management.register("one.onnx", name="waits", workers=1)
    waits.known.result(PATIENCE)
    assert waits.state == RUNNING, "a load"
    lifecycle.sources.gate.open()  # type: ignore[attr-defined]
    assert waits.future.result(PATIENCE).state is State.READY


def test_a_load_that_hangs_holds_up_others_for_a_while_only(management: Management, lifecycle: Lifecycle) -> None:
    assert lifecycle._building.line._alone == ALONE
    lifecycle._building.line = OneByOne(0.01)
    seen: list[list[str]] = []
    lifecycle.on_change = lambda: seen.append([e.name for e in lifecycle.service.registry if e.about.is_complete])
    hangs = management.register("hangs.onnx", workers=1)
    lifecycle.sources.gate.wait()  # type: ignore[attr-defined]
    same = management.scale("hangs", min_workers=0)  # asked after it, of the same model
    assert management.register("one.onnx", workers=1).future.result(PATIENCE).state is State.READY
    assert (hangs.state, same.state) == (RUNNING, RUNNING)
    assert seen == [["one"]], "what is half done is in no snapshot"
    lifecycle.sources.gate.open()  # type: ignore[attr-defined]
    assert hangs.future.result(PATIENCE)
    assert same.future.result(PATIENCE).state is State.REGISTERED


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_many_loads_beside_each_other_are_each_what_was_asked_for(
    management: Management, lifecycle: Lifecycle, isolation: Any
) -> None:
    lifecycle._building.line = OneByOne(0.0)
    options = replace(lifecycle.options, isolation=isolation)
    count = 16 if isolation == "thread" else 6
    workers = [min(1 + i % 2, len(default_engine().cores)) for i in range(count)]
    loads = [
        management.register("one.onnx", name=f"m{i}", workers=workers[i], max_workers=2, options=options)
        for i in range(count)
    ]
    for i, load in enumerate(loads):
        entry = load.future.result(PATIENCE)
        assert (entry.name, entry.state, workers_of(entry)) == (f"m{i}", State.READY, workers[i])
    gone = [management.unregister(f"m{i}") for i in range(count)]
    for each in gone:
        each.future.result(PATIENCE)
    assert list(lifecycle.service.registry) == []
