"""`engine.trace` on real runs: what the engine, its models and its futures record. The format has tests of its own."""

import asyncio
import gzip
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headrace as hr
from headrace.engine.engine import Engine
from headrace.engine.stream import Stream
from headrace.engine.topology import made_up
from headrace.errors import InvalidOption
from headrace.testing import FakeClock, Gate

PATIENCE = 30.0
DIGITS = Path(hr.__file__).parent / "bundled/digits/digits.onnx"
InThreads = Callable[..., Any]
Drawn = list[dict[str, Any]]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(topology=made_up(cores=2))
    yield engine
    for future in list(engine._unseen):  # what a test made fail on purpose
        future.exception()
    engine.close(timeout=PATIENCE)


@pytest.fixture
def narrow() -> Iterator[Engine]:
    """One core, and time stands still."""
    engine = Engine(topology=made_up(cores=1), clock=FakeClock())
    yield engine
    for future in list(engine._unseen):
        future.exception()
    engine.close(timeout=PATIENCE)


def refuse_constants(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


def read(path: Path) -> Drawn:
    packed = path.read_bytes()
    text = gzip.decompress(packed) if path.suffix == ".gz" else packed
    drawn: Drawn = json.loads(text, parse_constant=refuse_constants)["traceEvents"]
    return drawn


def tracks(drawn: Drawn) -> dict[int, str]:
    return {each["tid"]: each["args"]["name"] for each in drawn if each["ph"] == "M" and each["name"] == "thread_name"}


def runs(drawn: Drawn) -> Drawn:
    return [each for each in drawn if each.get("cat") == "run"]


def drops(drawn: Drawn) -> list[str]:
    return [each["name"] for each in drawn if each.get("cat") == "drop"]


def arrows(drawn: Drawn) -> list[list[tuple[str, str, float]]]:
    """Of each arrow its points: phase, track, microseconds."""
    names, found = tracks(drawn), {}
    for each in drawn:
        if each["ph"] in "stf":
            found.setdefault(each["id"], []).append((each["ph"], names[each["tid"]], each["ts"]))
    return list(found.values())


def phases(drawn: Drawn) -> list[str]:
    return ["".join(phase for phase, _, _ in arrow) for arrow in arrows(drawn)]


def waits(drawn: Drawn) -> list[float]:
    """How long each waiting span is, in microseconds; all of them have an end."""
    begun, found = {}, []
    for each in drawn:
        if each["ph"] == "b":
            begun[each["id"]] = each["ts"]
        elif each["ph"] == "e":
            found.append(each["ts"] - begun.pop(each["id"]))
    assert not begun
    return found


def fail() -> None:
    raise ValueError("on purpose")


# ---- operations


def test_an_operation_is_drawn_from_its_push_to_its_read(narrow: Engine, tmp_path: Path) -> None:
    clock, gate, path = narrow.clock, Gate(), tmp_path / "t.json"
    assert isinstance(clock, FakeClock)
    with narrow.trace(path):
        first = narrow.push(gate)
        gate.wait()
        clock.advance(0.25)
        second = narrow.push(lambda: None)
        clock.advance(0.5)
        gate.open()
        second.wait_to_read(PATIENCE)
        clock.advance(0.125)
        first.result()
        second.result()
    drawn = read(path)
    stream = "headrace-operations-0"
    assert [(run["ts"], run["dur"]) for run in runs(drawn)] == [(0, 750_000), (750_000, 0)]
    assert arrows(drawn) == [
        [("s", "caller 1", 0), ("t", stream, 0), ("f", "caller 1", 875_000)],
        [("s", "caller 1", 250_000), ("t", stream, 750_000), ("f", "caller 1", 875_000)],
    ]
    assert sorted(waits(drawn)) == [0, 500_000]
    line = test_an_operation_is_drawn_from_its_push_to_its_read.__code__.co_firstlineno + 4
    assert [run["name"] for run in runs(drawn)] == [f"test_trace.py:{line}", f"test_trace.py:{line + 3}"]


def test_each_of_many_operations_has_one_run_and_one_whole_arrow(engine: Engine, tmp_path: Path) -> None:
    path, variables = tmp_path / "t.json", [hr.Var() for _ in range(3)]
    with engine.trace(path):
        futures = [
            engine.push(lambda i=i: i, reads=[variables[i % 3]], writes=[variables[(i + 1) % 3]]) for i in range(100)
        ]
        assert [future.result(PATIENCE) for future in futures] == list(range(100))
    drawn = read(path)
    assert len(runs(drawn)) == 100
    assert phases(drawn) == ["stf"] * 100
    for arrow in arrows(drawn):
        times = [ts for _, _, ts in arrow]
        assert times == sorted(times)
    for track in tracks(drawn):
        on_it = sorted((run["ts"], run["ts"] + run["dur"]) for run in runs(drawn) if run["tid"] == track)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(on_it)), "a stream runs one thing at a time"


