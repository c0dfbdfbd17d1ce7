"""Archives that come and go leave no objects of ours behind. What they leave of memory: `benchmarks/archives.py`."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.archives.cache import Cache
from headrace.serving.compile_options import CompileOptions
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.service import Service
from headrace.serving.sources import Sources
from headrace.serving.wanted import Wanted
from headrace.testing import make_archive

HANDLER = """
def handle(data, context):
    if data is not None:
        context.metrics.add_counter("Asked", len(data))
        context.set_response_header(0, "who", "NAME")
        return ["NAME"] * len(data)
"""
LOADS = 4
"""In a round: fewer new objects of a kind than that are none of each load."""


@pytest.fixture
def lifecycle(tmp_path: Path) -> Iterator[Lifecycle]:
    service = Service(100, 1 << 30)
    yield Lifecycle(service, CompileOptions(measured=True), Sources(tmp_path, cache=Cache(tmp_path / "cache")))
    assert service.stop(30)


def load(lifecycle: Lifecycle, store: Path, name: str) -> None:
    make_archive(store, name, files={"service.py": HANDLER.replace("NAME", name)}, handler="service")
    entry = lifecycle.register(Wanted(None, f"{name}.mar"), min_workers=1)
    assert entry.served is not None
    assert entry.served.model(("id", (), b""))[0] == name.encode()


def kinds() -> Counter[str]:
    gc.collect()
    return Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())


def test_models_of_ever_new_names_leave_no_objects(lifecycle: Lifecycle, tmp_path: Path) -> None:
    counted: list[Counter[str]] = []
    for turn in range(3):  # the first one imports, and fills what is kept for all
        for each in range(LOADS):
            name = f"m{turn}-{each}"
            load(lifecycle, tmp_path, name)
            lifecycle.unload(name)
        counted.append(kinds())
    grown = {kind: count for kind, count in (counted[2] - counted[1]).items() if count >= LOADS}
    assert grown == {}
    assert list((tmp_path / "cache").rglob("*.py")) == []


def test_a_worker_has_no_large_block_on_the_heap_of_its_thread(lifecycle: Lifecycle, tmp_path: Path) -> None:
    """The C library gives threads arenas of their own, and a freed block of this size stays with the arena."""
    tracemalloc.start()
    try:
        load(lifecycle, tmp_path, "m")
        large = [(t.size, str(t.traceback)) for t in tracemalloc.take_snapshot().traces if t.size >= 100_000]
    finally:
        tracemalloc.stop()
    assert [where for _, where in large if "/headrace/workers/" in where] == []
