"""What a stream runs before anything is submitted to its port."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import headrace as hr
from headrace.engine.operations import OperationSource
from headrace.engine.port import Port
from headrace.engine.rehearsal import Rehearsal
from headrace.engine.topology import made_up
from headrace.model.model import Model
from headrace.testing import Gate

PATIENCE = 30.0


@pytest.fixture
def engine() -> Iterator[hr.Engine]:
    engine = hr.Engine(topology=made_up(2))
    yield engine
    engine.close(timeout=PATIENCE)


def attach(engine: hr.Engine, *masks: int) -> Port:
    return engine.attach(OperationSource(lambda _: None, engine.budget), masks, "model")


def test_it_runs_on_the_streams_own_thread_whichever_stream_was_idle_last(engine: hr.Engine) -> None:
    port = attach(engine, 0b01, 0b10)
    for stream in (*port.streams, *reversed(port.streams)):
        seen: list[int] = []
        assert engine.rehearse(stream, lambda seen=seen: seen.append(threading.get_ident()), PATIENCE)  # type: ignore
        assert seen == [stream.thread]
    assert [lane.stream.index for lane in port.group.idle] == [0, 1]


def test_its_cores_are_leased_while_it_runs(engine: hr.Engine) -> None:
    port, leased = attach(engine, 0b11), []
    assert engine.rehearse(port.streams[0], lambda: leased.append(engine._leases.leased), PATIENCE)
    assert leased == [2]
    assert engine._leases.leased == 0


def test_nothing_of_it_is_counted(engine: hr.Engine) -> None:
    port = attach(engine, 0b01)
    assert engine.rehearse(port.streams[0], lambda: None, PATIENCE)
    assert (port.runs, port.run_seconds, port.quickest, port.typical) == (0, 0.0, float("inf"), float("inf"))


def raising(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(), KeyboardInterrupt()])
def test_what_it_raises_does_not_end_the_stream(engine: hr.Engine, error: BaseException) -> None:
    port = attach(engine, 0b01)
    assert engine.rehearse(port.streams[0], raising(error), PATIENCE)
    assert engine.rehearse(port.streams[0], lambda: None, PATIENCE)


def test_it_waits_for_its_cores_no_longer_than_it_was_told_and_keeps_them_from_nobody(engine: hr.Engine) -> None:
    gate, ran = Gate(), []
    for _ in range(2):
        engine.push(gate)
    gate.wait(2)
    port = attach(engine, 0b11)
    assert not engine.rehearse(port.streams[0], lambda: ran.append(1), 0.01)
    assert not engine._leases.line
    gate.open()
    engine.waitall(PATIENCE)
    assert engine.push(lambda: 7).result() == 7
    assert not ran
    assert engine.rehearse(port.streams[0], lambda: ran.append(2), PATIENCE)
    assert ran == [2]


def test_one_that_takes_too_long_goes_on_and_others_may_be_done_meanwhile(engine: hr.Engine) -> None:
    gate = Gate()
    port = attach(engine, 0b01, 0b10)
    assert not engine.rehearse(port.streams[0], gate, 0.01)
    assert engine.rehearse(port.streams[1], lambda: None, PATIENCE)
    gate.open()
    assert engine.rehearse(port.streams[0], lambda: None, PATIENCE)
    assert sorted(lane.stream.index for lane in port.group.idle) == [0, 1]


class Told(Rehearsal):
    """A source of nothing that keeps why it was abandoned."""

    def __init__(self) -> None:
        super().__init__(lambda: None, "nothing")
        super().abandon(ValueError())
        self.told: list[str] = []

    def abandon(self, error: BaseException) -> None:
        self.told.append(str(error))


@pytest.mark.parametrize("begun", [True, False])
def test_a_model_that_is_closed_meanwhile_ends_it_and_refuses_what_comes_later(begun: bool) -> None:
    engine = hr.Engine(topology=made_up(1))
    busy, gate, answers = Gate(), Gate(), []
    if not begun:
        engine.push(busy)
        busy.wait()
    source = Told()
    port = engine.attach(source, [0b01], "model")
    rehearsing = threading.Thread(target=lambda: answers.append(engine.rehearse(port.streams[0], gate, PATIENCE)))
    rehearsing.start()
    if begun:
        gate.wait()
    else:
        while port.source is source:  # until it stands in line
            threading.Event().wait(0.001)
    closing = threading.Thread(target=lambda: engine.detach(port))
    closing.start()
    rehearsing.join(PATIENCE)  # also where it has begun, and goes on
    assert not rehearsing.is_alive()
    busy.open()
    gate.open()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    engine.close(timeout=PATIENCE)
    assert answers == [False]
    assert port.source is source
    assert source.told == ["the model or the engine was closed"]
    assert not engine.rehearse(port.streams[0], gate, PATIENCE)


def test_a_trace_shows_it(engine: hr.Engine, tmp_path: Any) -> None:
    port = attach(engine, 0b01)
    with engine.trace(tmp_path / "t.json"):
        assert engine.rehearse(port.streams[0], lambda: None, PATIENCE)
    assert "model warms up" in (tmp_path / "t.json").read_text()


def test_where_there_is_work_there_is_nothing_to_rehearse_and_the_work_is_done(engine: hr.Engine) -> None:
    with hr.compile_model(None, backend="null", engine=engine, scheduler="multi_stream") as model:
        gate, port = Gate(), model.port
        assert port is not None
        others = [engine.push(gate) for _ in range(2)]
        gate.wait(2)
        waits = model.submit(1)
        assert not engine.rehearse(port.streams[0], lambda: None, PATIENCE)
        gate.open()
        assert waits.result(timeout=PATIENCE) == 1
        for each in others:
            each.result(timeout=PATIENCE)


@pytest.mark.parametrize("ends", [True, False], ids=["it ends", "it is left alone"])
def test_what_arrives_meanwhile_waits_is_seen_and_is_run_after_it(engine: hr.Engine, ends: bool) -> None:
    with hr.compile_model(None, backend="null", engine=engine, scheduler="multi_stream") as model:
        gate, port, answers = Gate(), model.port, list[bool]()
        assert port is not None
        stream = port.streams[1]
        seconds = PATIENCE if ends else 0.05
        rehearsing = threading.Thread(target=lambda: answers.append(engine.rehearse(stream, gate, seconds)))
        rehearsing.start()
        gate.wait()
        came = [model.submit(i) for i in range(3)]
        if ends:
            assert model.statistics().waiting == 3
            assert len(port.source) == 3
            assert not engine.rehearse(port.streams[0], lambda: None, PATIENCE)  # one at a time
            gate.open()
        assert [each.result(timeout=PATIENCE) for each in came] == [0, 1, 2]
        rehearsing.join(PATIENCE)
        assert answers == [ends]
        gate.open()
    assert engine._leases.leased == 0


def in_rehearsal(engine: hr.Engine, model: Model) -> tuple[Gate, Port, threading.Thread]:
    """One goes on, on the model's first stream, until the gate is opened."""
    gate, port = Gate(), model.port
    assert port is not None
    rehearsing = threading.Thread(target=engine.rehearse, args=(port.streams[0], gate, PATIENCE))
    rehearsing.start()
    gate.wait()
    return gate, port, rehearsing


