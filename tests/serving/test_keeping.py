"""What is served is kept on disk, and comes back; the same version is loaded once more; a store is watched."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.archives.store import Store
from headrace.errors import HeadraceError, InvalidModel, InvalidOption, ModelNotFound
from headrace.serving.compile_options import CompileOptions
from headrace.serving.counting import workers_of
from headrace.serving.inflight import InFlight
from headrace.serving.keeping import Keeping
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.looking import look
from headrace.serving.management import Management
from headrace.serving.priorities import Priorities
from headrace.serving.registry import State
from headrace.serving.service import Service
from headrace.serving.settings import Settings
from headrace.serving.sources import Sources
from headrace.serving.wanted import Wanted
from headrace.serving.watcher import Watcher
from headrace.testing import make_archive

PATIENCE = 30
AddOne = Callable[..., None]


@pytest.fixture
def folder(tmp_path: Path, add_one: AddOne) -> Path:
    store = tmp_path / "store"
    store.mkdir()
    add_one(store / "cat.onnx")
    add_one(store / "dog.onnx", 1)
    return tmp_path


@pytest.fixture
def begin(folder: Path) -> Iterator[Callable[..., tuple[Lifecycle, Keeping]]]:
    """A server's life, without doors: what is served and what keeps it. Each begins where the last one was killed."""
    services: list[Service] = []

    def begin(**options: Any) -> tuple[Lifecycle, Keeping]:
        service = Service(100, None)
        services.append(service)
        lifecycle = Lifecycle(service, CompileOptions(**options), Sources(Store(folder / "store")))
        return lifecycle, Keeping(lifecycle, folder / "state.json")

    yield begin
    for service in services:
        assert service.stop(PATIENCE)


def served(lifecycle: Lifecycle) -> dict[str, Any]:
    registry = lifecycle.service.registry
    return {
        f"{entry.name}:{entry.version}": (
            str(entry.state), registry.is_default(entry), entry.about.min_workers, entry.about.max_workers,
            entry.about.options.max_batch_delay, entry.about.options.queue,
        )
        for entry in registry
    }  # fmt: skip


def test_what_was_served_is_served_again_with_its_settings(begin: Any, folder: Path) -> None:
    lifecycle, keeping = begin()
    assert keeping.restore() is None
    keeping.begin()
    lifecycle.register(Wanted("cat", "cat.onnx", "1"), min_workers=1)
    lifecycle.register(Wanted("cat", "dog.onnx", "2"), min_workers=1)
    lifecycle.register(Wanted("parked", "dog.onnx"), min_workers=0, max_workers=2)
    lifecycle.register(Wanted("gone", "dog.onnx"), min_workers=1)
    lifecycle.change("cat", "2", Settings(max_batch_delay=0.25, queue=7, priority_levels=3))
    lifecycle.set_default("cat", "2")
    lifecycle.unload("gone")
    again, keeping = begin()
    assert keeping.restore() == 3
    assert served(again) == served(lifecycle)
    assert served(again)["cat:2"] == ("READY", True, 1, 1, 0.25, 7)
    assert all(look(entry, again.service).at_startup for entry in again.service.registry)
    assert not any(look(entry, lifecycle.service).at_startup for entry in lifecycle.service.registry)
    assert again.service.registry.ready("cat").group.limit == 7
    assert again.service.registry.ready("cat").priorities == Priorities(3, 2)


@pytest.mark.parametrize("change", ["register", "scale", "change", "set-default", "unload", "reload"])
def test_each_change_is_on_disk_before_whoever_asked_for_it_hears(begin: Any, folder: Path, change: str) -> None:
    lifecycle, keeping = begin()
    lifecycle.register(Wanted("cat", "cat.onnx", "1"), min_workers=1)
    lifecycle.register(Wanted("cat", "cat.onnx", "2"), min_workers=0)
    keeping.begin()
    (folder / "state.json").unlink()
    match change:
        case "register":
            lifecycle.register(Wanted("dog", "dog.onnx"), min_workers=1)
        case "scale":
            lifecycle.scale("cat", "2", min_workers=1)
        case "change":
            lifecycle.change("cat", "1", Settings(queue=3))
        case "set-default":
            lifecycle.set_default("cat", "2")
        case "unload":
            lifecycle.unload("cat", "2")
        case "reload":
            lifecycle.reload("cat", "1")
    found = json.loads((folder / "state.json").read_text())
    assert len(found["models"]) == {"register": 3, "unload": 1}.get(change, 2)


