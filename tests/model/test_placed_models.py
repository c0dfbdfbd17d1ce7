"""Where a model's streams, sessions and threads are; the CPUs are this machine's, their nodes are made up."""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headrace as hr
from headrace.engine.topology import Core, Topology, made_up
from headrace.testing import Gate

PATIENCE = 30.0
linux = pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
CPUS = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]


def a_node_for_each(cpus: list[int], *, width: int = 1, quota: float | None = None) -> Topology:
    """Each of `cpus` with a NUMA node of its own; beyond `width` 1 with neighbours that are not really there."""
    far = 10_000
    cores = [Core(cpu + far * n, node, node, node, 0) for node, cpu in enumerate(cpus) for n in range(width)]
    return Topology(tuple(cores), quota, ())


def affinity() -> set[int]:
    return set(os.sched_getaffinity(0))


def affinities_of(model: hr.Model, streams: int) -> list[set[int]]:
    """Where each stream's thread may run: `model` answers with `affinity()` once all streams have come."""
    return [future.result(PATIENCE) for future in [model.submit([]) for _ in range(streams)]]


def met(streams: int) -> Any:
    meeting = threading.Barrier(streams)

    def where() -> set[int]:
        meeting.wait(PATIENCE)
        return affinity()

    return where


@linux
def test_each_elastic_stream_stays_on_its_node() -> None:
    machine, before = a_node_for_each([*CPUS, *CPUS][:2]), affinity()
    if len(CPUS) == 1:
        pytest.skip("one CPU: everything is everywhere")
    with (
        hr.Engine(topology=machine) as engine,
        hr.compile_model(met(2), scheduler="elastic", engine=engine) as model,
    ):
        found = affinities_of(model, 2)
    assert sorted(found, key=min) == [{cpu} for cpu in CPUS[:2]]
    assert affinity() == before


@linux
@pytest.mark.parametrize("tensors", [False, True], ids=["callable", "onnx"])
def test_callbacks_and_what_they_start_are_not_bound(tensors: bool, digits: Path) -> None:
    """A callback runs on the stream that made the result; a thread it starts inherits where it may run."""
    if len(CPUS) == 1:
        pytest.skip("one CPU: everything is everywhere")
    found: list[set[int]] = []
    told = threading.Event()
    gate = Gate()

    def callback(_: object) -> None:
        found.append(affinity())
        thread = threading.Thread(target=lambda: found.append(affinity()))
        thread.start()
        thread.join()
        told.set()

    def wait(_: object) -> set[int]:
        gate()
        return affinity()

    with hr.Engine(topology=a_node_for_each(CPUS[:2])) as engine:
        if tensors:
            model = hr.compile_model(digits, scheduler="elastic", engine=engine)
            future = model.submit(np.zeros((1, 1, 8, 8), np.float32))
        else:
            model = hr.compile_model(wait, scheduler="elastic", engine=engine)
            future = model.submit(0)
        future.add_done_callback(callback)
        gate.open()
        value = future.result(PATIENCE)
        assert told.wait(PATIENCE)
    assert tensors or value in [{cpu} for cpu in CPUS[:2]]  # its run was bound
    assert found == [set(CPUS), set(CPUS)]


@linux
@pytest.mark.parametrize(
    ("scheduler", "machine"),
    [
        ("elastic", a_node_for_each(CPUS[:1])),  # one place: everything is near
        ("elastic", a_node_for_each([*CPUS[:2], 10_000], quota=len(CPUS[:2]) + 0.5)),  # which, is not said
        ("single_stream", a_node_for_each(CPUS)),
        ("multi_stream", a_node_for_each(CPUS)),
    ],
)
def test_other_streams_are_not_bound(scheduler: str, machine: Topology) -> None:
    with (
        hr.Engine(topology=machine) as engine,
        hr.compile_model(affinity, scheduler=scheduler, engine=engine) as model,
    ):
        assert model([]) == set(CPUS)


def test_cpus_that_are_not_there_bind_nobody() -> None:
    with (
        hr.Engine(topology=made_up(8192, nodes=2)) as engine,
        hr.compile_model(met(2), scheduler="elastic", engine=engine) as model,
    ):
        assert all(found <= set(CPUS) and found for found in affinities_of(model, 2))


