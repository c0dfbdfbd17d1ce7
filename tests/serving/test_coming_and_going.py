"""Models come, change and go while requests run: nothing is lost, and what fails leaves everything as it was."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import (
    AlreadyRegistered,
    Closed,
    InvalidModel,
    InvalidOption,
    IsDefaultVersion,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    StillBusy,
)
from headrace.serving.compile_options import CompileOptions
from headrace.serving.counting import workers_of
from headrace.serving.inflight import InFlight
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.located import Built, Located
from headrace.serving.registry import State
from headrace.serving.service import Service
from headrace.serving.settings import Settings
from headrace.serving.sources import Sources
from headrace.serving.wanted import Wanted
from headrace.testing import Gate

PATIENCE = 30
Until = Callable[[Callable[[], object]], None]


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service(10_000, None)
    yield service
    assert service.stop(PATIENCE)


class Shelf(Sources):
    """Sources of the test's own: `name:version` is a callable that the test has put there."""

    def __init__(self) -> None:
        super().__init__()
        self.callables: dict[str, Any] = {}
        self.closed: list[str] = []

    def locate(self, wanted: Wanted) -> Located:
        import headrace as hr

        name, _, version = wanted.source.partition("@")

        def build(name: str, options: CompileOptions) -> Built:
            function = self.callables[wanted.source]
            if isinstance(function, Exception):
                raise function
            return Built(hr.compile_model(function, name=name))

        return Located(name, version, build, lambda: self.closed.append(wanted.source))


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def lifecycle(service: Service, shelf: Shelf) -> Lifecycle:
    lifecycle = Lifecycle(service, CompileOptions())
    lifecycle.sources = shelf
    return lifecycle


def send(service: Service, value: Any, name: str = "cat", version: str | None = None) -> InFlight:
    request = service.open(name, version, 0)
    service.start(request, (value,), lambda _: None)
    return request


def put(lifecycle: Lifecycle, source: str, function: Any, **options: Any) -> Any:
    assert isinstance(lifecycle.sources, Shelf)
    lifecycle.sources.callables[source] = function
    return lifecycle.register(Wanted(None, source), **{"min_workers": 1, **options})


# ---- comes


def test_a_model_registered_without_workers_is_known_and_takes_no_requests(
    service: Service, lifecycle: Lifecycle
) -> None:
    entry = put(lifecycle, "cat@1", lambda x: x, min_workers=0)
    assert (entry.state, entry.served, workers_of(entry)) == (State.REGISTERED, None, 0)
    with pytest.raises(ModelNotReady, match="REGISTERED"):
        send(service, 1)
    assert service.registry.is_healthy()
    lifecycle.scale("cat", min_workers=1)
    assert entry.state is State.READY
    assert send(service, 5).result(PATIENCE) == [5]


def test_a_load_that_fails_leaves_nothing_and_says_why(service: Service, lifecycle: Lifecycle, shelf: Shelf) -> None:
    put(lifecycle, "cat@1", lambda x: x)
    with pytest.raises(InvalidModel, match="no such weights"):
        put(lifecycle, "cat@2", InvalidModel("no such weights"))
    assert service.registry.versions("cat") == ["1"]
    assert [(each.name, each.version, each.reason) for each in lifecycle.failures] == [("cat", "2", "no such weights")]
    assert shelf.closed == ["cat@2"]
    assert send(service, 1).result(PATIENCE) == [1]
    put(lifecycle, "cat@2", lambda x: -x)
    assert list(lifecycle.failures) == []


def test_what_is_registered_already_stays_and_what_was_opened_for_the_other_goes(
    service: Service, lifecycle: Lifecycle, shelf: Shelf
) -> None:
    put(lifecycle, "cat@1", lambda x: x)
    with pytest.raises(AlreadyRegistered):
        put(lifecycle, "cat@1", lambda x: -x)
    assert shelf.closed == ["cat@1"]
    assert send(service, 1).result(PATIENCE) == [1]


def test_a_name_that_cannot_be_one_leaves_nothing(service: Service, lifecycle: Lifecycle, shelf: Shelf) -> None:
    with pytest.raises(InvalidOption, match="cannot be the name"):
        put(lifecycle, "a cat@1", lambda x: x)
    assert (list(service.registry), shelf.closed) == ([], ["a cat@1"])


