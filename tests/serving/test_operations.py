"""Changes of models: on threads of their own, in order for one model, side by side for others, looked up afterwards."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import Closed, ModelNotFound, Overloaded, SourceNotFound
from headrace.serving.compile_options import CompileOptions
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.located import Located
from headrace.serving.management import Management
from headrace.serving.operations import DONE, FAILED, KEPT, RUNNING
from headrace.serving.registry import State
from headrace.serving.service import Service
from headrace.serving.sources import Sources
from headrace.serving.wanted import Wanted
from headrace.testing import Gate

PATIENCE = 30


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service(100, None)
    yield service
    assert service.stop(PATIENCE)


@pytest.fixture
def store(tmp_path: Path, add_one: Any) -> Path:
    store = tmp_path / "store"
    store.mkdir()
    add_one(store / "one.onnx")
    return store


@pytest.fixture
def management(service: Service, store: Path) -> Iterator[Management]:
    management = Management(Lifecycle(service, CompileOptions(), Sources(store)), threads=3, most_waiting=5)
    yield management
    assert management.close(PATIENCE)


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("headrace-management")]


def test_nothing_starts_before_something_is_asked_and_nothing_stays(service: Service) -> None:
    before = len(names())
    management = Management(Lifecycle(service, CompileOptions()))
    assert len(names()) == before
    management.begin("x", "m", None, lambda: None).future.result(PATIENCE)
    assert len(names()) == before + 1
    assert management.close(PATIENCE)
    assert not [name for name in names() if name not in names()[:before]]


def test_a_change_is_done_elsewhere_and_can_be_followed(management: Management) -> None:
    gate, where = Gate(), []
    operation = management.begin("x", "m", "1", lambda: (where.append(threading.current_thread().name), gate()))
    gate.wait()
    assert (operation.state, operation.ended) == (RUNNING, None)
    assert management.operations.find(operation.id) is operation
    gate.open()
    operation.future.result(PATIENCE)
    assert operation.state == DONE
    assert operation.ended is not None
    assert where[0].startswith("headrace-management")
    assert management.operations.find("nobody's") is None


def test_one_that_fails_says_so_and_keeps_no_frames(management: Management) -> None:
    def fail() -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error

    operation = management.begin("x", "m", "1", fail)
    with pytest.raises(ValueError, match="outer"):
        operation.future.result(PATIENCE)
    assert operation.state == FAILED
    assert isinstance(operation.error, ValueError)
    assert operation.error.__cause__ is not None
    assert operation.error.__cause__.__traceback__ is None
    with pytest.raises(ValueError, match="outer"):
        operation.known.result(PATIENCE)


def test_an_error_that_is_its_own_cause_is_an_error(management: Management) -> None:
    def fail() -> None:
        error = ValueError("round and round")
        error.__cause__ = error
        raise error

    with pytest.raises(ValueError, match="round"):
        management.begin("x", "m", "1", fail).future.result(PATIENCE)


def test_what_is_asked_of_one_model_is_done_in_order(management: Management) -> None:
    gate, did = Gate(), []
    first = management.begin("x", "m", None, lambda: (gate(), did.append(0)))
    others = [management.begin("x", "m", None, lambda i=i: did.append(i)) for i in range(1, 5)]
    gate.wait()
    assert did == []
    gate.open()
    for each in (first, *others):
        each.future.result(PATIENCE)
    assert did == [0, 1, 2, 3, 4]


def test_others_are_not_held_up_by_it(management: Management) -> None:
    gate = Gate()
    stuck = [management.begin("x", "m", None, gate) for _ in range(4)]
    gate.wait()
    management.begin("x", "other", None, lambda: None).future.result(PATIENCE)
    gate.open()
    for each in stuck:
        each.future.result(PATIENCE)


def test_what_waits_is_bounded(management: Management) -> None:
    gate = Gate()
    stuck = [management.begin("x", "m", None, gate)]
    gate.wait()
    stuck += [management.begin("x", "m", None, lambda: None) for _ in range(5)]
    with pytest.raises(Overloaded, match="changes of models"):
        management.begin("x", "m", None, lambda: None)
    gate.open()
    for each in stuck:
        each.future.result(PATIENCE)


def test_at_the_end_what_has_not_begun_is_refused_and_what_has_ends(service: Service) -> None:
    management, gate = Management(Lifecycle(service, CompileOptions())), Gate()
    running = management.begin("x", "m", None, gate)
    waiting = management.begin("x", "m", None, lambda: None)
    gate.wait()
    assert not management.close(0)
    with pytest.raises(Closed):
        waiting.future.result(PATIENCE)
    with pytest.raises(Closed):
        management.begin("x", "m", None, lambda: None)
    gate.open()
    assert management.close(PATIENCE)
    running.future.result(PATIENCE)


def test_a_bounded_number_is_kept_and_what_runs_is(management: Management) -> None:
    gate = Gate()
    running = management.begin("x", "stuck", None, gate)
    for _ in range(KEPT + 5):
        last = management.begin("x", "m", None, lambda: None)
        last.future.result(PATIENCE)
    kept = management.operations.newest_first()
    assert len(kept) == KEPT
    assert kept[0] is last
    assert management.operations.find(running.id) is running
    gate.open()


def test_nobody_who_stops_waiting_cancels_it(management: Management) -> None:
    gate = Gate()
    operation = management.begin("x", "m", None, gate)
    assert not operation.future.cancel()
    assert not operation.known.cancel()
    gate.open()
    operation.future.result(PATIENCE)


def test_a_model_comes_changes_and_goes(management: Management, service: Service) -> None:
    operation = management.register("one.onnx", workers=1, who="me")
    entry = operation.future.result(PATIENCE)
    assert (operation.model, operation.version, entry.state) == ("one", "1", State.READY)
    assert management.scale("one", min_workers=0).future.result(PATIENCE).state is State.REGISTERED
    assert management.load("one").future.result(PATIENCE).state is State.READY
    management.register("one.onnx", version="2").future.result(PATIENCE)
    management.set_default("one", "2").future.result(PATIENCE)
    management.unregister("one", "1").future.result(PATIENCE)
    management.unregister("one").future.result(PATIENCE)
    assert list(service.registry) == []


def test_register_is_known_before_it_is_loaded(management: Management, service: Service) -> None:
    gate = Gate()
    locate = management.lifecycle.sources.locate

    def slow(wanted: Any) -> Any:
        from dataclasses import replace

        located = locate(wanted)
        return replace(located, build=lambda name, options: (gate(), located.build(name, options))[1])

    management.lifecycle.sources.locate = slow  # type: ignore[method-assign]
    operation = management.register("one.onnx", workers=1)
    operation.known.result(PATIENCE)
    assert operation.state == RUNNING
    assert operation.model == "one"
    assert service.registry.find("one").state in (State.REGISTERED, State.LOADING)
    gate.open()
    assert operation.future.result(PATIENCE).state is State.READY


def test_what_is_in_the_store_is_loaded_by_its_name(management: Management) -> None:
    assert management.load("one").future.result(PATIENCE).state is State.READY
    assert management.unload("one").future.result(PATIENCE).state is State.REGISTERED
    with pytest.raises(ModelNotFound):
        management.unload("two").future.result(PATIENCE)


def test_what_was_unloaded_comes_back_as_it_was(management: Management) -> None:
    management.register("one.onnx", workers=1, max_workers=3).future.result(PATIENCE)
    for _ in range(2):
        management.unload("one").future.result(PATIENCE)
    assert management.registry.find("one").about.bounds == (0, 0)
    assert management.load("one").future.result(PATIENCE).about.bounds == (1, 3)
    management.scale("one", min_workers=0).future.result(PATIENCE)
    assert management.load("one").future.result(PATIENCE).about.bounds == (1, 3)
    management.register("one.onnx", name="never").future.result(PATIENCE)
    assert management.load("never").future.result(PATIENCE).about.bounds == (1, 1)


def test_callables_are_not_for_managers(management: Management) -> None:
    with pytest.raises(SourceNotFound, match="names code"):
        management.register("os:system", workers=1).future.result(PATIENCE)


def test_each_change_leaves_one_line(management: Management, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "headrace.management")
    management.register("one.onnx", who="10.0.0.1:5, request 7").future.result(PATIENCE)
    with pytest.raises(ModelNotFound):
        management.scale("two", min_workers=1, who="10.0.0.2:6").future.result(PATIENCE)
    lines = [record.getMessage() for record in caplog.records if record.name == "headrace.management"]
    assert len(lines) == 2
    assert lines[0].startswith("register one:1 ('one.onnx', 0 workers) by 10.0.0.1:5, request 7: done after ")
    assert lines[1].startswith("scale two:default (1 to 1 workers) by 10.0.0.2:6: failed after ")
    assert lines[1].endswith("model not found: two")


def test_many_loads_at_once_keep_nobody_from_another_change_and_end_with_the_server(
    service: Service, store: Path
) -> None:
    lifecycle = Lifecycle(service, CompileOptions(), Sources(store))
    management = Management(lifecycle)
    loading = Gate()

    class Slow(Sources):
        def locate(self, wanted: Wanted) -> Located:
            located = super().locate(wanted)
            return replace(located, build=lambda name, options: (loading(), located.build(name, options))[1])

    management.register("one.onnx", name="served", workers=1).future.result(PATIENCE)
    lifecycle.sources = Slow(store)
    loads = [management.register("one.onnx", name=f"m{i}", workers=1) for i in range(40)]
    for load in loads:
        load.known.result(PATIENCE)  # registered; one of them loads, the others wait for their turn
    loading.wait()
    management.set_default("served", "1").future.result(PATIENCE)
    closing = threading.Thread(target=management.close, args=(PATIENCE,))
    closing.start()
    lifecycle.stop()
    loading.open()
    closing.join(PATIENCE)
    ends = [type(load.future.exception(PATIENCE)).__name__ for load in loads]
    assert ends.count("NoneType") <= 1, "the one that was loading"
    assert set(ends) <= {"NoneType", "CannotLoad", "Closed"}
