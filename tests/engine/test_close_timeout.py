"""`close(timeout=)` has one deadline for all streams, however many are stuck."""

from __future__ import annotations

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
