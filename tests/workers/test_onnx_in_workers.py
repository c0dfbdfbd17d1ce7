"""ONNX models in worker processes: what they answer, refuse and join is what they would in this process."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_files
import pytest
from worker_watching import wait_for

import headrace as hr
from headrace.server.options import BUNDLED_DIGITS

Compile = Callable[..., hr.Model]
DIGITS = str(Path(BUNDLED_DIGITS, "digits.onnx"))


@pytest.mark.parametrize("share_weights", [False, True])
def test_it_answers_in_every_form_as_in_this_process(compiled: Compile, engine: hr.Engine, share_weights: bool) -> None:
    source = onnx_files.two_in_two_out()
    model = compiled("two", source, max_batch_size=None, workers=2, share_weights=share_weights)
    a, b = np.full((2, 3), 2, np.float32), np.full((2, 3), 5, np.float32)
    with hr.compile_model(source, engine=engine, max_batch_size=None) as here:
        for value in ([a, b], {"a": a, "b": b}):
            ours, theirs = model(value), here(value)
            assert type(ours) is type(theirs)
            for key in range(2) if isinstance(theirs, list) else theirs:
                np.testing.assert_array_equal(ours[key], theirs[key])
        assert (model.inputs, model.outputs, model.platform) == (here.inputs, here.outputs, here.platform)
        assert (model.max_batch_size, model.batching) == (here.max_batch_size, here.batching) == (32, model.batching)
        for wrong in (a, [a], [a, b.astype(np.float64)], [a, b[0]], {"a": a}, {"a": a, "c": b}, 3):
            said = []
            for each in (here, model):
                with pytest.raises(hr.InvalidInput) as refused:
                    each(wrong)
                said.append(str(refused.value))
            assert said[0] == said[1]
    assert model.statistics().submitted == 2  # what was tried at load is nobody's request


def test_a_failing_run_says_what_it_says_in_this_process(compiled: Compile, engine: hr.Engine) -> None:
    source = onnx_files.gather()
    bad = np.array([9], np.int64)
    with hr.compile_model(source, engine=engine) as here:
        said = []
        for model in (here, compiled("gather", source)):
            with pytest.raises(hr.BackendError) as failed:
                model(bad)
            said.append((str(failed.value), type(failed.value.__cause__).__name__))
    assert said[0] == said[1]


def test_requests_are_joined_and_a_bad_one_fails_alone(compiled: Compile) -> None:
    model = compiled("gather", onnx_files.gather(), max_batch_size=8, max_batch_delay=1.0)
    futures = [model.submit(np.array([i], np.int64)) for i in (0, 1, 9, 2, 3, 0, 1, 2, 3, 3)]
    for i, future in zip((0, 1, 9, 2, 3, 0, 1, 2, 3, 3), futures):
        if i == 9:
            with pytest.raises(hr.BackendError, match="indices element out of data bounds"):
                future.result(60)
        else:
            assert future.result(60).tolist() == [[2 * i, 2 * i + 1]]
    counts = model.statistics()
    assert (counts.rows, counts.completed, counts.failed) == (10, 9, 1)
    assert counts.runs < 10
    rows = model(np.array([3, 0, 1], np.int64))
    assert rows.tolist() == [[6, 7], [0, 1], [2, 3]]


def test_what_cannot_be_joined_is_found_as_in_this_process(compiled: Compile, engine: hr.Engine) -> None:
    with hr.compile_model(onnx_files.mixing(), engine=engine, max_batch_size=None) as here:
        model = compiled("mixing", onnx_files.mixing(), max_batch_size=None)
        assert model.max_batch_size == 1
        assert model.batching == here.batching
    for options in ({"batch_size": 3}, {"input_shapes": {"x": [5, 3]}}):
        x = np.ones((1, 3), np.float32)
        with pytest.raises(hr.InvalidInput):
            compiled("mixing", onnx_files.mixing(), **options)(x)
    with pytest.raises(hr.InvalidOption, match="the leading dimension is not free"):
        compiled("fixed", onnx_files.fixed(), max_batch_size=4)
    with pytest.raises(hr.InvalidOption, match="does not fit input"):
        compiled("fixed", onnx_files.fixed(), batch_size=4)
    assert engine.statistics().ports == 2 + 1  # what was refused has left nothing; the last two are still open


def test_text_goes_in_and_comes_out(compiled: Compile) -> None:
    model = compiled("text", onnx_files.text())
    assert model(np.array(["a", "ü", ""], object)).tolist() == ["a", "ü", ""]


@pytest.mark.parametrize("share_weights", [False, True])
def test_what_is_no_model_is_refused_as_in_this_process(engine: hr.Engine, tmp_path: Path, share_weights: bool) -> None:
    damaged, empty = tmp_path / "damaged.onnx", tmp_path / "empty.onnx"
    damaged.write_bytes(onnx_files.large(1)[:-100])
    empty.touch()
    (tmp_path / "page.onnx").write_text("<html>not here</html>")
    for source in (damaged, empty, tmp_path / "page.onnx", tmp_path / "missing.onnx", tmp_path, b"", b"rubbish"):
        said = []
        for options in ({}, {"isolation": "process", "share_weights": share_weights}):
            with pytest.raises(hr.InvalidModel) as refused:
                hr.compile_model(source, engine=engine, **options)
            said.append(str(refused.value))
        assert said[0] == said[1]
    assert engine.statistics().ports == 0


def test_a_cancelled_run_ends_and_its_worker_goes_on(compiled: Compile) -> None:
    model = compiled("looping", onnx_files.looping())
    x = np.ones((1, 8), np.float32)
    pid = model.workers[0].pid
    future = model.submit([x, np.array([1 << 40], np.int64)])
    wait_for(lambda: model.statistics().running)
    assert future.cancel()
    assert model([x, np.array([3], np.int64)])[0].sum() == 8
    assert model.workers[0].pid == pid
    assert model.workers[0].starts == 1


@pytest.mark.parametrize("share_weights", [False, True])
def test_a_worker_that_is_killed_is_replaced_whatever_became_of_the_file(
    compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share_weights: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(onnx_files.large(1))
    model = compiled("large", "model.onnx", workers=1, share_weights=share_weights)
    x = np.ones((1, onnx_files.SIDE), np.float32)
    before = model(x)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    if share_weights:
        (tmp_path / "model.onnx").unlink()  # all there is of it is in memory
    os.kill(model.workers[0].pid, signal.SIGKILL)
    np.testing.assert_allclose(model(x), before, rtol=1e-4)
    assert model.workers[0].starts == 2


def test_a_file_that_is_another_one_when_a_worker_starts_anew_is_not_served(compiled: Compile, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_files.fixed())
    model = compiled("fixed", path)
    path.write_bytes(onnx_files.mixing())
    model.restart()
    wait_for(lambda: model.workers[0].reason)
    assert "has other inputs or outputs than it had" in str(model.workers[0].reason)


def test_awaiting_and_mapping_are_as_ever(compiled: Compile) -> None:
    model = compiled("digits", DIGITS, workers=2, max_batch_size=4)
    shape = [1 if n is None else n for n in model.inputs[0].shape]  # type: ignore[index]
    x = np.zeros(shape, model.inputs[0].dtype)  # type: ignore[index]

    async def ask() -> list[Any]:
        return await asyncio.gather(*(model.asubmit(x) for _ in range(20)))

    answers = [*asyncio.run(ask()), *model.map([x] * 50)]
    assert all(type(answer) is type(answers[0]) for answer in answers)
    with pytest.raises(hr.InvalidOption, match="see `scale`"):
        model.reschedule("multi_stream")


def test_its_threads_are_its_share_of_the_cores(compiled: Compile, engine: hr.Engine) -> None:
    model = compiled("large", onnx_files.large(1), workers=len(engine.cores))
    assert {status.threads for status in model.workers} == {1}
    alone = compiled("large", onnx_files.large(1))
    assert alone.workers[0].threads == len(engine.cores)

    def threads(pid: int) -> int:
        return len(os.listdir(f"/proc/{pid}/task"))

    more = len(engine.cores) - 1  # and as many of NumPy's; one has a thread that starts when it is ready
    wait_for(lambda: threads(alone.workers[0].pid) - threads(model.workers[0].pid) >= more)


def test_a_memory_limit_is_named_where_the_runtime_runs_into_it(compiled: Compile) -> None:
    limit = 1 << 30
    model = compiled("mixing", onnx_files.mixing(), memory_limit=limit)
    with pytest.raises(hr.OutOfMemory, match=r"1,073,741,824 bytes \(memory_limit\)"):
        model(np.zeros((15_000_000, 3), np.float32))  # 180 MB in: the answer has as many, and goes by way of others
