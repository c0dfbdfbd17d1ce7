"""One copy of an ONNX model's weights for all of its workers."""

import contextlib
import fcntl
import gc
import logging
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_files
import pytest
from worker_watching import descriptors

import headrace as hr
from headrace.workers import initializers, onnx_weights
from headrace.workers.shared_weights import Cost, SharedWeights, tell

Compile = Callable[..., hr.Model]
MIB = 1 << 20


def private_bytes(pid: int) -> int:
    """What a process has for itself alone."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return 1024 * sum(int(fields[name].split()[0]) for name in ("Private_Dirty", "Private_Clean"))


def test_workers_have_next_to_nothing_of_the_weights_for_themselves(compiled: Compile) -> None:
    source, x = onnx_files.large(48), np.ones((1, onnx_files.SIDE), np.float32)
    own, shared = compiled("own", source, workers=2), compiled("shared", source, workers=2, share_weights=True)
    for model in (own, shared):
        list(model.map([x] * 20))
    np.testing.assert_allclose(shared(x), own(x), rtol=1e-3, atol=1e-4)
    least = min(private_bytes(status.pid) for status in own.workers)
    most = max(private_bytes(status.pid) for status in shared.workers)
    assert least - most > 40 * MIB
    weights = shared.crew.model.weights  # type: ignore[union-attr]
    assert weights.nbytes == 48 * MIB


def test_the_log_says_what_it_costs_and_warns_where_that_is_much(
    compiled: Compile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "headrace.workers")
    compiled("large", onnx_files.large(2), share_weights=True)
    (said,) = [record.message for record in caplog.records if "share one copy" in record.message]
    assert "its workers share one copy of 2.0 MiB of weights: a run with 1 row takes" in said
    assert "ms, with a copy of its own" in said
    assert "a run with 8 rows takes" in said
    caplog.clear()
    for shared in (0.0105, 0.0115):
        tell("m", SharedWeights(MIB, (Cost(1, 0.01, 0.01), Cost(None, 0.01, shared)), {}))
    tell("m", SharedWeights(MIB, (), {}))
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO"]
    assert "a run takes 11.5 ms, with a copy of its own 10 ms" in caplog.records[1].message


def test_nothing_is_left_when_it_is_closed(engine: hr.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    gc.collect()
    before = descriptors()
    for options in ({"share_weights": True}, {}):
        model = hr.compile_model(onnx_files.large(1), isolation="process", workers=2, engine=engine, **options)
        model.scale(3)
        model.close()
    with pytest.raises(hr.InvalidModel):
        hr.compile_model(b"rubbish", isolation="process", share_weights=True, engine=engine)
    gc.collect()
    assert descriptors() == before
    assert not list(tmp_path.glob("headrace-*"))


def test_what_the_workers_share_cannot_be_written_to(compiled: Compile) -> None:
    model = compiled("large", onnx_files.large(1), share_weights=True)
    (fd,) = model.crew.model.descriptors  # type: ignore[union-attr]
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)


def test_weights_in_a_file_beside_the_model_are_shared_too(compiled: Compile, tmp_path: Path) -> None:
    path = tmp_path / "external.onnx"
    onnx.save(onnx.load_from_string(onnx_files.large(2)), path, save_as_external_data=True, location="beside.bin")
    model = compiled("external", path, share_weights=True)
    assert model.crew.model.weights.nbytes == 2 * MIB  # type: ignore[union-attr]


def test_a_model_that_gives_something_else_with_shared_weights_is_refused() -> None:
    class Loader:
        class NotShared(Exception):
            pass

        @staticmethod
        def made_up(inputs: Any, rows: int) -> Any:
            return (np.zeros((rows, 2), np.float32),)

    class Gives:
        def __init__(self, value: float) -> None:
            self.run = lambda _: [np.full((1, 2), value, np.float32)]

    inputs = [["x", "tensor(float)", [None, 2]]]
    runs = onnx_weights.measured(Loader, (Gives(1.0), Gives(1.0)), inputs)
    assert [rows for rows, _, _ in runs] == [1, onnx_weights.ROWS]
    with pytest.raises(Loader.NotShared, match="does not give what it gives with its own"):
        onnx_weights.measured(Loader, (Gives(1.0), Gives(1.1)), inputs)


# ---- what is read of the file


def saved(tmp_path: Path) -> bytes:
    path = tmp_path / "m.onnx"
    onnx.save(
        onnx.load_from_string(onnx_files.large(3)),
        path,
        save_as_external_data=True,
        location="w.bin",
        all_tensors_to_one_file=True,
    )
    return path.read_bytes()


def test_tensors_outside_of_a_file_are_found_as_the_onnx_package_finds_them(tmp_path: Path) -> None:
    data = saved(tmp_path)
    known = []
    for each in onnx.load_from_string(data).graph.initializer:
        about = {entry.key: entry.value for entry in each.external_data}
        known.append((each.name, each.data_type, tuple(each.dims), "w.bin", int(about["offset"]), int(about["length"])))
    assert [tuple(each) for each in initializers.external(data)] == known
    assert len(known) == 3
    assert initializers.external(onnx_files.large(1)) == []  # they are inside


def test_what_is_cut_off_or_damaged_is_said_and_never_loops(tmp_path: Path) -> None:
    data = saved(tmp_path)
    rng = random.Random(0)
    for end in range(len(data)):
        with contextlib.suppress(ValueError):
            initializers.external(data[:end])
    for _ in range(2000):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 5)):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(ValueError, TypeError):
            initializers.external(bytes(damaged))