@pytest.mark.parametrize(("low", "high"), [(-1, None), (2, 1), (0, -1)])
def test_workers_that_cannot_be_are_refused_before_anything_changes(
    service: Service, lifecycle: Lifecycle, low: int, high: int | None
) -> None:
    entry = put(lifecycle, "cat@1", lambda x: x)
    with pytest.raises(InvalidOption):
        lifecycle.scale("cat", min_workers=low, max_workers=high)
    assert (entry.state, workers_of(entry)) == (State.READY, 1)


# ---- goes


def test_unload_waits_for_those_inside_and_takes_no_more(
    service: Service, lifecycle: Lifecycle, shelf: Shelf, until: Until
) -> None:
    gate = Gate()
    entry = put(lifecycle, "cat@1", lambda x: gate() or x)
    running, coming = send(service, 1), service.open("cat", None, 0)  # one whose body has not come
    gate.wait()
    unloading = threading.Thread(target=lifecycle.unload, args=("cat",))
    unloading.start()
    until(lambda: entry.state is State.DRAINING)
    with pytest.raises(ModelNotReady, match="DRAINING"):
        send(service, 2)
    service.start(coming, (3,), lambda _: None)
    gate.open()
    unloading.join(PATIENCE)
    assert (running.result(PATIENCE), coming.result(PATIENCE)) == ([1], [3])
    assert (entry.state, entry.served, shelf.closed) == (State.UNLOADED, None, ["cat@1"])
    with pytest.raises(ModelNotFound):
        send(service, 4)


def test_who_does_not_end_in_time_is_served_on(service: Service, lifecycle: Lifecycle, shelf: Shelf) -> None:
    gate = Gate()
    entry = put(lifecycle, "cat@1", lambda x: gate() or x)
    running = send(service, 1)
    gate.wait()
    with pytest.raises(StillBusy, match="Timed out while cleaning resources: cat"):
        lifecycle.unload("cat", timeout=0.01)
    assert (entry.state, shelf.closed) == (State.READY, [])
    after = send(service, 2)
    gate.open()
    assert (running.result(PATIENCE), after.result(PATIENCE)) == ([1], [2])
    lifecycle.unload("cat")
    assert list(service.registry) == []


