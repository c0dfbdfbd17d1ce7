"""`close(timeout=)` has one deadline for all streams, however many are stuck."""

from __future__ import annotations

import headrace as hr
from headrace.engine import engine as module
from headrace.engine.engine import Engine
from headrace.engine.stream import Stream
from headrace.engine.topology import made_up
from headrace.testing import FakeClock, Gate


def test_stuck_streams_share_the_time_there_is(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    clock, waited, gate = FakeClock(), [], Gate()

    def join(self: Stream, timeout: float | None = None) -> None:
        assert timeout is not None
        waited.append(timeout)
        clock.advance(timeout)  # it does not end

    engine = Engine(topology=made_up(4))
    futures = [engine.push(gate) for _ in range(4)]
    gate.wait(4)
    streams = [stream for port in engine._ports for stream in port.streams]
    with monkeypatch.context() as patched:
        patched.setattr(Stream, "join", join)
        patched.setattr(module.time, "monotonic", clock.now)
        patched.setattr(engine.budget, "wait_until_idle", lambda timeout: False)
        engine.close(timeout=2)
    assert waited == [2, 0, 0, 0]
    gate.open()
    for future in futures:
        future.result(30)
    for stream in streams:
        stream.join()


def test_what_waits_for_the_cores_of_another_port_does_not_begin_while_the_engine_is_closed() -> None:
    """Its port comes after the one whose run is waited for."""
    engine = hr.Engine(topology=made_up(1))
    busy, began = Gate(), []
    running = engine.push(busy)
    busy.wait()
    model = hr.compile_model(lambda x: began.append(x), engine=engine)
    waiting = model.submit(1)
    waiting.add_done_callback(lambda _: busy.open())  # it is refused before the run has ended
    engine.close(drain=False)
    assert isinstance(waiting.exception(), hr.Closed)
    assert running.exception() is None
    assert began == []