def test_what_waits_for_another_is_drawn_after_it(engine: Engine, tmp_path: Path) -> None:
    path, var, gate = tmp_path / "t.json", hr.Var(), Gate()
    with engine.trace(path):
        writes = engine.push(gate, writes=[var])
        gate.wait()
        reads = engine.push(lambda: None, reads=[var])
        gate.open()
        reads.result(PATIENCE)
        writes.result(PATIENCE)
    first, second = runs(read(path))
    assert second["ts"] >= first["ts"] + first["dur"]


def test_the_arrow_of_what_nobody_reads_ends_at_its_run(narrow: Engine, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    with narrow.trace(path):
        for _ in range(20):  # let go of at once: their ids come again
            narrow.push(lambda: None)
        narrow.waitall(PATIENCE)
    drawn = read(path)
    assert len(runs(drawn)) == 20
    assert phases(drawn) == ["sf"] * 20


def test_an_outcome_is_read_once_however_it_is_looked_at(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "t.json"

    async def awaited() -> None:
        await engine.push(lambda: None)

    with engine.trace(path):
        value, error, group = engine.push(lambda: None), engine.push(fail), engine.push(fail)
        value.result(PATIENCE)
        value.result(PATIENCE)
        error.exception(PATIENCE)
        with pytest.raises(ValueError, match="on purpose"):
            error.result()
        with pytest.raises(BaseExceptionGroup):
            engine.waitall(PATIENCE)
        asyncio.run(awaited())
    drawn = read(path)
    assert phases(drawn) == ["stf"] * 4
    assert len([each for each in drawn if each["name"] == "read"]) == 4
    assert group.can_read()


def test_what_was_pushed_before_is_drawn_without_an_arrow(narrow: Engine, tmp_path: Path) -> None:
    path, gate = tmp_path / "t.json", Gate()
    future = narrow.push(gate)
    gate.wait()
    with narrow.trace(path):
        gate.open()
        future.result(PATIENCE)
        narrow.push(lambda: None).result(PATIENCE)
    drawn = read(path)
    assert len(runs(drawn)) == 2
    assert phases(drawn) == ["stf"]


def test_each_calling_thread_has_a_track(engine: Engine, tmp_path: Path, in_threads: InThreads) -> None:
    path, meet = tmp_path / "t.json", threading.Barrier(3)

    def call() -> None:
        meet.wait(PATIENCE)  # at one time: an ident may come again
        for _ in range(10):
            engine.push(lambda: None).result(PATIENCE)
        meet.wait(PATIENCE)

    with engine.trace(path):
        in_threads(call, call, call).join()
    drawn = read(path)
    assert [name for name in tracks(drawn).values() if "caller" in name] == ["caller 1", "caller 2", "caller 3"]
    assert phases(drawn) == ["stf"] * 30
    for (_, pushed, _), _, (_, came_back, _) in arrows(drawn):
        assert pushed == came_back


def test_counters_tell_what_is_inside(narrow: Engine, tmp_path: Path) -> None:
    clock, path = narrow.clock, tmp_path / "t.json"
    assert isinstance(clock, FakeClock)
    with narrow.trace(path):
        gates = [Gate() for _ in range(3)]
        futures = [narrow.push(gate) for gate in gates]
        for gate, future in zip(gates, futures):
            gate.wait()
            clock.advance(1)
            gate.open()
            future.result(PATIENCE)
    counted = [each for each in read(path) if each["ph"] == "C"]
    assert [each["args"]["requests"] for each in counted if each["name"] == "inside"] == [3, 2, 1]
    assert [each["args"]["requests"] for each in counted if each["name"] == "waiting"] == [2, 1, 0]


# ---- what is not run


def test_what_is_not_run_is_dropped_with_the_reason(tmp_path: Path) -> None:
    clock, var, path = FakeClock(), hr.Var("v"), tmp_path / "t.json"
    engine = Engine(topology=made_up(cores=1), clock=clock, max_operations=6, on_full="shed")
    with engine.trace(path):
        gate, last = Gate(), Gate()
        failed = engine.push(lambda: (gate(), fail()), writes=[var])
        gate.wait()
        late = engine.push(lambda: None, deadline=clock.now() + 1, priority=10)
        poisoned = engine.push(lambda: None, reads=[var], priority=10)
        cancelled = engine.push(lambda: None)
        assert cancelled.cancel()
        shed = [engine.push(lambda: None) for _ in range(3)]
        running = engine.push(last, priority=5)  # one too many: the newest of the others goes
        clock.advance(2)
        gate.open()
        last.wait()
        closing = threading.Thread(target=engine.close, kwargs={"drain": False})
        closing.start()
        while not shed[0].can_read():
            engine.poll(1, timeout=0.01)
        last.open()
        closing.join(PATIENCE)
    outcomes = [type(future.exception()).__name__ for future in (failed, late, poisoned, cancelled, *shed, running)]
    assert outcomes == [
        "ValueError", "DeadlineExceeded", "PoisonedVar", "Cancelled", "Closed", "Closed", "Overloaded", "NoneType",
    ]  # fmt: skip
    drawn = read(path)
    assert sorted(drops(drawn)) == ["cancelled", "closed", "closed", "late", "poisoned", "shed"]
    assert len(runs(drawn)) == 2
    assert len(arrows(drawn)) == 2, "what is not run has no arrow"
    assert len(waits(drawn)) == 8, "and it is seen to wait until it is dropped"


def test_a_drop_is_drawn_when_it_happened(narrow: Engine, tmp_path: Path) -> None:
    clock, path, gate = narrow.clock, tmp_path / "t.json", Gate()
    assert isinstance(clock, FakeClock)
    with narrow.trace(path):
        running = narrow.push(gate)
        gate.wait()
        cancelled = narrow.push(lambda: None)
        clock.advance(0.5)
        cancelled.cancel()
        clock.advance(0.5)
        gate.open()
        running.result(PATIENCE)
    drawn = read(path)
    assert [each["ts"] for each in drawn if each.get("cat") == "drop"] == [500_000]
    assert sorted(waits(drawn)) == [0, 500_000]


def test_what_is_cancelled_while_it_runs_is_drawn_as_a_run(narrow: Engine, tmp_path: Path) -> None:
    path, gate = tmp_path / "t.json", Gate()
    with narrow.trace(path):
        future = narrow.push(gate)
        gate.wait()
        future.cancel()
        gate.open()
        narrow.waitall(PATIENCE)
    drawn = read(path)
    assert drops(drawn) == []
    assert len(runs(drawn)) == 1
    assert phases(drawn) == ["sf"]


# ---- models


def test_a_batch_of_a_model_is_one_run_with_an_arrow_for_each_request(engine: Engine, tmp_path: Path) -> None:
    path, image = tmp_path / "t.json", np.zeros((1, 1, 8, 8), np.float32)
    with hr.compile_model(DIGITS, engine=engine, max_batch_size=4, scheduler="single_stream") as model:
        image = np.zeros([n or 1 for n in model.inputs[0].shape], np.float32)
        gates = [Gate(), Gate()]
        with engine.trace(path):
            hold = [engine.push(gate) for gate in gates]  # the cores are taken: requests wait for company
            for gate in gates:
                gate.wait()
            futures = [model.submit(image) for _ in range(4)]
            for gate in gates:
                gate.open()
            for future in [*hold, *futures]:
                future.result(PATIENCE)
        assert model.statistics().runs == 1
    drawn = read(path)
    (batch,) = [run for run in runs(drawn) if run["name"] == "digits"]
    assert batch["args"]["requests"] == 4
    assert batch["args"]["oldest waited (ms)"] > 0
    assert tracks(drawn)[batch["tid"]] == "headrace-digits-0"
    assert phases(drawn) == ["stf"] * 6
    assert [track for arrow in arrows(drawn) for phase, track, _ in arrow if phase == "t"].count(
        "headrace-digits-0"
    ) == 4


def test_a_run_tells_how_many_rows_it_had(narrow: Engine, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    with hr.compile_model(DIGITS, engine=narrow, max_batch_size=8) as model, narrow.trace(path):
        model(np.zeros([3, *model.inputs[0].shape[1:]], np.float32))
    (run,) = runs(read(path))
    assert run["args"]["requests"] == 1
    assert run["args"]["rows"] == 3


def test_a_request_that_fails_or_is_cancelled_is_drawn_as_such(narrow: Engine, tmp_path: Path) -> None:
    path, gate = tmp_path / "t.json", Gate()
    with hr.compile_model(lambda x: (gate(), 1 / x)[1], engine=narrow, name="inverse") as model:
        with narrow.trace(path):
            failed = model.submit(0)
            gate.wait()
            cancelled = model.submit(1)
            cancelled.cancel()
            gate.open()
            assert failed.exception(PATIENCE) is not None
            assert model(2) == 0.5
    drawn = read(path)
    assert [run["name"] for run in runs(drawn)] == ["inverse", "inverse"]
    assert drops(drawn) == ["cancelled"]
    assert phases(drawn) == ["stf", "stf"]


def test_two_models_of_one_name_have_tracks_of_their_own(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    with (
        hr.compile_model(lambda x: x, engine=engine, name="same") as one,
        hr.compile_model(lambda x: x, engine=engine, name="same") as other,
        engine.trace(path),
    ):
        one(1)
        other(1)
    drawn = read(path)
    assert len(set(tracks(drawn).values())) == len(tracks(drawn))
    assert len({run["tid"] for run in runs(drawn)}) == 2


def test_two_models_of_one_name_that_are_made_at_once_have_tracks_of_their_own(
    engine: Engine, in_threads: InThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, start, models = Gate(), Stream.start, []

    def slowly(stream: Stream) -> None:
        if threading.current_thread().name == "slow":
            gate()
        start(stream)

    monkeypatch.setattr(Stream, "start", slowly)
    make = lambda: models.append(hr.compile_model(lambda x: x, engine=engine, name="same", num_streams=1))  # noqa: E731
    slow = threading.Thread(target=make, name="slow")
    slow.start()
    gate.wait()
    make()
    gate.open()
    slow.join(PATIENCE)
    names = [stream.name for port in engine._ports for stream in port.streams]
    for model in models:
        model.close()
    assert len(models) == 2
    assert len(set(names)) == len(names)


# ---- begin and end


def test_streams_have_tracks_though_they_did_nothing(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    with hr.compile_model(lambda x: x, engine=engine, name="idle", scheduler="multi_stream"), engine.trace(path):
        pass
    assert [name for name in tracks(read(path)).values() if "idle" in name] == ["headrace-idle-0", "headrace-idle-1"]


def test_a_run_that_goes_on_when_the_trace_ends_is_drawn_up_to_there(narrow: Engine, tmp_path: Path) -> None:
    clock, path, gate = narrow.clock, tmp_path / "t.json", Gate()
    assert isinstance(clock, FakeClock)
    trace = narrow.trace(path)
    future = narrow.push(gate)
    gate.wait()
    clock.advance(2)
    trace.stop()
    gate.open()
    future.result(PATIENCE)
    assert [run["dur"] for run in runs(read(path))] == [2_000_000]
    assert phases(read(path)) == ["sf"]


def test_an_operation_may_end_the_trace_it_is_in(narrow: Engine, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    trace = narrow.trace(path)
    narrow.push(trace.stop).result(PATIENCE)
    assert len(runs(read(path))) == 1


def test_an_engine_that_is_closed_writes_its_trace(tmp_path: Path) -> None:
    path = tmp_path / "t.json.gz"
    with Engine(topology=made_up(cores=1)) as engine:
        trace = engine.trace(path)
        futures = [engine.push(lambda: None) for _ in range(3)]
    assert not trace.running
    assert len(runs(read(path))) == 3, "what it still had to do is in it"
    assert all(future.can_read() for future in futures)
    written = path.read_bytes()
    trace.stop()
    assert path.read_bytes() == written


def test_a_run_that_close_has_left_to_itself_is_in_the_trace(tmp_path: Path) -> None:
    path, gate = tmp_path / "t.json", Gate()
    engine = Engine(topology=made_up(cores=1))
    engine.trace(path)
    future = engine.push(gate)
    gate.wait()
    engine.close(timeout=0.0)
    gate.open()
    future.result(PATIENCE)
    assert len(runs(read(path))) == 1


def test_an_engine_whose_trace_cannot_be_written_is_closed_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    engine = Engine(topology=made_up(cores=1))
    engine.trace(folder / "t.json")
    shutil.rmtree(folder)
    with pytest.raises(OSError, match="gone"):
        engine.close()
    assert engine.closed
    engine.close()


def test_while_it_is_traced_an_engine_refuses_a_second_trace(narrow: Engine, tmp_path: Path) -> None:
    with narrow.trace(tmp_path / "first.json") as trace:
        with pytest.raises(InvalidOption, match=r"first\.json"):
            narrow.trace(tmp_path / "second.json")
        assert trace.running
        narrow.push(lambda: 1).result(PATIENCE)
    assert [each.name for each in tmp_path.iterdir()] == ["first.json"]
    with narrow.trace(tmp_path / "second.json"):
        narrow.push(lambda: 2).result(PATIENCE)
        narrow.push(lambda: 3).result(PATIENCE)
    assert len(runs(read(tmp_path / "first.json"))) == 1
    drawn = read(tmp_path / "second.json")
    assert len(runs(drawn)) == len([each for each in drawn if each["name"] == "read"]) == 2
    assert narrow.guard.trace is None


def test_a_path_that_cannot_be_written_is_refused_and_another_accepted(narrow: Engine, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption):
        narrow.trace(tmp_path / "no/such/folder/t.json")
    assert narrow.guard.trace is None
    narrow.trace(tmp_path / "t.json").stop()
    assert runs(read(tmp_path / "t.json")) == []


def test_nothing_is_recorded_once_it_has_ended(engine: Engine, tmp_path: Path) -> None:
    assert engine.guard.trace is None
    with engine.trace(tmp_path / "t.json") as trace:
        engine.push(lambda: None).result(PATIENCE)
    assert engine.guard.trace is None
    before = trace.events
    gate = Gate()
    with hr.compile_model(lambda x: x, engine=engine) as model:
        assert model(1) == 1
        futures = [engine.push(gate), engine.push(gate)]
        gate.wait(2)
        engine.push(lambda: None).cancel()
        gate.open()
        for future in futures:
            future.result(PATIENCE)
    assert trace.events == before
    assert before


def test_an_engine_is_not_in_the_trace_of_another(engine: Engine, narrow: Engine, tmp_path: Path) -> None:
    with engine.trace(tmp_path / "t.json"), narrow.trace(tmp_path / "other.json"):
        engine.push(lambda: None).result(PATIENCE)
    assert len(runs(read(tmp_path / "t.json"))) == 1
    assert runs(read(tmp_path / "other.json")) == []


def test_no_more_than_capacity_is_kept(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    with engine.trace(path, capacity=30):
        for _ in range(50):
            engine.push(lambda: None).result(PATIENCE)
    assert 1 <= len(runs(read(path))) <= 30
    assert "were forgotten" in read(path)[0]["args"]["name"]


def test_a_trace_may_begin_and_end_in_the_middle_of_the_work_of_others(
    engine: Engine, tmp_path: Path, in_threads: InThreads, restless: None
) -> None:
    path, over = tmp_path / "t.json", threading.Event()

    def work() -> None:
        var = hr.Var()
        while not over.is_set():
            futures = [engine.push(lambda: None, writes=[var]) for _ in range(5)]
            futures[1].cancel()
            futures[4].result(PATIENCE)

    crowd = in_threads(work, work, work)
    try:
        for _ in range(5):
            with engine.trace(path):
                for _ in range(20):
                    engine.push(lambda: None).result(PATIENCE)
            drawn = read(path)
            assert len(runs(drawn)) >= 20
            assert set(phases(drawn)) <= {"stf", "sf"}
            waits(drawn)
    finally:
        over.set()
    crowd.join()


def test_a_folder_that_is_gone_is_told_by_the_name_the_user_gave(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    with hr.Engine() as engine:
        trace = engine.trace(folder / "t.json")
        folder.rmdir()
        with pytest.raises(OSError, match="the trace could not be written") as refused:
            trace.stop()
    assert refused.value.filename == str(folder / "t.json")
    assert ".part" not in str(refused.value)