def test_what_is_half_registered_or_has_failed_to_be_is_not_in_it(begin: Any, folder: Path) -> None:
    lifecycle, keeping = begin()
    keeping.begin()
    seen: list[list[str]] = []

    def look(_: object) -> None:
        lifecycle.register(Wanted("other", "dog.onnx"), min_workers=0)  # another manager's change, meanwhile
        seen.append([each["name"] for each in json.loads((folder / "state.json").read_text())["models"]])

    lifecycle.register(Wanted("cat", "cat.onnx"), min_workers=1, on_known=look)
    assert seen == [["other"]]
    (folder / "store" / "bad.onnx").write_text("no model")
    with pytest.raises(InvalidModel):
        lifecycle.register(Wanted("bad", "bad.onnx"), min_workers=1)
    keeping.write()
    assert {each["name"] for each in json.loads((folder / "state.json").read_text())["models"]} == {"cat", "other"}


@pytest.mark.parametrize("change", ["change", "reload"])
def test_what_was_asked_for_and_could_not_be_is_not_in_it_though_another_change_was_written_meanwhile(
    begin: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    lifecycle, keeping = begin()
    keeping.begin()
    lifecycle.register(Wanted("cat", "cat.onnx"), min_workers=1)
    before = json.loads((folder / "state.json").read_text())["models"]

    def fails(*_: object) -> None:
        lifecycle.register(Wanted("other", "dog.onnx"), min_workers=0)
        lifecycle.unload("other")
        assert json.loads((folder / "state.json").read_text())["models"] != before
        raise InvalidModel("there is no room")

    monkeypatch.setattr(lifecycle, "_scale", fails)
    monkeypatch.setattr(lifecycle._building, "build", fails)
    asked = {
        "change": lambda: lifecycle.change("cat", None, Settings(queue=9, min_workers=1)),
        "reload": lambda: lifecycle.reload("cat", moved=str(folder / "store" / "dog.onnx")),
    }
    with pytest.raises(HeadraceError, match="no room"):
        asked[change]()
    assert json.loads((folder / "state.json").read_text())["models"] == before


def test_what_cannot_be_loaded_any_more_is_failed_and_stays_wanted(
    begin: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lifecycle, keeping = begin()
    keeping.begin()
    lifecycle.register(Wanted("cat", "cat.onnx"), min_workers=1)
    lifecycle.register(Wanted("dog", "dog.onnx"), min_workers=1)
    (folder / "store" / "cat.onnx").write_text("no model")
    again, keeping = begin()
    assert keeping.restore() == 2
    keeping.begin()
    registry = again.service.registry
    assert (registry.find("cat").state, registry.find("dog").state) == (State.FAILED, State.READY)
    assert not registry.is_healthy()
    assert "cat:1 was served before, and cannot be now" in caplog.text
    assert {each["name"] for each in json.loads((folder / "state.json").read_text())["models"]} == {"cat", "dog"}


@pytest.mark.parametrize("how", ["gone", "no archive"])
def test_what_is_not_there_now_is_not_forgotten(begin: Any, folder: Path, digits: Path, how: str) -> None:
    archive = make_archive(
        folder / "store", "numbers", files={"d.onnx": digits}, handler="image_classifier", serialized_file="d.onnx"
    )
    whole = archive.read_bytes()
    lifecycle, keeping = begin()
    keeping.begin()
    lifecycle.register(Wanted("cat", "cat.onnx"), min_workers=1)
    lifecycle.register(Wanted(None, "numbers.mar"), min_workers=1, max_workers=1)
    before = served(lifecycle)
    if how == "gone":
        archive.unlink()
    else:
        archive.write_bytes(b"garbage")
    for _ in range(2):  # the volume is not there at two starts
        again, keeping = begin()
        assert keeping.restore() == 2
        keeping.begin()
        registry = again.service.registry
        assert (registry.find("numbers").state, registry.find("cat").state) == (State.FAILED, State.READY)
        assert not registry.is_healthy()
    archive.write_bytes(whole)
    again.scale("numbers", min_workers=1)
    assert served(again) == before
    again.unload("numbers")
    _, keeping = begin()
    assert keeping.restore() == 1


def test_a_disk_that_is_full_keeps_nobody_from_managing(
    begin: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lifecycle, keeping = begin()
    keeping.begin()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("headrace.serving.kept_file.write", full)
        lifecycle.register(Wanted("cat", "cat.onnx"), min_workers=1)
    assert "cannot be written, and is not what is served" in caplog.text
    assert json.loads((folder / "state.json").read_text())["models"] == []
    keeping.close()
    assert [each["name"] for each in json.loads((folder / "state.json").read_text())["models"]] == ["cat"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"colour": "red"}, "has the setting 'colour'"),
        ({"max_batch_delay": "slow"}, "'max_batch_delay' of cat:1 must be a number"),
        ({"queue": 1.5}, "'queue' of cat:1 must be a number"),
        ({"queue": 0}, "'queue' of cat:1 must be a number from 1 to 2.* it is 0"),
        ({"max_batch_delay": -4}, "'max_batch_delay' of cat:1 must be a number from 0 to 3,600, it is -4"),
        ({"max_batch_size": 0}, "'max_batch_size' of cat:1 must be a number from 1"),
        ({"response_timeout": float("nan")}, "'response_timeout' of cat:1 must be a number .* it is nan"),
        ({"startup_timeout": 1e300}, "'startup_timeout' of cat:1 must be a number .* it is 1e"),
        ({"priority_levels": 10**9}, r"models\[0\]: priority_levels is from 0"),
    ],
)
def test_settings_that_are_none_are_named(begin: Any, folder: Path, settings: Any, says: str) -> None:
    lifecycle, keeping = begin()
    keeping.begin()
    lifecycle.register(Wanted("cat", "cat.onnx"), min_workers=1)
    found = json.loads((folder / "state.json").read_text())
    found["models"][0]["settings"] = settings
    (folder / "state.json").write_text(json.dumps(found))
    with pytest.raises(InvalidOption, match=says):
        begin()[1].restore()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "a/b"}, r"models\[1\]: 'a/b' cannot be the name of a model"),
        ({"version": "all"}, r"models\[1\]: 'all' cannot be a version"),
        ({"min_workers": -1}, r"models\[1\]: 'min_workers' is from 0 up"),
    ],
)
def test_a_slip_is_told_before_anything_is_loaded(begin: Any, folder: Path, change: Any, says: str) -> None:
    lifecycle, keeping = begin()
    keeping.begin()
    lifecycle.register(Wanted("cat", "cat.onnx"), min_workers=1)
    lifecycle.register(Wanted("dog", "dog.onnx"), min_workers=1)
    found = json.loads((folder / "state.json").read_text())
    found["models"][1].update(change)
    (folder / "state.json").write_text(json.dumps(found))
    again, keeping = begin()
    with pytest.raises(InvalidOption, match=says):
        keeping.restore()
    assert len(again.service.registry) == 0


