"""From `[NAME=]SOURCE` to a model that is READY, or one that says what is wrong."""

from __future__ import annotations

import hashlib
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from headrace.archives.cache import Cache
from headrace.archives.store import Store
from headrace.errors import (
    DownloadFailed,
    HeadraceError,
    InvalidArchive,
    InvalidModel,
    InvalidOption,
    ModelNotFound,
    ModelNotReady,
    SourceNotFound,
    UrlNotAllowed,
)
from headrace.server.options import BUNDLED_DIGITS
from headrace.serving.compile_options import CompileOptions
from headrace.serving.counting import most_workers_of, workers_of
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.registry import Registry, State
from headrace.serving.served import Served
from headrace.serving.service import Service
from headrace.serving.settings import Settings
from headrace.serving.sources import Sources
from headrace.serving.wanted import Wanted
from headrace.testing import make_archive

MODULE = """
def double(x):
    return 2 * x

class Namespace:
    @staticmethod
    def triple(x):
        return 3 * x

class Callable:
    def __call__(self, x):
        return x

instance = Callable()
number = 3

async def coroutine(x):
    return x

def generator(x):
    yield x
"""

Load = Callable[..., Registry[Served]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with sources of every kind in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    add_one(tmp_path / "plus.onnx")
    (tmp_path / "handmade.py").write_text(MODULE)
    (tmp_path / "raises.py").write_text("raise OSError('the\\nweights are gone')\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "wrong.py").write_text("def f(x) return x\n")
    (tmp_path / "needs.py").write_text("import a_package_that_nobody_has\n")
    (tmp_path / "corrupt.onnx").write_bytes(b"no protobuf at all" * 10)
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "plus.onnx").read_bytes()[:60])
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "packed.mar").write_bytes(b"PK\x03\x04")
    (tmp_path / "packed.tar.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "bare").mkdir()
    (tmp_path / "my model.onnx").write_bytes((tmp_path / "plus.onnx").read_bytes())
    shutil.copytree(BUNDLED_DIGITS, tmp_path / "digits")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name in ("handmade", "raises", "exits", "wrong", "needs"):
            del sys.modules[name]


@pytest.fixture
def load(folder: Path) -> Iterator[Load]:
    """Load sources into a registry; what was loaded is closed at the end."""
    service = Service(100, None)
    registry = service.registry

    def load(*texts: str, store: Path | None = None, options: CompileOptions | None = None) -> Registry[Served]:
        lifecycle = Lifecycle(service, options or CompileOptions(), store)
        lifecycle.load_all(map(Wanted.parse, texts))
        return registry

    load.service = service  # type: ignore[attr-defined]
    yield load
    assert service.stop(30)


def service_of(load: Load) -> Service:
    service: Service = load.service  # type: ignore[attr-defined]
    return service


def registry_of(load: Load) -> Registry[Served]:
    return service_of(load).registry


def add_one(path: Path, rows: int | str = "n") -> None:
    """An ONNX file that adds 1 to each of two columns."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 2])
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "g", [x], [y], [one])
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)


def packed_digits(into: Path, archive_format: str, handler: str = "image_classifier") -> Path:
    """The bundled digits model, packed."""
    files = {path.name: path for path in Path(BUNDLED_DIGITS).iterdir() if path.is_file()}
    return make_archive(
        into,
        "digits",
        files=files,
        handler=handler,
        serialized_file="digits.onnx",
        config_file="model-config.yaml",
        archive_format=archive_format,
    )


@pytest.mark.parametrize(
    ("text", "name", "source"),
    [
        ("resnet18.onnx", None, "resnet18.onnx"),
        ("cat=models/resnet18.onnx", "cat", "models/resnet18.onnx"),
        ("a.b-c_1=m:f", "a.b-c_1", "m:f"),
        ("cat=a=b.onnx", "cat", "a=b.onnx"),
        ("m:f", None, "m:f"),
        ("a.mar#sha256=00", None, "a.mar#sha256=00"),
        ("cat=a.mar#sha256=00", "cat", "a.mar#sha256=00"),
        ("https://a/m.mar?x=y", None, "https://a/m.mar?x=y"),
    ],
)
def test_a_source_may_have_a_name_before_it(text: str, name: str | None, source: str) -> None:
    assert Wanted.parse(text) == Wanted(name, source)


@pytest.mark.parametrize(
    "text", ["", "=", "=m:f", "cat=", "a/b=m:f", "a b=m:f", "-x=m:f", ".=m:f", "a%20=m:f", "ä=m:f", "a\n=m:f"]
)
def test_a_bad_name_is_an_invalid_option(text: str) -> None:
    with pytest.raises(InvalidOption, match=r"\[NAME=\]SOURCE"):
        Wanted.parse(text)


@pytest.mark.parametrize(
    ("text", "name", "version"),
    [
        ("plus.onnx", "plus", "1"),
        ("cat=plus.onnx", "cat", "1"),
        ("./plus.onnx", "plus", "1"),
        ("cat=my model.onnx", "cat", "1"),
        ("digits", "digits", "1.0"),
        ("numbers=digits/", "numbers", "1.0"),
        ("handmade:double", "double", "1"),
        ("handmade:Namespace.triple", "triple", "1"),
        ("handmade:instance", "instance", "1"),
        ("cat=handmade:double", "cat", "1"),
    ],
)
def test_a_source_becomes_a_ready_model_of_its_name(load: Load, text: str, name: str, version: str) -> None:
    entry = load(text).find(name)
    assert (entry.state, entry.version, entry.reason) == (State.READY, version, None)
    assert entry.served is not None
    assert (entry.served.name, entry.served.version, entry.served.model.name) == (name, version, name)


def test_what_is_loaded_answers(load: Load) -> None:
    registry = load("plus.onnx", "handmade:double", "handmade:Namespace.triple")
    np.testing.assert_array_equal(registry.ready("plus").model(np.zeros((1, 2), np.float32)), [[1, 1]])
    assert registry.ready("double").model(4) == 8
    assert registry.ready("triple").model(4) == 12


def test_an_archive_brings_its_handler_and_a_plain_file_has_none(load: Load) -> None:
    registry = load("digits", "plus.onnx", "handmade:double")
    assert registry.ready("digits").handler is not None
    assert registry.ready("plus").handler is None
    assert registry.ready("double").handler is None


def test_a_tensor_model_whose_batches_agree_is_batched_and_a_callable_is_not(load: Load) -> None:
    registry = load("plus.onnx", "handmade:double")
    assert registry.ready("plus").model.max_batch_size == 32
    assert registry.ready("double").model.max_batch_size == 1


def test_options_reach_the_model(load: Load) -> None:
    options = CompileOptions("multi_stream", 1, 1, 4, 0.5)
    model = load("plus.onnx", options=options).ready("plus").model
    assert (model.scheduler, model.max_batch_size, model.max_batch_delay) == ("multi_stream", 4, 0.5)
    assert len(model.placements) == 1


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("nowhere.onnx", InvalidModel, "nowhere.onnx does not exist"),
        ("cat=nowhere.onnx", InvalidModel, "does not exist"),
        ("a" * 5000 + ".onnx", InvalidModel, "cannot be looked for"),
        ("my model.onnx", InvalidOption, "NAME=my model.onnx"),
    ],
)
def test_what_has_no_source_or_no_name_is_not_registered(
    load: Load, text: str, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        load(text)
    assert list(registry_of(load)) == []


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("corrupt.onnx", "corrupt", "cannot be loaded as an ONNX model"),
        ("cut.onnx", "cut", "cannot be loaded as an ONNX model"),
        ("cat=empty.onnx", "cat", "empty: 0 bytes"),
        ("bare", "bare", "is a folder; give the ONNX file in it"),
        ("handmade:missing", "missing", "has no 'missing'"),
        ("handmade:Namespace.missing", "missing", "has no 'Namespace.missing'"),
        ("handmade:number", "number", "is a int, not a callable"),
        ("handmade:coroutine", "coroutine", "coroutine function"),
        ("handmade:generator", "generator", "generator function"),
        ("raises:f", "f", "importing raises failed: OSError: the\nweights are gone"),
        ("exits:f", "f", "importing exits failed: SystemExit: 0"),
        ("wrong:f", "f", "importing wrong failed: SyntaxError"),
        ("needs:f", "f", "No module named 'a_package_that_nobody_has'"),
        ("nothing_like_it:f", "f", "no module named 'nothing_like_it'"),
        ("handmade.sub:f", "f", "no module named 'handmade.sub'|importing handmade.sub failed"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_failed_and_keeps_the_reason(
    load: Load, text: str, name: str, says: str
) -> None:
    with pytest.raises(InvalidModel, match=says) as raised:
        load(text)
    entry = registry_of(load).find(name)
    assert (entry.state, entry.reason, entry.served) == (State.FAILED, str(raised.value), None)
    with pytest.raises(ModelNotReady) as refused:
        registry_of(load).ready(name)
    assert refused.value.reason == str(raised.value)


@pytest.mark.parametrize("text", ["packed.mar", "cat=packed.mar", "packed.tar.gz"])
def test_a_packed_archive_that_is_none_is_not_registered(load: Load, text: str) -> None:
    with pytest.raises(InvalidArchive, match="damaged, or was cut short"):
        load(text)
    assert list(registry_of(load)) == []


@pytest.fixture
def packing(load: Load, tmp_path: Path) -> tuple[Lifecycle, Cache]:
    """A lifecycle that unpacks into a cache of its own."""
    cache = Cache(tmp_path / "cache")
    store = Store(allowed=["file:///.*/made/.*"], cache=cache)
    return Lifecycle(service_of(load), CompileOptions(), Sources(store, cache=cache)), cache


def folders_in(cache: Cache) -> list[Path]:
    return [path for path in cache.root.iterdir() if path.is_dir()]


def test_the_checksum_of_a_file_in_the_store_or_beside_us_is_checked(folder: Path) -> None:
    right = hashlib.sha256((folder / "plus.onnx").read_bytes()).hexdigest()
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    for sources in (Sources(folder), Sources(), Sources(elsewhere)):
        located = sources.locate(Wanted.parse(f"q=plus.onnx#sha256={right}"))
        assert located.name == "q"
        located.close()
        with pytest.raises(DownloadFailed, match=rf"plus\.onnx \(its sha256 is {right}, not 0000"):
            sources.locate(Wanted.parse(f"q=plus.onnx#sha256={'0' * 64}"))
        with pytest.raises(SourceNotFound, match="64 hexadecimal digits"):
            sources.locate(Wanted.parse("q=plus.onnx#sha256=00"))
        with pytest.raises(InvalidModel, match=r"nowhere\.onnx#sha256=\w+ does not exist"):
            sources.locate(Wanted.parse(f"nowhere.onnx#sha256={right}"))


@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz", "no-archive"])
def test_a_packed_archive_is_served_and_its_folder_goes_with_it(
    folder: Path, packing: tuple[Lifecycle, Cache], archive_format: str
) -> None:
    lifecycle, cache = packing
    made = packed_digits(folder / "made", archive_format)
    entry = lifecycle.register(Wanted.parse(f"packed={made}"), min_workers=1)
    assert entry.served is not None
    assert (entry.served.handler is not None, entry.version) == (True, "1.0")
    assert len(folders_in(cache)) == (archive_format != "no-archive")
    lifecycle.scale("packed", min_workers=0)
    lifecycle.scale("packed", min_workers=1)  # what it is loaded from once more is still there
    assert entry.state is State.READY
    lifecycle.unload("packed")
    assert list(cache.root.iterdir()) == []
    assert made.exists()


def test_versions_of_one_archive_share_its_folder(folder: Path, packing: tuple[Lifecycle, Cache]) -> None:
    lifecycle, cache = packing
    made = packed_digits(folder / "made", "default")
    for name in ("a", "b"):
        lifecycle.register(Wanted(name, str(made)), min_workers=1)
    lifecycle.unload("a")
    (unpacked,) = folders_in(cache)
    assert (unpacked / "digits.onnx").exists()
    lifecycle.unload("b")
    assert list(cache.root.iterdir()) == []


@pytest.mark.parametrize("why", ["handler", "name", "twice"])
def test_an_archive_that_cannot_be_served_leaves_no_folder(
    folder: Path, packing: tuple[Lifecycle, Cache], why: str
) -> None:
    lifecycle, cache = packing
    made = packed_digits(folder / "made", "default", handler="mine.py" if why == "handler" else "image_classifier")
    if why == "twice":
        lifecycle.register(Wanted("digits", str(folder / "digits")))
    with pytest.raises(HeadraceError):
        lifecycle.register(Wanted("no such name" if why == "name" else None, str(made)), min_workers=1)
    assert list(cache.root.iterdir()) == []


def test_a_server_that_stops_leaves_no_folder_of_what_failed_or_waits(
    load: Load, folder: Path, packing: tuple[Lifecycle, Cache]
) -> None:
    lifecycle, cache = packing
    with pytest.raises(InvalidModel):
        lifecycle.load(Wanted("failed", str(packed_digits(folder / "made", "default", handler="mine.py"))))
    lifecycle.register(Wanted("waits", str(packed_digits(folder / "made", "tgz"))))
    assert len(folders_in(cache)) == 2
    assert service_of(load).stop(30)
    assert list(cache.root.iterdir()) == []


def test_a_url_needs_a_pattern_and_is_then_fetched_and_let_go(folder: Path, packing: tuple[Lifecycle, Cache]) -> None:
    lifecycle, cache = packing
    made = packed_digits(folder / "made", "default")
    with pytest.raises(UrlNotAllowed, match=r"^Given URL file://\S+ does not match any allowed URL\(s\)$"):
        lifecycle.register(Wanted.parse(f"a=file://{folder}/plus.onnx"))
    lifecycle.register(Wanted.parse(f"a=file://{made}"), min_workers=1)
    lifecycle.unload("a")
    assert list(cache.root.iterdir()) == []


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.pt2"])
def test_files_of_torch_need_an_environment_that_has_it(load: Load, folder: Path, name: str) -> None:
    (folder / name).touch()
    with pytest.raises(
        InvalidModel, match=f"{name} needs torch, which is not in the env|no TorchScript|cannot be read"
    ):
        load(name)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ('"handler": "mine.py"', "no handler 'mine.py': there is no mine.py in it"),
        ('"handler": "image_classifier", "serializedFile": "weights.pt"', "needs torch|no TorchScript file"),
        ('"handler": "image_classifier"', "digits.onnx, weights.pt found"),
    ],
)
def test_an_archive_that_cannot_run_is_failed(load: Load, folder: Path, entry: str, says: str) -> None:
    (folder / "digits" / "weights.pt").touch()
    manifest = folder / "digits" / "MAR-INF" / "MANIFEST.json"
    manifest.write_text(f'{{"model": {{"modelName": "old", "modelVersion": "7", {entry}}}}}')
    with pytest.raises(InvalidModel, match=says):
        load("digits")
    failed = registry_of(load).find("old", "7")
    assert failed.state is State.FAILED
    assert failed.reason is not None


def test_an_archive_whose_handler_is_set_wrong_leaves_no_stream_behind(load: Load, folder: Path) -> None:
    (folder / "digits" / "model-config.yaml").write_text("handler: {no_such_option: 1}\n")
    before = set(threading.enumerate())
    with pytest.raises(InvalidArchive, match="no_such_option"):
        load("digits")
    assert set(threading.enumerate()) <= before


def test_the_same_name_twice_is_refused_and_the_first_goes_on(load: Load) -> None:
    with pytest.raises(InvalidOption, match="already registered"):
        load("cat=plus.onnx", "cat=handmade:double")
    registry = registry_of(load)
    assert registry.ready("cat").model.inputs is not None


def test_two_versions_of_one_name_stand_side_by_side(load: Load) -> None:
    registry = load("digits=plus.onnx", "digits")
    assert registry.versions("digits") == ["1", "1.0"]
    assert registry.ready("digits").handler is None
    assert registry.ready("digits", "1.0").handler is not None


def test_a_failure_leaves_those_before_it_ready_and_those_after_it_unknown(load: Load) -> None:
    with pytest.raises(HeadraceError):
        load("plus.onnx", "corrupt.onnx", "handmade:double")
    registry = registry_of(load)
    assert registry.find("plus").state is State.READY
    assert registry.find("corrupt").state is State.FAILED
    with pytest.raises(ModelNotFound):
        registry.find("double")


def test_the_model_store_is_looked_in_first_then_the_current_folder(load: Load, folder: Path) -> None:
    store = folder / "store"
    store.mkdir()
    add_one(store / "plus.onnx", rows=7)
    registry = load("plus.onnx", "digits", store=store)
    inputs = registry.ready("plus").model.inputs
    assert inputs is not None
    assert inputs[0].shape == (7, 2)
    assert registry.ready("digits").handler is not None


def test_all_is_every_model_of_the_store_by_name(load: Load, folder: Path) -> None:
    store = folder / "store"
    store.mkdir()
    for name in ("b.onnx", "a.onnx", ".hidden.onnx"):
        add_one(store / name)
    shutil.copytree(folder / "digits", store / "c")
    (store / "folder.onnx").mkdir()
    (store / "notes.txt").touch()
    shutil.rmtree(store / "c")
    packed_digits(store, "default").rename(store / "c.mar")
    make_archive(store / "elsewhere", "e", files={"m.onnx": (store / "a.onnx").read_bytes()})
    lifecycle = Lifecycle(service_of(load), CompileOptions(), store)
    lifecycle.load_all(lifecycle.sources.in_store())
    assert [entry.name for entry in registry_of(load)] == ["a", "b", "digits"]


def test_all_of_a_relative_store_is_not_looked_for_inside_it_once_more(load: Load, folder: Path) -> None:
    (folder / "store" / "store").mkdir(parents=True)
    add_one(folder / "store" / "plus.onnx")
    (folder / "store" / "store" / "plus.onnx").touch()
    lifecycle = Lifecycle(service_of(load), CompileOptions(), Path("store"))
    lifecycle.load_all(lifecycle.sources.in_store())
    assert registry_of(load).is_healthy()


def test_at_the_start_what_is_wrong_with_an_archive_is_said_with_its_name(load: Load, folder: Path) -> None:
    for text, why in (
        ("{}", "Missing Model entry in manifest file."),
        ("{", r"MAR-INF/MANIFEST\.json is not JSON: .+"),
    ):
        (folder / "wrong" / "MAR-INF").mkdir(parents=True, exist_ok=True)
        (folder / "wrong" / "MAR-INF" / "MANIFEST.json").write_text(text)
        with pytest.raises(InvalidArchive, match=f"^wrong: {why}$"):
            load("wrong")


def test_all_needs_a_store_with_something_to_serve(load: Load, folder: Path) -> None:
    with pytest.raises(InvalidOption, match="--model-store"):
        Lifecycle(service_of(load), CompileOptions()).sources.in_store()
    with pytest.raises(InvalidModel, match="no ONNX file and no archive in"):
        Lifecycle(service_of(load), CompileOptions(), folder / "bare").sources.in_store()


def test_streams_are_as_many_as_were_asked_for_on_the_cores_a_model_may_use(load: Load, folder: Path) -> None:
    lifecycle = Lifecycle(service_of(load), CompileOptions(scheduler="multi_stream"))
    asked = lifecycle.register(Wanted("asked", "plus.onnx"), min_workers=1)
    started = lifecycle.load(Wanted("started", "plus.onnx"))
    cores = len(asked.served.model.engine.cores)
    assert (workers_of(asked), asked.about.bounds) == (1, (1, 1))
    assert (workers_of(started), started.about.bounds) == (cores, (cores, cores))
    narrow = Lifecycle(service_of(load), CompileOptions(num_cores=1))
    entry = narrow.load(Wanted("narrow", "plus.onnx"))
    with pytest.raises(InvalidOption, match="num_streams is 2"):
        narrow.scale("narrow", min_workers=2)
    with pytest.raises(InvalidOption, match=r"2 workers were asked for; wide runs in .* there is 1 core$"):
        narrow.register(Wanted("wide", "plus.onnx"), min_workers=2)
    assert (workers_of(entry), most_workers_of(entry)) == (1, 1)
    assert [place.width for place in entry.served.model.placements] == [1]


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_an_onnx_model_that_joins_no_rows_can_be_told_to_while_it_serves(
    load: Load, folder: Path, isolation: str
) -> None:
    add_one(folder / "fixed.onnx", rows=1)
    lifecycle = Lifecycle(service_of(load), CompileOptions(isolation=isolation, max_batch_size=1))
    for name in ("plus", "fixed"):
        lifecycle.load(Wanted(None, f"{name}.onnx"))
    plus, fixed = (registry_of(load).ready(name).model for name in ("plus", "fixed"))
    assert (plus.max_batch_size, fixed.max_batch_size) == (1, 1)
    changed = lifecycle.change("plus", settings=Settings(max_batch_size=8)).settings
    assert (changed, plus.max_batch_size) == ({"max_batch_size": (1, 8)}, 8)
    with pytest.raises(InvalidOption, match=r"fixed are not joined .the leading dimension is not free"):
        lifecycle.change("fixed", settings=Settings(max_batch_size=8))


def test_an_onnx_model_runs_in_workers_only_where_that_is_asked_for(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    options = CompileOptions(
        "multi_stream", num_streams=2, isolation="process", workers=2, share_weights=True, max_batch_size=1
    )
    load("plus.onnx", "handmade:double", options=options)
    load("same=plus.onnx", options=CompileOptions(isolation="auto", workers=2, share_weights=True))
    models = {name: registry_of(load).find(name).served.model for name in ("plus", "double", "same")}  # type: ignore[union-attr]
    assert [len(model.workers) for model in models.values()] == [2, 2, 0]
    x = np.ones((1, 2), np.float32)
    assert models["plus"](x).tolist() == models["same"](x).tolist() == [[2, 2]]
    said = [record.message for record in caplog.records if "says nothing" in record.message]
    for flag, name in (
        ("--num-streams", "plus"),
        ("--scheduler", "plus"),
        ("--num-streams", "double"),
        ("--share-weights", "double"),
        ("--share-weights", "same"),
    ):
        assert any(line.startswith(f"{flag} says nothing of model {name}") for line in said)
    assert not any(line.startswith("--share-weights says nothing of model plus") for line in said)


def test_options_of_workers_that_say_nothing_are_told(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    given: Any = {"workers": 2, "share_weights": True, "concurrency": 5, "memory_limit": 1 << 32}
    load("here=handmade:double", options=CompileOptions(isolation="thread", idempotent=False, **given))
    load("there=handmade:double", options=CompileOptions(isolation="process", **given))
    said = [record.message for record in caplog.records if "says nothing" in record.message]
    for flag in ("--workers", "--share-weights", "--concurrency", "--memory-limit", "--idempotent"):
        what = f"{flag} says nothing of model here, which runs in the server's process; for worker processes"
        assert sum(line.startswith(what) for line in said) == 1, flag
    assert "--share-weights says nothing of model there, which is no ONNX model" in said
    assert "--concurrency says nothing of model there, which is no coroutine function" in said
    assert len(said) == 7


def test_how_long_workers_may_take_to_load_is_the_operators_to_say(load: Load) -> None:
    with pytest.raises(InvalidModel, match=r"did not load its model within 0.01 s \(startup_timeout\)"):
        load("handmade:double", options=CompileOptions(isolation="process", start_timeout=0.01))