def test_a_request_that_is_cancelled_or_refused_does_not_keep_a_model(service: Service, lifecycle: Lifecycle) -> None:
    put(lifecycle, "cat@1", lambda x: 1 // x)
    failed = send(service, 0)
    service.refuse(service.open("cat", None, 0))
    service.open("cat", None, 0).depart()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        failed.result(PATIENCE)
    lifecycle.unload("cat", timeout=PATIENCE)


def test_the_default_goes_last(service: Service, lifecycle: Lifecycle) -> None:
    put(lifecycle, "cat@1", lambda x: 1)
    put(lifecycle, "cat@2", lambda x: 2)
    with pytest.raises(IsDefaultVersion):
        lifecycle.unload("cat")
    assert send(service, 0).result(PATIENCE) == [1]
    lifecycle.set_default("cat", "2")
    assert send(service, 0).result(PATIENCE) == [2]
    lifecycle.unload("cat", "1")
    assert send(service, 0).result(PATIENCE) == [2]
    lifecycle.unload("cat")
    with pytest.raises(ModelNotFound):
        lifecycle.unload("cat")


def test_scaling_to_none_parks_a_model_and_back(service: Service, lifecycle: Lifecycle, shelf: Shelf) -> None:
    entry = put(lifecycle, "cat@1", lambda x: x)
    lifecycle.scale("cat", min_workers=0)
    assert (entry.state, entry.served, shelf.closed) == (State.REGISTERED, None, [])
    lifecycle.scale("cat", min_workers=0)
    lifecycle.scale("cat", min_workers=1)
    assert send(service, 5).result(PATIENCE) == [5]


def test_a_parked_model_that_cannot_be_loaded_again_stays_parked_and_says_why(
    service: Service, lifecycle: Lifecycle, shelf: Shelf
) -> None:
    entry = put(lifecycle, "cat@1", lambda x: x, min_workers=0)
    shelf.callables["cat@1"] = InvalidModel("gone")
    with pytest.raises(InvalidModel):
        lifecycle.scale("cat", min_workers=1)
    assert (entry.state, entry.reason, service.registry.is_healthy()) == (State.REGISTERED, "gone", True)
    assert entry.about.bounds == (0, 0)
    lifecycle.scale("cat", min_workers=0)
    assert (entry.state, entry.reason, service.registry.is_healthy()) == (State.REGISTERED, "gone", True)
    shelf.callables["cat@1"] = lambda x: x
    lifecycle.scale("cat", min_workers=1)
    assert entry.reason is None
    assert send(service, 5).result(PATIENCE) == [5]


def test_a_model_in_this_process_has_streams_for_workers(service: Service, tmp_path: Path, add_one: Any) -> None:
    add_one(tmp_path / "plus.onnx")
    lifecycle = Lifecycle(service, CompileOptions(), tmp_path)
    entry = lifecycle.register(Wanted("plus", "plus.onnx"), min_workers=1)
    cores = len(entry.served.model.engine.cores)  # type: ignore[union-attr]
    if cores > 1:
        lifecycle.scale("plus", min_workers=2)
        assert (workers_of(entry), entry.served.model.scheduler) == (2, "multi_stream")  # type: ignore[union-attr]
    with pytest.raises(InvalidOption):
        lifecycle.scale("plus", min_workers=cores + 1)
    lifecycle.scale("plus", min_workers=1)
    assert (workers_of(entry), entry.served.model.scheduler) == (1, "single_stream")  # type: ignore[union-attr]
    with pytest.raises(InvalidOption):
        lifecycle.register(Wanted("more", "plus.onnx"), min_workers=cores + 1)
    assert service.registry.versions("plus") == ["1"]
    with pytest.raises(ModelNotFound):
        service.registry.find("more")


def test_worker_processes_are_scaled_parked_and_unloaded(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "comes_and_goes.py").write_text("import os\ndef pid(x): return os.getpid()\n")
    lifecycle = Lifecycle(service, CompileOptions(isolation="process"))
    entry = lifecycle.register(Wanted("pid", "comes_and_goes:pid"), min_workers=1)
    first = send(service, 0, "pid").result(PATIENCE)[0]
    lifecycle.scale("pid", min_workers=2)
    assert workers_of(entry) == 2
    lifecycle.scale("pid", min_workers=1, max_workers=2)
    assert workers_of(entry) == 2, "it is within the bounds, and stays"
    lifecycle.scale("pid", min_workers=0)
    lifecycle.scale("pid", min_workers=1)
    assert send(service, 0, "pid").result(PATIENCE)[0] != first
    lifecycle.unload("pid")
    assert not Path(f"/proc/{first}").exists()


# ---- all at once


def test_while_a_version_is_replaced_each_request_has_an_answer_of_one_or_the_other(
    service: Service, lifecycle: Lifecycle
) -> None:
    put(lifecycle, "cat@0", lambda x: (x, 0))
    stop = threading.Event()
    answers: list[tuple[int, int]] = []
    wrong: list[BaseException] = []

    def ask() -> None:
        i = 0
        while not stop.is_set():
            i += 1
            try:
                value, version = send(service, i).result(PATIENCE)[0]
                assert value == i
                answers.append((i, version))
            except BaseException as error:
                wrong.append(error)
                return

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for version in range(1, 30):
        put(lifecycle, f"cat@{version}", lambda x, version=version: (x, version))
        lifecycle.set_default("cat", str(version))
        lifecycle.unload("cat", str(version - 1))
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert wrong == []
    assert len(answers) > 100
    assert service.registry.versions("cat") == ["29"]


@pytest.mark.parametrize("seed", range(3))
def test_managers_at_once_are_ordered_and_every_request_has_an_end(
    service: Service, lifecycle: Lifecycle, shelf: Shelf, seed: int
) -> None:
    names = ("cat", "dog")
    for name in names:
        for version in "123":
            shelf.callables[f"{name}@{version}"] = lambda x: x
    expected = (AlreadyRegistered, ModelNotFound, IsDefaultVersion, StillBusy)
    wrong: list[BaseException] = []
    stop = threading.Event()

    def manage(number: int) -> None:
        random_ = random.Random(seed * 100 + number)
        for _ in range(40):
            name, version = random_.choice(names), random_.choice("123")
            try:
                match random_.randrange(5):
                    case 0 | 1:
                        lifecycle.register(Wanted(None, f"{name}@{version}"), min_workers=random_.randrange(2))
                    case 2:
                        lifecycle.unload(name, random_.choice((None, version)), timeout=PATIENCE)
                    case 3:
                        lifecycle.scale(name, version, min_workers=random_.randrange(2), timeout=PATIENCE)
                    case 4:
                        lifecycle.set_default(name, version)
            except expected:
                pass
            except BaseException as error:
                wrong.append(error)

    def ask(number: int) -> None:
        while not stop.is_set():
            try:
                assert send(service, number, names[number % 2]).result(PATIENCE) == [number]
            except (ModelNotFound, ModelNotReady, Closed):
                time.sleep(0)
            except BaseException as error:
                wrong.append(error)
                return

    managers = [threading.Thread(target=manage, args=(number,)) for number in range(4)]
    askers = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in (*managers, *askers):
        thread.start()
    for thread in managers:
        thread.join(4 * PATIENCE)
    stop.set()
    for thread in askers:
        thread.join(PATIENCE)
    assert wrong == []
    for entry in service.registry:
        assert entry.state in (State.REGISTERED, State.READY)
        assert (entry.served is not None) == (entry.state is State.READY)
    assert len(lifecycle._turns) == 0


# ---- changes of settings


def test_settings_change_without_a_pause_and_say_what_they_were(service: Service, lifecycle: Lifecycle) -> None:
    entry = put(lifecycle, "cat@1", lambda x: x)
    changed = lifecycle.change("cat", None, Settings(max_batch_delay=0.25, queue=3))
    assert changed.entry is entry
    assert changed.settings == {"max_batch_delay": (0.0, 0.25), "queue": (None, 3)}
    assert entry.served.model.max_batch_delay == 0.25
    assert (entry.about.options.max_batch_delay, entry.about.options.queue) == (0.25, 3)


def test_a_model_has_a_bound_of_its_own_on_what_is_inside(service: Service, lifecycle: Lifecycle) -> None:
    gate = Gate()
    put(lifecycle, "cat@1", lambda x: gate() or x)
    put(lifecycle, "dog@1", lambda x: x)
    lifecycle.change("cat", None, Settings(queue=2))
    inside = [send(service, 1), send(service, 2)]
    with pytest.raises(Overloaded, match="2 requests to this model are inside"):
        send(service, 3)
    other = send(service, 4, "dog")
    lifecycle.change("cat", None, Settings(queue=3))
    inside.append(send(service, 5))
    gate.open()
    assert [request.result(PATIENCE)[0] for request in (*inside, other)] == [1, 2, 5, 4]
    send(service, 6).result(PATIENCE)


def test_a_setting_that_cannot_be_changes_nothing(service: Service, lifecycle: Lifecycle) -> None:
    entry = put(lifecycle, "cat@1", lambda x: x)
    before = entry.about
    for wrong in (
        {"queue": 0},
        {"max_batch_size": 0},
        {"max_batch_size": 4},
        {"response_timeout": 5.0},
        {"max_batch_delay": -1},
    ):
        with pytest.raises(InvalidOption):
            lifecycle.change("cat", None, Settings(**{"queue": 7, **wrong}))
        assert (entry.about, entry.served.group.limit) == (before, None)
    with pytest.raises(ModelNotFound):
        lifecycle.change("dog", None, Settings(queue=1))


def test_what_is_changed_while_it_has_no_workers_holds_when_it_has(service: Service, lifecycle: Lifecycle) -> None:
    entry = put(lifecycle, "cat@1", lambda x: x, min_workers=0)
    lifecycle.change("cat", None, Settings(queue=9))
    lifecycle.scale("cat", min_workers=1)
    assert entry.served.group.limit == 9
