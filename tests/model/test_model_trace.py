"""`model.trace` on real runs: what is recorded, of whom, into which files, and that nothing is left."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headrace as hr
from headrace.engine.events import READ
from headrace.engine.topology import made_up
from headrace.engine.trace import Several, Trace
from headrace.errors import InvalidOption
from headrace.model.drawing import CYCLE
from headrace.model.timeline import Timeline, figures
from headrace.model.tracing import timeline_of_trace
from headrace.testing import Gate

PATIENCE = 30.0
WHITE = (255, 255, 255)


@pytest.fixture
def wide() -> Iterator[hr.Engine]:
    """Two sockets of two cores."""
    engine = hr.Engine(topology=made_up(cores=4, nodes=2))
    yield engine
    engine.close(timeout=PATIENCE)


def traced(model: hr.Model, trace: Trace) -> Timeline:
    return timeline_of_trace(model, trace)


def runs(path: Path) -> list[dict[str, Any]]:
    packed = path.read_bytes()
    text = gzip.decompress(packed) if path.suffix == ".gz" else packed
    return [each for each in json.loads(text)["traceEvents"] if each.get("cat") == "run"]


def colours(path: Path) -> set[Any]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        found = image.convert("RGB").getcolors(1 << 24)
    assert found is not None
    return {colour for _, colour in found}


def test_every_request_is_in_the_recording_once_on_the_cores_of_its_stream(wide: hr.Engine, tmp_path: Path) -> None:
    with hr.compile_model(lambda x: x + 1, engine=wide, scheduler="multi_stream", num_streams=2) as model:
        with model.trace(tmp_path / "t.png") as trace:
            assert list(model.map(range(100))) == list(range(1, 101))
        timeline = traced(model, trace)
        assert [row.cores for row in timeline.rows] == [place.cores for place in model.placements] == [(0, 1), (2, 3)]
    assert sorted(number for span in timeline.spans for number in span.requests) == list(range(1, 101))
    for request in timeline.requests:
        assert request.arrived is not None
        assert request.begun is not None
        assert request.ended is not None
        assert request.arrived <= request.begun <= request.ended
    assert figures(timeline).requests == 100


def test_what_is_written_follows_from_how_a_name_ends_and_there_may_be_several(
    engine: hr.Engine, tmp_path: Path
) -> None:
    names = ["t.png", "t.json", "t.json.gz", "CAPITALS.PNG", "again.json"]
    with hr.compile_model(lambda x: x, engine=engine) as model:
        with model.trace(*(tmp_path / name for name in names)) as trace:
            assert list(tmp_path.iterdir()) == []
            for number in range(3):
                model(number)
        assert trace.paths == tuple(tmp_path / name for name in names)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(names)
    for name in names:
        if name.lower().endswith(".png"):
            assert set(CYCLE[:3]) <= colours(tmp_path / name)
        else:
            assert len(runs(tmp_path / name)) == 3


def test_a_batch_is_one_run_of_several_requests(engine: hr.Engine, tmp_path: Path, digits: Path) -> None:
    with hr.compile_model(digits, engine=engine, max_batch_size=4) as model:
        assert model.inputs is not None
        image = np.zeros([n or 1 for n in model.inputs[0].shape], np.float32)
        gate = Gate()
        with model.trace(tmp_path / "t.png") as trace:
            hold = engine.push(gate)  # the core is taken: requests wait for company
            gate.wait()
            futures = [model.submit(image) for _ in range(6)]
            gate.open()
            for future in [hold, *futures]:
                future.result(PATIENCE)
        timeline = traced(model, trace)
    assert [span.requests for span in timeline.spans] == [(1, 2, 3, 4), (5, 6)]


def test_who_is_cancelled_is_dropped_and_no_run_has_it(engine: hr.Engine, tmp_path: Path) -> None:
    gate = Gate()
    with hr.compile_model(lambda x: gate() if x else None, engine=engine) as model:
        with model.trace(tmp_path / "t.png") as trace:
            first = model.submit(1)
            gate.wait()
            second, third = model.submit(0), model.submit(0)
            second.cancel()
            gate.open()
            first.result(PATIENCE)
            third.result(PATIENCE)
        timeline = traced(model, trace)
    assert [request.dropped for request in timeline.requests] == ["", "cancelled", ""]
    assert [span.requests for span in timeline.spans] == [(1,), (3,)]
    assert figures(timeline).dropped == 1


def test_what_still_runs_and_still_waits_when_it_stops_is_seen_as_such(engine: hr.Engine, tmp_path: Path) -> None:
    gate = Gate()
    with hr.compile_model(lambda _: gate(), engine=engine) as model:
        trace = model.trace(tmp_path / "t.png", tmp_path / "t.json")
        futures = [model.submit(0), model.submit(0)]
        gate.wait()
        trace.stop()
        timeline = traced(model, trace)
        gate.open()
        for future in futures:
            future.result(PATIENCE)
    assert [(span.requests, span.finished) for span in timeline.spans] == [((1,), False)]
    assert [request.ended for request in timeline.requests] == [None, None]
    assert len(runs(tmp_path / "t.json")) == 1


def test_only_the_models_own_requests_are_recorded(engine: hr.Engine, tmp_path: Path) -> None:
    with (
        hr.compile_model(lambda x: x, engine=engine, name="same") as mine,
        hr.compile_model(lambda x: x, engine=engine, name="same") as other,
    ):
        with mine.trace(tmp_path / "t.json", tmp_path / "t.png") as trace:
            for number in range(20):
                mine(number)
                other(number)
                engine.push(lambda: None).result(PATIENCE)
                other.submit(1).cancel()
        timeline = traced(mine, trace)
    assert len(timeline.spans) == len(timeline.requests) == 20
    assert not any(request.dropped for request in timeline.requests)
    drawn = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert len([each for each in drawn if each["name"] == "read"]) == 20
    assert len([each for each in drawn if each["name"] == "submit"]) == 20


def test_models_and_their_engine_may_be_traced_at_the_same_time(engine: hr.Engine, tmp_path: Path) -> None:
    with (
        hr.compile_model(lambda x: x, engine=engine, name="a") as a,
        hr.compile_model(lambda x: x, engine=engine, name="b") as b,
    ):
        with engine.trace(tmp_path / "engine.json"):
            a(1)
            with a.trace(tmp_path / "a.json"):
                a(1)
                with b.trace(tmp_path / "b.json"):
                    a(1)
                    b(1)
                b(1)
            a(1)
    assert [len(runs(tmp_path / f"{name}.json")) for name in ("engine", "a", "b")] == [6, 2, 1]
    assert engine.guard.trace is None
    assert engine.guard.looks == ()


def test_a_second_trace_of_a_model_is_refused_until_the_first_has_stopped(engine: hr.Engine, tmp_path: Path) -> None:
    with hr.compile_model(lambda x: x, engine=engine) as model:
        with model.trace(tmp_path / "first.png") as first:
            with pytest.raises(InvalidOption, match=r"first\.png; stop that first"):
                model.trace(tmp_path / "second.png")
            assert first.running
        with model.trace(tmp_path / "second.png"):
            model(1)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["first.png", "second.png"]


def test_where_nothing_ran_the_picture_says_so(engine: hr.Engine, tmp_path: Path) -> None:
    with hr.compile_model(lambda x: x, engine=engine) as model:
        model(1)
        with model.trace(tmp_path / "t.png", tmp_path / "t.json"):
            engine.push(lambda: None).result(PATIENCE)
        model(1)
    assert not colours(tmp_path / "t.png") & set(CYCLE)
    assert runs(tmp_path / "t.json") == []


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["t.gif"], r"can be \.png, \.json, \.json\.gz"),
        (["t"], r"can be \.png, \.json, \.json\.gz"),
        (["t.png", "t.gz"], r"can be \.png, \.json, \.json\.gz"),
        (["missing/t.png"], "missing, which is no folder; make it first"),
        (["t.json", "missing/t.png"], "missing, which is no folder; make it first"),
        ([], "needs the name of a file"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_and_nothing_is_recorded(
    engine: hr.Engine, tmp_path: Path, names: list[str], says: str
) -> None:
    with hr.compile_model(lambda x: x, engine=engine) as model:
        with pytest.raises(InvalidOption, match=says):
            model.trace(*(tmp_path / name for name in names))
        assert model.traced is None
        assert engine.guard.trace is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("window", [0, -1, (2, 1), float("nan")])
def test_a_window_that_is_none_is_refused_before_anything_is_recorded(
    engine: hr.Engine, tmp_path: Path, window: Any
) -> None:
    with hr.compile_model(lambda x: x, engine=engine) as model:
        with pytest.raises(InvalidOption, match="window is seconds"):
            model.trace(tmp_path / "t.png", window=window)
        assert engine.guard.trace is None


def test_one_file_that_cannot_be_written_does_not_cost_the_others(engine: hr.Engine, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    with hr.compile_model(lambda x: x, engine=engine) as model:
        trace = model.trace(gone / "t.png", tmp_path / "t.json", tmp_path / "t.png")
        model(1)
        gone.rmdir()
        with pytest.raises(OSError, match="gone"):
            trace.stop()
        assert engine.guard.trace is None
        assert model(2) == 2
    assert len(runs(tmp_path / "t.json")) == 1
    assert CYCLE[0] in colours(tmp_path / "t.png")


def test_a_model_that_is_closed_writes_its_trace_with_what_it_still_had_to_do(
    engine: hr.Engine, tmp_path: Path
) -> None:
    model = hr.compile_model(lambda x: x, engine=engine)
    trace = model.trace(tmp_path / "t.json")
    futures = [model.submit(n) for n in range(10)]
    model.close()
    assert not trace.running
    assert len(runs(tmp_path / "t.json")) == 10
    assert all(future.can_read() for future in futures)
    assert engine.guard.trace is None


def test_an_engine_that_is_closed_writes_the_traces_of_its_models(tmp_path: Path) -> None:
    with hr.Engine(topology=made_up(cores=2)) as engine:
        a, b = (hr.compile_model(lambda x: x, engine=engine, name=name) for name in "ab")
        traces = [engine.trace(tmp_path / "engine.json"), a.trace(tmp_path / "a.png"), b.trace(tmp_path / "b.json")]
        a(1)
        b(1)
    assert not any(trace.running for trace in traces)
    assert CYCLE[0] in colours(tmp_path / "a.png")
    assert len(runs(tmp_path / "b.json")) == 1
    assert len(runs(tmp_path / "engine.json")) == 2
    a.close()
    b.close()


def test_a_trace_that_cannot_be_written_keeps_neither_the_engine_open_nor_another_trace_unwritten(
    tmp_path: Path,
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    engine = hr.Engine(topology=made_up(cores=2))
    model = hr.compile_model(lambda x: x, engine=engine)
    engine.trace(gone / "engine.json")
    model.trace(tmp_path / "model.json")
    model(1)
    gone.rmdir()
    with pytest.raises(OSError, match="gone"):
        engine.close()
    assert engine.closed
    assert len(runs(tmp_path / "model.json")) == 1
    model.close()


def test_a_request_may_stop_the_trace_it_is_in(engine: hr.Engine, tmp_path: Path) -> None:
    traces: list[Trace] = []
    with hr.compile_model(lambda _: traces[0].stop(), engine=engine) as model:
        traces.append(model.trace(tmp_path / "t.png"))
        model(0)
    assert CYCLE[0] in colours(tmp_path / "t.png")


def test_nothing_is_recorded_before_and_after(engine: hr.Engine, tmp_path: Path) -> None:
    with hr.compile_model(lambda x: x, engine=engine) as model:
        model(0)
        with model.trace(tmp_path / "t.json") as trace:
            model(1)
        before = trace.events
        model(2)
        engine.push(lambda: None).result(PATIENCE)
        assert trace.events == before
    assert len(runs(tmp_path / "t.json")) == 1


def test_a_trace_that_has_ended_keeps_no_model_alive(engine: hr.Engine, tmp_path: Path) -> None:
    model = hr.compile_model(lambda x: x, engine=engine)
    with model.trace(tmp_path / "t.png"):
        model(1)
    model.close()
    gone = weakref.ref(model)
    del model
    import gc

    gc.collect()
    assert gone() is None


def test_the_naive_scheduler_is_traced_as_the_one_row_of_its_callers(tmp_path: Path) -> None:
    gate = Gate()
    with hr.compile_model(lambda x: gate() if x else None, scheduler="naive") as model:
        with model.trace(tmp_path / "t.png", tmp_path / "t.json") as trace:
            first = threading.Thread(target=model, args=(1,))
            second = threading.Thread(target=model, args=(0,))
            first.start()
            gate.wait()
            second.start()
            while len(trace.events) < 2:  # the second has arrived, and waits for the first
                time.sleep(0)
            gate.open()
            first.join(PATIENCE)
            second.join(PATIENCE)
        timeline = traced(model, trace)
        before = trace.events
        model(0)
        assert trace.events == before
        assert model.guard.trace is None
    assert [row.name for row in timeline.rows] == ["caller"]
    assert [span.requests for span in timeline.spans] == [(1,), (2,)]
    assert timeline.requests[1].begun == timeline.spans[1].start >= timeline.spans[0].end
    assert timeline.requests[1].arrived < timeline.spans[0].end  # type: ignore[operator]
    assert len(runs(tmp_path / "t.json")) == 2


def test_no_more_than_capacity_is_kept_and_the_picture_is_of_the_newest(engine: hr.Engine, tmp_path: Path) -> None:
    with hr.compile_model(lambda x: x, engine=engine) as model:
        with model.trace(tmp_path / "t.png", capacity=30) as trace:
            for number in range(100):
                model(number)
        assert trace.dropped > 0
        timeline = traced(model, trace)
    assert 5 <= len(timeline.spans) <= 30
    numbers = [number for span in timeline.spans for number in span.requests]
    assert numbers == sorted(numbers)


def test_a_picture_needs_no_pillow_before_it_is_written() -> None:
    code = """
import sys, tempfile, headrace as hr
with tempfile.TemporaryDirectory() as folder, hr.compile_model(lambda x: x) as model:
    assert "headrace.model.drawing" not in sys.modules
    with model.trace(folder + "/t.json"):
        model(1)
    assert "PIL" not in sys.modules
    with model.trace(folder + "/t.png"):
        model(1)
    assert "PIL" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_recording_into_several_traces_costs_less_than_a_microsecond(tmp_path: Path) -> None:
    record = Several([Trace(tmp_path / "a.json"), Trace(tmp_path / "b.json")]).record
    event = (READ, 1.0, 2, 3)

    def seconds() -> float:
        begun = time.perf_counter()
        for _ in range(2000):
            record(event)
        return (time.perf_counter() - begun) / 2000

    assert min(seconds() for _ in range(20)) < 1e-6