def test_a_place_where_no_file_can_be_is_said_at_once(begin: Any, folder: Path) -> None:
    lifecycle, _ = begin()
    with pytest.raises(InvalidOption, match="a file in a folder that exists"):
        Keeping(lifecycle, folder / "nowhere" / "state.json")


def test_streams_come_back_as_many_as_they_were(begin: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    lifecycle, keeping = begin()
    keeping.begin()
    cat = lifecycle.register(Wanted("cat", "cat.onnx"), min_workers=1)
    cores = len(cat.served.model.engine.cores)
    lifecycle.scale("cat", min_workers=cores)
    lifecycle.register(Wanted("dog", "dog.onnx"), min_workers=1, max_workers=cores)
    again, keeping = begin(scheduler="multi_stream")
    keeping.restore()
    registry = again.service.registry
    assert served(again) == served(lifecycle)
    assert (workers_of(registry.find("cat")), workers_of(registry.find("dog"))) == (cores, 1)
    assert "--workers says nothing" not in caplog.text
    state = (folder / "state.json").read_text()  # it was written where there were more cores
    (folder / "state.json").write_text(state.replace(f'"min_workers": {cores}', f'"min_workers": {cores + 5}')
                                       .replace(f'"max_workers": {cores}', f'"max_workers": {cores + 5}'))  # fmt: skip
    again, keeping = begin()
    keeping.restore()
    about = again.service.registry.find("cat").about
    assert again.service.registry.find("cat").state is State.READY
    assert about.bounds == (cores, cores + 5)
    assert f"cat:1 had {cores + 5} workers, and has {cores}" in caplog.text


def test_what_is_beside_us_is_not_taken_for_what_is_in_the_store(
    begin: Any, folder: Path, add_two: AddOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    add_two(folder / "elsewhere" / "cat.onnx")
    lifecycle, keeping = begin()
    keeping.begin()
    lifecycle.register(Wanted("cat", "cat.onnx"), min_workers=1)
    assert ask(lifecycle) == [[1, 1]]
    again, keeping = begin()
    keeping.restore()
    assert ask(again) == [[1, 1]]


def test_halves_go_and_what_an_editor_has_beside_it_stays(begin: Any, folder: Path) -> None:
    mine, half = folder / ".state.json.swp", folder / ".state.json.abcd.half"
    mine.touch()
    half.touch()
    begin()
    assert mine.exists()
    assert not half.exists()


# ---- once more


def ask(lifecycle: Lifecycle, name: str = "cat") -> Any:
    request = InFlight(lifecycle.service.registry.ready(name), lifecycle.service.budget.admit(0))
    service = lifecycle.service
    service.refuse(request)
    opened = service.open(name, None, 0)
    service.start(opened, (np.zeros((1, 2), np.float32),), lambda _: None)
    return opened.result(PATIENCE)[0].tolist()


def test_the_same_version_is_loaded_once_more_in_its_place(begin: Any, folder: Path, add_two: AddOne) -> None:
    lifecycle, _ = begin()
    lifecycle.register(Wanted("cat", "cat.onnx"), min_workers=1)
    before = lifecycle.service.registry.ready("cat")
    assert ask(lifecycle) == [[1, 1]]
    add_two(folder / "store" / "cat.onnx")
    lifecycle.reload("cat")
    assert ask(lifecycle) == [[2, 2]]
    assert before.model.closed
    (folder / "store" / "cat.onnx").write_text("no model")
    with pytest.raises(HeadraceError):
        lifecycle.reload("cat")
    assert ask(lifecycle) == [[2, 2]]
    with pytest.raises(ModelNotFound):
        lifecycle.reload("dog")


def test_no_request_is_lost_while_a_version_is_loaded_once_more(begin: Any, folder: Path) -> None:
    lifecycle, _ = begin()
    lifecycle.register(Wanted("cat", "cat.onnx"), min_workers=1)
    stop, wrong, count = threading.Event(), list[BaseException](), 0

    def go() -> None:
        nonlocal count
        while not stop.is_set():
            try:
                assert ask(lifecycle) == [[1, 1]]
                count += 1
            except BaseException as error:
                wrong.append(error)
                return

    thread = threading.Thread(target=go)
    thread.start()
    for _ in range(10):
        lifecycle.reload("cat")
    stop.set()
    thread.join(PATIENCE)
    assert wrong == []
    assert count > 10


# ---- a watched store


def test_models_come_change_and_go_with_their_files(begin: Any, folder: Path, add_two: AddOne, add_one: AddOne) -> None:
    lifecycle, _ = begin()
    store = folder / "store"
    lifecycle.register(Wanted("cat", "cat.onnx"), min_workers=1)
    management = Management(lifecycle)
    watcher = Watcher(management, lifecycle.sources.store, 1.0)
    registry = lifecycle.service.registry

    def turns() -> None:
        watcher.turn()
        watcher.turn()

    turns()
    assert {entry.name for entry in registry} == {"cat", "dog"}, "dog lay there, and was not served"
    add_two(store / "cat.onnx")
    turns()
    assert ask(lifecycle) == [[2, 2]]
    (store / "cat.onnx").write_text("no model")
    turns()
    assert ask(lifecycle) == [[2, 2]], "what is broken replaces nothing"
    (store / "cat.onnx").unlink()
    turns()
    assert {entry.name for entry in registry} == {"dog"}
    add_one(store / "cat.onnx")
    turns()
    assert ask(lifecycle) == [[1, 1]]
    (store / "half.onnx").write_text("being copied")
    watcher.turn()
    add_one(store / "half.onnx")
    watcher.turn()
    assert {entry.name for entry in registry} == {"cat", "dog"}
    watcher.turn()
    assert {entry.name for entry in registry} == {"cat", "dog", "half"}
    assert management.close(PATIENCE)


def test_another_version_takes_the_place_of_the_one_before(begin: Any, folder: Path, digits: Path) -> None:
    lifecycle, _ = begin()
    store = folder / "store"
    management = Management(lifecycle)
    watcher = Watcher(management, lifecycle.sources.store, 1.0)
    registry = lifecycle.service.registry
    for version in "1.0", "2.0":
        if version == "2.0":  # what a manager has said of the one before holds for the next
            lifecycle.change("digits", None, Settings(max_batch_delay=0.125))
        made = make_archive(
            folder / version,
            "digits",
            files={"digits.onnx": digits},
            version=version,
            handler="image_classifier",
            serialized_file="digits.onnx",
        )
        shutil.copy(made, store / "digits.mar")
        watcher.turn()
        watcher.turn()
        assert registry.versions("digits") == [version]
    assert registry.ready("digits").model.max_batch_delay == 0.125
    assert management.close(PATIENCE)


def test_only_folders_are_watched(begin: Any) -> None:
    lifecycle, _ = begin()
    with pytest.raises(InvalidOption, match="a model store that is a folder"):
        Watcher(Management(lifecycle), Store(None), 1.0)


def test_what_was_failed_at_the_start_is_loaded_once_it_is_mended(begin: Any, folder: Path, add_one: AddOne) -> None:
    lifecycle, keeping = begin()
    keeping.begin()
    lifecycle.register(Wanted("cat", "cat.onnx"), min_workers=1)
    (folder / "store" / "cat.onnx").write_text("no model")
    again, keeping = begin()
    keeping.restore()
    management = Management(again)
    watcher = Watcher(management, again.sources.store, 1.0)
    cat = again.service.registry.find("cat")
    assert cat.state is State.FAILED
    add_one(folder / "store" / "cat.onnx")
    watcher.turn()
    watcher.turn()
    assert cat.state is State.READY
    assert ask(again) == [[1, 1]]
    assert management.close(PATIENCE)


def test_what_has_gone_or_changed_while_nobody_looked_is_seen(begin: Any, folder: Path, digits: Path) -> None:
    def make(version: str) -> None:
        made = make_archive(
            folder / version, "digits", files={"d.onnx": digits}, version=version, handler="image_classifier",
            serialized_file="d.onnx",
        )  # fmt: skip
        shutil.copy(made, folder / "store" / "digits.mar")

    lifecycle, keeping = begin()
    keeping.begin()
    make("1.0")
    for file in "cat.onnx", "dog.onnx", "digits.mar":
        lifecycle.register(Wanted(None, str(folder / "store" / file)), min_workers=1)
    (folder / "store" / "cat.onnx").unlink()
    make("2.0")
    again, keeping = begin()
    keeping.restore()
    management = Management(again)
    watcher = Watcher(management, again.sources.store, 1.0)
    watcher.turn()
    watcher.turn()
    assert set(map(repr, again.service.registry)) == {"<digits:2.0 READY>", "<dog:1 READY>"}
    assert management.close(PATIENCE)


def test_one_file_that_goes_wrong_keeps_no_other_from_being_served(
    begin: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lifecycle, _ = begin()
    management = Management(lifecycle)
    watcher = Watcher(management, lifecycle.sources.store, 1.0)
    register = management.register

    def wrong(url: str, **more: Any) -> Any:
        if url == "cat.onnx":
            raise PermissionError("nobody thought of that")
        return register(url, **more)

    monkeypatch.setattr(management, "register", wrong)
    watcher.turn()
    watcher.turn()
    assert [entry.name for entry in lifecycle.service.registry] == ["dog"]
    assert "cat.onnx of the model store" in caplog.text
    assert management.close(PATIENCE)


def test_a_copy_of_what_is_served_takes_its_place_when_that_goes(begin: Any, folder: Path, digits: Path) -> None:
    lifecycle, _ = begin()
    management = Management(lifecycle)
    watcher = Watcher(management, lifecycle.sources.store, 1.0)
    store, registry = folder / "store", lifecycle.service.registry
    one = make_archive(store, "one", files={"d.onnx": digits}, handler="image_classifier", serialized_file="d.onnx")

    def turns() -> None:
        watcher.turn()
        watcher.turn()

    turns()
    assert registry.find("one").about.url == "one.mar"
    shutil.copy(one, store / "two.mar")
    turns()
    assert registry.find("one").about.url == "one.mar"
    entry = registry.find("one")
    one.unlink()
    turns()
    assert registry.find("one") is entry, "it was never away"
    assert entry.about.url == "two.mar"
    (store / "two.mar").unlink()
    turns()
    assert not registry.knows("one")
    assert management.close(PATIENCE)


def test_a_file_that_is_renamed_serves_on(begin: Any, folder: Path, digits: Path) -> None:
    lifecycle, keeping = begin()
    keeping.begin()
    management = Management(lifecycle)
    watcher = Watcher(management, lifecycle.sources.store, 1.0)
    store, registry = folder / "store", lifecycle.service.registry
    one = make_archive(store, "one", files={"d.onnx": digits}, handler="image_classifier", serialized_file="d.onnx")

    def turns() -> None:
        watcher.turn()
        watcher.turn()

    turns()
    lifecycle.change("one", None, Settings(queue=7))
    entry, served = registry.find("one"), registry.ready("one")
    one.rename(store / "two.mar")
    turns()
    assert registry.find("one") is entry, "it was never away"
    assert entry.served is not served, "workers that are started later need the file that is there"
    assert (entry.state, entry.about.url, entry.about.options.queue) == (State.READY, "two.mar", 7)
    assert f"{store}/two.mar" in (folder / "state.json").read_text()
    turns()
    assert registry.find("one") is entry
    (store / "two.mar").unlink()
    turns()
    assert not registry.knows("one")
    assert management.close(PATIENCE)


def _two_watched(management: Management, store: Path, digits: Path) -> tuple[Path, Path, Callable[[], None]]:
    """The archives one and two, which are served; and what looks at the store until nothing more has come of it."""
    watcher = Watcher(management, management.lifecycle.sources.store, 1.0)
    one, two = (
        make_archive(store, name, files={"d.onnx": digits}, handler="image_classifier", serialized_file="d.onnx")
        for name in ("one", "two")
    )

    def turns() -> None:
        watcher.turn()  # a file is taken once it has not changed between two looks
        watcher.turn()

    turns()
    return one, two, turns


@pytest.mark.parametrize("at_once", [True, False])
def test_a_file_that_is_put_in_the_place_of_another_serves_on_and_that_one_goes(
    begin: Any, folder: Path, digits: Path, at_once: bool
) -> None:
    """`at_once`: renamed; else copied there first, and removed later."""
    lifecycle, _ = begin()
    management, registry = Management(lifecycle), lifecycle.service.registry
    one, two, turns = _two_watched(management, folder / "store", digits)
    entry = registry.find("one")
    if at_once:
        one.rename(two)
    else:
        shutil.copy(one, two)
        turns()
        assert registry.knows("two"), "what is broken, or there already, replaces nothing"
        one.unlink()
    turns()
    assert registry.find("one") is entry, "it was never away"
    assert entry.about.url == "two.mar"
    assert not registry.knows("two"), "no file is that any more"
    two.unlink()
    turns()
    assert not registry.knows("one")
    assert management.close(PATIENCE)


def test_two_files_that_change_places_are_told_apart_when_one_goes(begin: Any, folder: Path, digits: Path) -> None:
    lifecycle, _ = begin()
    management, registry = Management(lifecycle), lifecycle.service.registry
    one, two, turns = _two_watched(management, folder / "store", digits)
    one.rename(folder / "store" / "aside")
    two.rename(one)
    (folder / "store" / "aside").rename(two)
    turns()
    assert registry.knows("one")
    assert registry.knows("two")
    one.unlink()  # the model two
    turns()
    assert registry.knows("one")
    assert not registry.knows("two")
    assert management.close(PATIENCE)


@pytest.mark.parametrize("fits", [True, False])
def test_the_next_version_in_another_file_comes_before_the_one_before_goes(
    begin: Any,
    folder: Path,
    digits: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fits: bool,
) -> None:
    """`fits`: whether both fit into the memory."""
    lifecycle, _ = begin()
    management = Management(lifecycle)
    watcher = Watcher(management, lifecycle.sources.store, 1.0)
    store, registry, beside = folder / "store", lifecycle.service.registry, list[list[str]]()
    register = lifecycle.register

    def spy(wanted: Wanted, **more: Any) -> Any:
        if wanted.source.endswith(".mar") and registry.knows("digits"):
            beside.append(registry.versions("digits"))
            if not fits:
                raise InvalidModel("there is no room")
        return register(wanted, **more)

    monkeypatch.setattr(lifecycle, "register", spy)
    for version in "1.0", "2.0":
        made = make_archive(
            folder / version, "digits", files={"d.onnx": digits}, version=version, handler="image_classifier",
            serialized_file="d.onnx",
        )  # fmt: skip
        for old in store.glob("*.mar"):
            old.unlink()
        shutil.copy(made, store / f"digits-{version}.mar")
        watcher.turn()
        watcher.turn()
        assert registry.versions("digits") == [version]
        assert registry.find("digits").state is State.READY
    assert beside == [["1.0"]]
    assert "looked at again" not in caplog.text
    assert management.close(PATIENCE)


def test_what_is_in_the_store_is_called_as_it_is_there(begin: Any, folder: Path) -> None:
    lifecycle, keeping = begin()
    keeping.begin()
    lifecycle.load_all(lifecycle.sources.in_store())
    before = [(each.name, each.about.url) for each in lifecycle.service.registry]
    assert before == [("cat", "cat.onnx"), ("dog", "dog.onnx")]
    again, keeping = begin()
    keeping.restore()
    assert [(each.name, each.about.url) for each in again.service.registry] == before


def test_a_store_that_is_away_is_told_once_and_what_is_served_goes_on(
    begin: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lifecycle, _ = begin()
    management = Management(lifecycle)
    watcher = Watcher(management, lifecycle.sources.store, 1.0)
    for _ in range(2):
        watcher.try_turn()
    (folder / "store").rename(folder / "away")
    for _ in range(5):
        watcher.try_turn()
    said = [record for record in caplog.records if "cannot be looked at" in record.msg]
    assert [(record.levelname, record.exc_info) for record in said] == [("WARNING", None)]
    (folder / "away").rename(folder / "store")
    for _ in range(3):
        watcher.try_turn()
    assert {each.name for each in lifecycle.service.registry} == {"cat", "dog"}
    assert ask(lifecycle) == [[1, 1]]
    assert management.close(PATIENCE)