def test_who_drains_waits_for_what_arrived_meanwhile(engine: hr.Engine) -> None:
    model = hr.compile_model(None, backend="null", engine=engine)
    gate, port, rehearsing = in_rehearsal(engine, model)
    came = model.submit(7)
    closing = threading.Thread(target=model.close)
    closing.start()
    while port.drained is None:
        assert closing.is_alive()
    gate.open()
    assert came.result(timeout=PATIENCE) == 7
    closing.join(PATIENCE)
    rehearsing.join(PATIENCE)
    assert not closing.is_alive()


def test_what_arrived_meanwhile_is_refused_where_the_port_is_detached(engine: hr.Engine) -> None:
    model = hr.compile_model(None, backend="null", engine=engine)
    gate, port, rehearsing = in_rehearsal(engine, model)
    came = model.submit(7)
    engine.abandon(port)
    with pytest.raises(hr.Closed):
        came.result(timeout=PATIENCE)
    gate.open()
    rehearsing.join(PATIENCE)
    model.close()


def test_streams_that_were_replaced_meanwhile_do_not_come_back(engine: hr.Engine) -> None:
    with hr.compile_model(None, backend="null", engine=engine, scheduler="multi_stream") as model:
        gate, port = Gate(), model.port
        assert port is not None
        rehearsing = threading.Thread(target=engine.rehearse, args=(port.streams[0], gate, PATIENCE))
        rehearsing.start()
        gate.wait()
        before = port.streams
        model.reschedule("single_stream", timeout=0)
        gate.open()
        rehearsing.join(PATIENCE)
        assert not any(lane.out for lane in port.group.idle)
        assert not engine.rehearse(before[1], lambda: None, PATIENCE)
        assert model(3) == 3


def test_it_forgets_nothing_that_was_learnt_before(engine: hr.Engine) -> None:
    with hr.compile_model(None, backend="null", engine=engine) as model:
        model.measure()
        for i in range(3):
            model(i)
        engine.waitall()
        port = model.port
        assert port is not None
        before = model.statistics()
        assert before.runs == 3
        learnt = port.runs, port.quickest, port.typical, port.run_times
        assert engine.rehearse(port.streams[0], lambda: None, PATIENCE)
        assert model.statistics() == before
        assert (port.runs, port.quickest, port.typical, port.run_times) == learnt
        measures = model.measures()
        assert measures is not None
        assert measures.run_seconds.count == 3


@pytest.mark.parametrize("traced", [False, True])
def test_a_port_that_nobody_detaches_is_forgotten_when_its_streams_have_ended(
    engine: hr.Engine, traced: bool, tmp_path: Any
) -> None:
    port = attach(engine, 0b01)
    trace = engine.trace(tmp_path / "t.json") if traced else None
    engine.abandon(port)
    port.streams[0].join(PATIENCE)
    assert (port in engine._leaving) is traced
    if trace is not None:
        trace.stop()
    assert port not in engine._leaving
    assert "model" not in engine.dump_state()