def threads() -> dict[int, str]:
    """The threads of this process, and on which CPUs each may run."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            lines = (task / "status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        found[int(task.name)] = next(line.split()[1] for line in lines if line.startswith("Cpus_allowed_list"))
    return found


@linux
def test_an_elastic_session_is_made_where_it_runs_and_its_threads_stay_there(digits: Path) -> None:
    if len(CPUS) == 1:
        pytest.skip("one CPU: everything is everywhere")
    before = threads()
    with (
        hr.Engine(topology=a_node_for_each(CPUS[:2], width=3)) as engine,
        hr.compile_model(digits, scheduler="elastic", engine=engine, max_batch_size=None) as model,
    ):
        for _ in range(10_000):  # a thread that was joined may be seen a moment longer
            new = {tid: cpus for tid, cpus in threads().items() if tid not in before}
            if len(new) == 6:
                break
        ours = {thread.native_id for thread in threading.enumerate()}
        of_runtime = sorted(cpus for tid, cpus in new.items() if tid not in ours)
        # Two of each session's three threads are its own; the third is the stream that calls it.
        assert of_runtime == sorted([str(CPUS[0])] * 2 + [str(CPUS[1])] * 2)
        assert model(np.zeros((1, 1, 8, 8), np.float32)) is not None


def test_elastic_streams_of_one_core_have_a_session_each(digits: Path) -> None:
    with hr.Engine(topology=made_up(3, nodes=3)) as engine:
        elastic = hr.compile_model(digits, scheduler="elastic", engine=engine)
        multi = hr.compile_model(digits, scheduler="multi_stream", engine=engine)
        sessions = [len({id(it._session) for it in model._instances}) for model in (elastic, multi)]  # type: ignore[attr-defined]
        assert sessions == [3, 1]


def test_what_goes_wrong_where_it_is_made_is_raised_here() -> None:
    with hr.Engine(topology=made_up(2, nodes=2)) as engine, pytest.raises(hr.InvalidModel, match="cannot be loaded"):
        hr.compile_model(b"corrupt", scheduler="elastic", engine=engine)
    assert not [thread for thread in threading.enumerate() if thread.name == "headrace-load"]


# --- said at compile --------------------------------------------------------------------------------------------------


def test_streams_that_straddle_are_placed_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with (
        hr.Engine(topology=made_up(16, nodes=2)) as engine,
        hr.compile_model(affinity, scheduler="multi", num_streams=3, engine=engine, name="m") as model,
    ):
        assert [str(placement) for placement in model.placements] == ["0-5", "6-10", "11-15"]
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("headrace.model", "WARNING")
    assert record.getMessage().startswith("m: num_streams=3 on 16 cores: stream 1 (cores 6-10) straddles NUMA nodes 0 ")


def test_nothing_is_logged_where_nothing_straddles(caplog: pytest.LogCaptureFixture) -> None:
    with hr.Engine(topology=made_up(16, nodes=2)) as engine:
        for options in ({"scheduler": "multi", "num_streams": 4}, {"scheduler": "elastic"}, {"scheduler": "multi"}, {}):
            hr.compile_model(affinity, engine=engine, **options).close()  # type: ignore[arg-type]
    assert caplog.records == []


# --- one engine, several models: what DeepSparse called a Context -----------------------------------------------------


def test_every_scheduler_places_within_the_cores_of_a_shared_engine() -> None:
    machine = made_up(16, nodes=2, l3_per_node=2)
    with hr.Engine(topology=machine, num_cores=12) as engine:
        own = {core.cpu for core in engine.cores}
        assert own == set(range(12))
        expected: dict[str, list[str]] = {
            "single_stream": ["0-11"],
            "multi_stream": [str(cpu) for cpu in range(12)],
            "elastic": ["0-7", "8-11"],
        }
        models = {name: hr.compile_model(lambda x: x, scheduler=name, engine=engine) for name in expected}
        for name, model in models.items():
            assert [str(placement) for placement in model.placements] == expected[name]
            assert {cpu for placement in model.placements for cpu in placement.cores} <= own
        narrow = hr.compile_model(lambda x: x, scheduler="elastic", num_cores=8, engine=engine)
        assert [str(placement) for placement in narrow.placements] == ["0-3", "4-7"]
        assert [model(1) for model in (*models.values(), narrow)] == [1, 1, 1, 1]
        with pytest.raises(hr.NotEnoughCores):
            hr.compile_model(lambda x: x, scheduler="elastic", num_cores=13, engine=engine)


def test_models_of_all_schedulers_on_one_engine_never_use_more_than_its_cores() -> None:
    lock, used, most = threading.Lock(), 0, 0

    def run(width: int) -> None:
        nonlocal used, most
        with lock:
            used += width
            most = max(most, used)
        sum(range(200))
        with lock:
            used -= width

    with hr.Engine(topology=made_up(8, nodes=2), num_cores=6) as engine:
        models = {
            6: hr.compile_model(run, scheduler="single_stream", engine=engine),
            1: hr.compile_model(run, scheduler="multi_stream", engine=engine),
            2: hr.compile_model(run, scheduler="elastic", engine=engine),  # 4 and 2 wide: at least 2
        }
        for future in [model.submit(width) for _ in range(60) for width, model in models.items()]:
            future.result(PATIENCE)
    assert most <= 6


def test_elastic_runs_no_two_requests_on_one_node() -> None:
    gates = [Gate(), Gate(), Gate()]
    started: list[int] = []

    def run(x: int) -> None:
        started.append(x)
        gates[x]()

    with (
        hr.Engine(topology=made_up(8, nodes=2)) as engine,
        hr.compile_model(run, scheduler="elastic", engine=engine) as model,
    ):
        futures = [model.submit(x) for x in range(3)]
        gates[0].wait()
        gates[1].wait()
        assert model.statistics().running == 2  # six cores would be free for a third, were it allowed
        assert sorted(started) == [0, 1]
        gates[0].open()
        gates[2].wait()
        for gate in gates[1:]:
            gate.open()
        for future in futures:
            future.result(PATIENCE)


# --- a session's threads ----------------------------------------------------------------------------------------------


@linux
def test_threads_of_a_wide_session_are_kept_off_the_core_of_the_stream_that_runs_it(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if len(CPUS) == 1:
        pytest.skip("one CPU: everything is there")
    at = CPUS[0]
    monkeypatch.setattr("headrace.engine.apart._where", lambda: at)
    before = threads()
    with hr.Engine(topology=a_node_for_each(CPUS[:1], width=3)) as engine, hr.compile_model(digits, engine=engine) as m:
        until = time.monotonic() + 30
        while True:  # a thread that has just ended is the kernel's for a moment more
            ours = {thread.native_id for thread in threading.enumerate()}
            pool = {tid for tid in threads() if tid not in before and tid not in ours}
            if len(pool) == 2 or time.monotonic() > until:
                break
        for at in (CPUS[1], CPUS[0]):
            m(np.zeros((1, 1, 8, 8), np.float32))
            assert {tid: os.sched_getaffinity(tid) for tid in pool} == {tid: set(CPUS) - {at} for tid in pool}
        assert len(pool) == 2
