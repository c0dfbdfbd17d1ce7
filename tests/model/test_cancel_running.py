"""Cancelling what runs: an ONNX run ends where nobody wants it any more; a callable goes on, and is not heard.

The runs here would take thousands of years: whatever comes after one of them comes because it was stopped.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import headrace as hr
from headrace.backends._onnxruntime import OnnxRuntimeSession
from headrace.backends.base import Stop
from headrace.engine.guard import Guard
from headrace.engine.topology import made_up
from headrace.model.batcher import Batcher
from headrace.model.instance import LocalInstance
from headrace.model.pending import Owner, Pending
from headrace.model.run import Requests
from headrace.testing import Gate

PATIENCE = 30.0
FOR_EVER = 1 << 60


@pytest.fixture(scope="module")
def looping() -> bytes:
    """`y` is `x` after max(`turns`) turns of a Loop, each a matrix product with the identity."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "identity"], ["after"]),
            helper.make_node("Identity", ["on"], ["still_on"]),
        ],
        "turn",
        [
            info("i", TensorProto.INT64, []),
            info("on", TensorProto.BOOL, []),
            info("before", TensorProto.FLOAT, None),
        ],
        [info("still_on", TensorProto.BOOL, []), info("after", TensorProto.FLOAT, None)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["turns"], ["most"], keepdims=0),
            helper.make_node("Loop", ["most", "", "x"], ["y"], body=body),
        ],
        "looping",
        [info("x", TensorProto.FLOAT, ["n", 8]), info("turns", TensorProto.INT64, ["n"])],
        [info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(np.eye(8, dtype=np.float32), "identity")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


class Runs:
    """The runs of ONNX sessions as they begin. `hold`: each waits at the gate first."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.stops: list[Stop] = []
        self.handles: list[Any] = []  # of those that have ended
        self.gate: Gate | None = None

    def wait(self, times: int = 1) -> None:
        for _ in range(times):
            assert self.begun.acquire(timeout=PATIENCE)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    """Ends what a test that fails has left running."""
    runs, run = Runs(), OnnxRuntimeSession.run

    def watched(self: OnnxRuntimeSession, inputs: Any, names: Any = None, stop: Stop | None = None) -> list[Any]:
        if stop is not None:  # else it is compiled
            runs.stops.append(stop)
            runs.begun.release()
            if runs.gate is not None:
                runs.gate()
        try:
            return run(self, inputs, names, stop)
        finally:
            if stop is not None:
                runs.handles.append(stop.handle)

    monkeypatch.setattr(OnnxRuntimeSession, "run", watched)
    yield runs
    for stop in runs.stops:
        stop.requested = True
        if stop.handle is not None:
            OnnxRuntimeSession.stop(stop.handle)


@pytest.fixture
def model(looping: bytes, engine: hr.Engine, runs: Runs) -> hr.Model:
    """On the one stream of the engine, which closes it. Runs of up to two rows."""
    return hr.compile_model(looping, warm_up=False, engine=engine, max_batch_size=2)


def request(turns: int, value: float = 1.0) -> list[Any]:
    return [np.full((1, 8), value, np.float32), np.array([turns])]


def value_of(answer: Any) -> float:
    (y,) = answer
    assert np.all(y == y[0, 0])
    return float(y[0, 0])


def counts(model: hr.Model) -> tuple[int, int, int]:
    """(runs, completed, failed)"""
    seen = model.statistics()
    return seen.runs, seen.completed, seen.failed


# ---- ONNX runs


def test_cancelling_stops_the_run_and_its_stream_serves_the_next_request(model: hr.Model, runs: Runs) -> None:
    future = model.submit(request(FOR_EVER))
    runs.wait()
    assert future.cancel()
    with pytest.raises(hr.Cancelled):
        future.result()
    assert value_of(model.submit(request(1, 2.0)).result(PATIENCE)) == 2
    assert counts(model) == (2, 1, 1)
    assert model.engine is not None
    model.engine.waitall(PATIENCE)
    assert model.engine.statistics().budget.inside == 0
    assert future.cancelled()


def test_the_runs_after_it_on_the_same_session_are_not_terminated(model: hr.Model, runs: Runs) -> None:
    for i in range(3):
        future = model.submit(request(FOR_EVER))
        runs.wait()
        future.cancel()
        assert value_of(model.submit(request(100, i)).result(PATIENCE)) == i
        runs.wait()
    assert counts(model) == (6, 3, 3)
    assert len({*map(id, runs.handles)}) == len(runs.handles) == 6, "each run has a handle of its own"


@pytest.mark.parametrize("door", [hr.Model.submit, hr.Model.asubmit])
def test_a_task_that_is_cancelled_stops_the_run_it_awaits(
    door: Callable[..., Any], model: hr.Model, runs: Runs
) -> None:
    async def user() -> Any:
        async def ask() -> Any:
            return await door(model, request(FOR_EVER))

        task = asyncio.create_task(ask())
        await asyncio.to_thread(runs.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await asyncio.wait_for(door(model, request(1, 3.0)), PATIENCE)

    assert value_of(asyncio.run(user())) == 3
    assert counts(model) == (2, 1, 1)


def test_a_task_that_is_cancelled_beside_another_that_awaits_the_same_stops_nothing(
    model: hr.Model, runs: Runs
) -> None:
    runs.gate = Gate()

    async def user() -> Any:
        future = model.submit(request(100, 4.0))

        async def ask() -> Any:
            return await future

        leaves, stays = asyncio.create_task(ask()), asyncio.create_task(ask())
        assert runs.gate is not None
        await asyncio.to_thread(runs.gate.wait)
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        runs.gate.open()
        return await asyncio.wait_for(stays, PATIENCE)

    assert value_of(asyncio.run(user())) == 4
    assert counts(model) == (1, 1, 0)


def joined(model: hr.Model, runs: Runs, *requests: Any) -> list[hr.Future[Any]]:
    """Futures of requests that are in one run, which has begun."""
    first = model.submit(request(FOR_EVER))
    runs.wait()
    futures = [model.submit(each) for each in requests]
    first.cancel()
    runs.wait()
    assert model.statistics().running == len(requests)
    return futures


def test_a_batch_with_one_member_left_is_not_stopped(model: hr.Model, runs: Runs) -> None:
    first = model.submit(request(FOR_EVER))
    runs.wait()
    leaves, stays = model.submit(request(100, 5.0)), model.submit(request(100, 6.0))
    runs.gate = Gate()
    first.cancel()
    runs.gate.wait()
    assert leaves.cancel()
    assert not runs.stops[-1].requested
    runs.gate.open()
    assert value_of(stays.result(PATIENCE)) == 6
    assert leaves.cancelled()
    assert counts(model) == (2, 2, 1), "the first was stopped; the two ran to their end"
    assert len(runs.stops) == 2, "nothing was run again"


@pytest.mark.parametrize("as_dict", [False, True])
def test_a_batch_all_of_whose_members_left_is_stopped_and_not_run_again(
    model: hr.Model, runs: Runs, as_dict: bool
) -> None:
    def asked(value: float) -> Any:
        x, turns = request(FOR_EVER, value)
        return {"x": x, "turns": turns} if as_dict else [x, turns]

    one, other = joined(model, runs, asked(1.0), asked(2.0))
    assert one.cancel()
    assert not runs.stops[-1].requested
    assert other.cancel()
    assert value_of(model.submit(request(1, 7.0)).result(PATIENCE)) == 7
    assert len(runs.stops) == 3
    assert counts(model) == (3, 1, 3), "a run that was stopped has failed all of its requests"


def test_two_who_leave_at_once_stop_their_run(model: hr.Model, runs: Runs) -> None:
    """Each looks whether the other is still there: one of them must see that nobody is."""
    start = threading.Barrier(2)

    def leave(future: hr.Future[Any]) -> None:
        start.wait(PATIENCE)
        future.cancel()

    for i in range(20):
        futures = joined(model, runs, request(FOR_EVER), request(FOR_EVER))
        leaving = [threading.Thread(target=leave, args=(future,)) for future in futures]
        for thread in leaving:
            thread.start()
        for thread in leaving:
            thread.join(PATIENCE)
        assert value_of(model.submit(request(1, i)).result(PATIENCE)) == i
        runs.wait()


def test_a_run_beside_it_on_the_same_session_goes_on(looping: bytes, runs: Runs) -> None:
    engine = hr.Engine(topology=made_up(2))
    try:
        model = hr.compile_model(looping, warm_up=False, engine=engine, scheduler="multi_stream")
        leaves = model.submit(request(FOR_EVER))
        runs.wait()
        stays = model.submit(request(FOR_EVER))
        runs.wait()
        leaves.cancel()
        assert value_of(model.submit(request(1, 8.0)).result(PATIENCE)) == 8
        assert not stays.can_read()
        assert not runs.stops[1].requested
        assert model.statistics().running == 1
        stays.cancel()
        engine.waitall(PATIENCE)
        assert counts(model) == (3, 1, 2)
    finally:
        engine.close(timeout=PATIENCE)


def test_closing_waits_no_longer_once_the_last_run_is_cancelled(model: hr.Model, runs: Runs) -> None:
    future = model.submit(request(FOR_EVER))
    runs.wait()
    closing = threading.Thread(target=model.close, daemon=True)
    closing.start()
    future.cancel()
    closing.join(PATIENCE)
    assert not closing.is_alive()


def test_cancelling_what_has_ended_stops_nothing(model: hr.Model, runs: Runs) -> None:
    future = model.submit(request(1))
    future.result(PATIENCE)
    assert not future.cancel()
    assert not runs.stops[0].requested
    assert counts(model) == (1, 1, 0)


# ---- between the queue and the runtime


class Nobody(Owner):
    def on_error(self, pending: Pending) -> None:
        pass


class Session:
    """Stoppable; keeps whether it was asked to stop by the time it ran."""

    stoppable = True

    def __init__(self) -> None:
        self.requested: list[bool] = []

    def run(self, inputs: tuple[Any, ...], names: tuple[str, ...] | None = None, stop: Stop | None = None) -> list[Any]:
        assert stop is not None
        stop.handle = "handle"
        self.requested.append(stop.requested)
        return list(inputs)

    def stop(self, handle: Any) -> None:
        raise AssertionError("nothing has begun that could be stopped")

    def close(self) -> None:
        pass


@pytest.mark.parametrize("rows", [1, 2])
def test_who_is_cancelled_after_the_pull_and_before_the_run_stops_it_too(rows: int) -> None:
    session, batcher, guard = Session(), Batcher(rows), Guard()
    batch = [Pending(Nobody(), (np.ones((1, 1)),), guard) for _ in range(rows)]
    for each in batch:
        batcher.add(each, 0.0)
    work = Requests(batcher, [LocalInstance(session)], "m").pull(0.0, False, 0, [])
    assert work is not None
    for each in batch:
        assert each.cancel()
    work.run()
    with guard.lock:
        work.complete(1.0)
    work.deliver()
    assert session.requested in ([], [True]), "it need not be run at all; it must not be run to its end"


def test_a_session_that_cannot_be_stopped_is_run_without_a_way_to_stop_it() -> None:
    class Plain:
        def run(self, inputs: tuple[Any, ...], names: tuple[str, ...] | None = None) -> list[Any]:
            assert one.cancel(), "it runs on"
            return list(inputs)

        def close(self) -> None:
            pass

    batcher, guard = Batcher(), Guard()
    one = Pending(Nobody(), (1,), guard)
    batcher.add(one, 0.0)
    work = Requests(batcher, [LocalInstance(Plain())], "m").pull(0.0, False, 0, [])
    assert work is not None
    work.run()
    with guard.lock:
        work.complete(1.0)
    work.deliver()
    assert one.cancelled()
    assert (batcher.counts.completed, batcher.counts.failed) == (1, 0)


# ---- callables


def test_a_callable_goes_on_and_its_result_is_dropped(engine: hr.Engine) -> None:
    class Result:
        pass

    gate, ended, made = Gate(), [], []

    def work(x: int) -> Any:
        gate()
        result = Result()
        made.append(weakref.ref(result))
        ended.append(x)
        return result

    with hr.compile_model(work, engine=engine) as model:
        future, after = model.submit(1), model.submit(2)
        gate.wait()
        assert future.cancel()
        with pytest.raises(hr.Cancelled):
            future.result()
        seen = model.statistics()
        assert (seen.running, seen.waiting, ended) == (1, 1, []), "it runs on, and its stream is not free"
        gate.open()
        assert isinstance(after.result(PATIENCE), Result)
        assert ended == [1, 2]
        assert counts(model) == (2, 2, 0)
        assert future.cancelled()
    gc.collect()
    assert made[0]() is None
    assert made[1]() is after.result()


def test_a_task_that_is_cancelled_does_not_stop_a_callable(engine: hr.Engine) -> None:
    gate, ended = Gate(), []

    async def user() -> None:
        task = asyncio.create_task(model.asubmit(1))
        await asyncio.to_thread(gate.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == []
        gate.open()
        assert await model.asubmit(2) is None

    with hr.compile_model(lambda x: gate() or ended.append(x), engine=engine) as model:
        asyncio.run(user())
    assert ended == [1, 2]
