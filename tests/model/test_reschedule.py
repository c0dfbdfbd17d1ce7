"""`model.reschedule`: another scheduler while requests come, wait and run. Every promise by itself; `test_storm_of_
reschedules` has them all at once."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headrace as hr
from headrace.backends.base import Loaded, LoadOptions, Stop
from headrace.engine.stream import Stream
from headrace.engine.topology import made_up
from headrace.errors import Closed, DeadlineExceeded, InvalidModel, InvalidOption, NotEnoughCores, WouldDeadlock
from headrace.serving.registry import State
from headrace.serving.served import Served
from headrace.serving.service import Service
from headrace.tensor import TensorSpec
from headrace.testing import FakeClock, Gate

PATIENCE = 30.0


@pytest.fixture
def wide() -> Iterator[hr.Engine]:
    """Two sockets of two cores."""
    engine = hr.Engine(topology=made_up(cores=4, nodes=2))
    yield engine
    engine.close(timeout=PATIENCE)


def threads_of(name: str) -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith(f"headrace-{name}-"))


def in_a_thread(call: Callable[[], Any]) -> Callable[[], Any]:
    """It is being done; the answer waits for its end, and raises what it raised."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()

    def end() -> None:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "it never ends"
        if raised:
            raise raised[0]

    return end


def until(true: Callable[[], bool]) -> None:
    """Another thread is about to make it so."""
    for _ in range(10_000_000):
        if true():
            return
        threading.Event().wait(0)  # lets others run
    raise AssertionError("it never came true")


class Held:
    """A callable whose runs wait at a gate, and say in which order they began."""

    def __init__(self) -> None:
        self.gate, self.began = Gate(), list[Any]()
        self.most, self._running, self._lock = 0, 0, threading.Lock()

    def __call__(self, x: Any) -> Any:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
            self.began += x if isinstance(x, list) else [x]
        self.gate()
        with self._lock:
            self._running -= 1
        return x


# ---- nothing is lost


def test_what_runs_ends_where_it_runs_and_what_waits_is_served_by_the_new_streams_in_its_order(wide: hr.Engine) -> None:
    where: dict[int, str] = {}
    held = Held()

    def work(x: int) -> int:
        where[x] = threading.current_thread().name
        held(x)
        return x

    with hr.compile_model(work, engine=wide, scheduler="multi_stream", num_streams=2, name="m") as model:
        futures = [model.submit(x) for x in range(8)]
        held.gate.wait(2)
        end = in_a_thread(lambda: model.reschedule("single_stream"))
        until(lambda: model.scheduler is hr.Scheduler.single_stream)
        late = model.submit(8)
        assert not any(future.can_read() for future in [*futures, late])
        held.gate.open()
        assert [future.result(PATIENCE) for future in [*futures, late]] == list(range(9))
        end()
        assert held.began[2:] == list(range(2, 9))
        assert {where[0], where[1]} == {"headrace-m-0", "headrace-m-1"}
        assert {where[x] for x in range(2, 9)} == {"headrace-m-2"}
        assert threads_of("m") == ["headrace-m-2"], "the old streams have ended"


def test_it_returns_when_the_last_old_run_has_ended_and_the_new_ones_do_not_wait_for_that(wide: hr.Engine) -> None:
    gates = [Gate(), Gate()]
    for gate in gates[1:]:
        gate.open()
    done = threading.Event()
    with hr.compile_model(lambda x: gates[x]() or x, engine=wide, scheduler="multi_stream") as model:
        first = model.submit(0)
        gates[0].wait()

        def switch() -> None:
            model.reschedule("multi_stream", num_streams=4, num_cores=4)  # nothing to do
            model.reschedule("multi_stream", num_streams=3, num_cores=3)
            done.set()

        end = in_a_thread(switch)
        until(lambda: len(model.placements) == 3)
        for _ in range(20):
            assert model(1, timeout=PATIENCE) == 1, "served beside the old run"
        assert not done.is_set()
        assert not first.can_read()
        gates[0].open()
        assert first.result(PATIENCE) == 0
        end()


def test_who_waits_in_a_thread_or_a_task_goes_on_waiting_and_is_answered(wide: hr.Engine) -> None:
    held = Held()
    with hr.compile_model(held, engine=wide) as model:
        answers: list[int] = []
        first = model.submit(0)
        held.gate.wait()
        end = in_a_thread(lambda: answers.append(model(1)))

        async def wait() -> list[int]:
            tasks = [asyncio.ensure_future(model.asubmit(x)) for x in (2, 3)]
            awaited = model.submit(4)
            await asyncio.sleep(0)
            switched = asyncio.ensure_future(asyncio.to_thread(model.reschedule, "multi_stream"))
            await asyncio.to_thread(until, lambda: model.scheduler == "multi_stream")
            held.gate.open()
            await switched
            return [*await asyncio.gather(*tasks), await awaited]

        assert asyncio.run(wait()) == [2, 3, 4]
        end()
        assert (first.result(PATIENCE), answers) == (0, [1])


def test_map_goes_on_across_it(wide: hr.Engine) -> None:
    with hr.compile_model(lambda x: x + 1, engine=wide) as model:
        given = []
        for place, answer in enumerate(model.map(range(300))):
            if place % 50 == 0:
                model.reschedule(["multi_stream", "single_stream", "elastic"][place // 50 % 3])
            given.append(answer)
    assert given == list(range(1, 301))


def test_priorities_and_deadlines_of_what_waits_are_kept() -> None:
    clock, held = FakeClock(), Held()
    with (
        hr.Engine(topology=made_up(2), clock=clock) as engine,
        hr.compile_model(held, engine=engine) as model,
    ):
        futures = [model.submit(0)]
        held.gate.wait()
        futures += [model.submit(1), model.submit(2, priority=5), model.submit(3, timeout=10.0)]
        soon = model.submit(4, timeout=1.0)
        end = in_a_thread(lambda: model.reschedule(num_cores=1))
        until(lambda: len(model.placements[0].cores) == 1)
        clock.advance(2.0)
        held.gate.open()
        assert [future.result(PATIENCE) for future in futures] == [0, 1, 2, 3]
        assert isinstance(soon.exception(PATIENCE), DeadlineExceeded)
        end()
        assert held.began == [0, 2, 1, 3]


def test_what_waits_for_company_is_joined_by_the_new_streams(wide: hr.Engine) -> None:
    held = Held()
    with hr.compile_model(held, engine=wide, max_batch_size=4, max_batch_delay=3600.0) as model:
        lone = model.submit(0)
        held.gate.wait()
        together = [model.submit(x) for x in range(1, 7)]  # four of them are full; two wait for company
        end = in_a_thread(lambda: model.reschedule("multi_stream"))
        until(lambda: model.scheduler == "multi_stream")
        assert not any(future.can_read() for future in together)
        held.gate.open()  # and with the last run that ends, the two have waited long enough: the model is idle
        assert [future.result(PATIENCE) for future in [lone, *together]] == list(range(7))
        end()
        assert model.statistics().runs == 3


def test_what_was_learnt_of_the_old_streams_refuses_no_deadline_of_the_new_ones() -> None:
    clock, slow = FakeClock(), [True]

    def work(x: int) -> int:
        if slow[0]:
            clock.advance(10.0)
        return x

    with (
        hr.Engine(topology=made_up(2), clock=clock) as engine,
        hr.compile_model(work, engine=engine, num_cores=1) as model,
    ):
        for x in range(10):
            model(x)
        assert model.port is not None
        assert model.port.wait(1) == 10.0
        model.reschedule(num_cores=2)
        assert model.port.wait(1) == 0.0
        slow[0] = False
        for x in range(10):
            model(x)
        assert model.port.wait(1) == 0.0, "measured anew"


# ---- what it says afterwards


def test_everything_it_says_of_itself_is_true_afterwards_and_counters_carry_on(wide: hr.Engine) -> None:
    with hr.compile_model(lambda x: x, engine=wide, scheduler="multi_stream", name="says") as model:
        for x in range(10):
            model(x)
        before = model.statistics()
        model.reschedule("elastic")
        assert model.scheduler is hr.Scheduler.elastic
        assert [place.cores for place in model.placements] == [(0, 1), (2, 3)]
        assert "elastic, 2 streams" in repr(model)
        after = model.statistics()
        assert after.streams == 2
        assert (after.submitted, after.completed, after.runs) == (10, 10, 10)
        assert after.run_seconds >= before.run_seconds
        model(1)
        assert model.statistics().completed == 11
        seen = wide.statistics()
        assert (seen.streams, seen.ports, seen.cores_leased, seen.budget.inside) == (2, 1, 0, 0)
        model.reschedule(num_streams=1)
        assert (model.scheduler, len(model.placements)) == (hr.Scheduler.elastic, 1), "None keeps the scheduler"
    assert not threads_of("says")


def test_a_dump_names_old_streams_that_still_run(wide: hr.Engine) -> None:
    held = Held()
    with hr.compile_model(held, engine=wide, name="m") as model:
        future = model.submit(0)
        held.gate.wait()
        model.reschedule("elastic", timeout=0)
        said = wide.dump_state()
        assert "headrace-m-0: runs m for" in said
        assert "headrace-m-1: idle" in said
        assert (wide.statistics().streams, wide.statistics().streams_running) == (3, 1)
        held.gate.open()
        assert future.result(PATIENCE) == 0
    assert "headrace-m-0" not in wide.dump_state()


def test_as_it_is_already_nothing_happens(wide: hr.Engine) -> None:
    with hr.compile_model(lambda x: x, engine=wide, name="same") as model:
        before = threads_of("same")
        model.reschedule()
        model.reschedule("single", num_cores=4, num_streams=1)
        assert threads_of("same") == before


def test_a_trace_runs_across_it_with_the_streams_of_before_and_after(wide: hr.Engine, tmp_path: Path) -> None:
    from headrace.model.tracing import timeline_of_trace

    with hr.compile_model(lambda x: x, engine=wide, name="m") as model:
        model(0)
        model.reschedule("multi_stream", num_streams=2)  # before the trace: none of it is in there
        with model.trace(tmp_path / "m.png", tmp_path / "m.json") as trace:
            model(1)
            model.reschedule("elastic")
            model(2)
            model.reschedule("single_stream")
            model(3)
        timeline = timeline_of_trace(model, trace)
        assert {row.name: row.cores for row in timeline.rows} == {
            "headrace-m-1": (0, 1),
            "headrace-m-2": (2, 3),
            "headrace-m-3": (0, 1),
            "headrace-m-4": (2, 3),
            "headrace-m-5": (0, 1, 2, 3),
        }
        assert len(timeline.spans) == 3
        assert all(request.ended is not None for request in timeline.requests)
        assert trace.process_name == "headrace m, multi_stream, then elastic, then single_stream"
        assert (tmp_path / "m.png").stat().st_size > 1000
        with model.trace(tmp_path / "later.json") as later:
            model(4)
        assert later.streams == ["headrace-m-5"]


# ---- sessions


class Session:
    stoppable = False

    def __init__(self, width: int, cpus: tuple[int, ...]) -> None:
        self.width, self.cpus, self.closed = width, cpus, 0
        self.shared = width == 1 and not cpus

    def run(self, inputs: Any, names: Any = None, stop: Stop | None = None) -> list[Any]:
        assert not self.closed, "run after its end"
        return [inputs[0] + 1]

    def close(self) -> None:
        self.closed += 1


class Backend:
    """Makes sessions that say what they were made for. `before` is called for each load."""

    name = "made up"

    def __init__(self) -> None:
        self.made: list[Session] = []
        self.loads: list[LoadOptions] = []
        self.before: Callable[[], object] = lambda: None
        self.rows: int | None = None

    def load(self, model: Any, options: LoadOptions) -> Loaded:
        self.before()
        self.loads.append(options)
        sessions: list[Session] = []
        for width, cpus in zip(options.widths, options.cpus or ((),) * len(options.widths)):
            shared = next((each for each in sessions if each.shared), None)
            sessions.append(shared if width == 1 and not cpus and shared is not None else Session(width, cpus))
        self.made += dict.fromkeys(sessions)
        x, y = (TensorSpec(name, np.dtype(np.float32), (self.rows, 2)) for name in "xy")
        return Loaded(self.name, self.name, "m", tuple(sessions), (x,), (y,))

    def open(self) -> list[tuple[int, tuple[int, ...]]]:
        return [(each.width, each.cpus) for each in self.made if not each.closed]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    backend = Backend()
    monkeypatch.setattr("headrace.model.compile.backend_for", lambda model, name: backend)
    return backend


X = np.zeros((1, 2), np.float32)


def test_new_sessions_are_made_beside_the_old_ones_which_are_closed_once_they_are_not_used(
    backend: Backend, wide: hr.Engine
) -> None:
    with hr.compile_model("m.onnx", engine=wide) as model:
        seen: list[Any] = []
        backend.before = lambda: seen.append((backend.open(), model.scheduler, float(model(X)[0, 0])))
        model.reschedule("multi_stream", num_streams=2)
        assert seen == [([(4, ())], "single_stream", 1.0)], "the old one answers while new ones are made"
        assert backend.open() == [(2, ()), (2, ())]
        model.reschedule("elastic")
        assert backend.open() == [(2, (0, 1)), (2, (2, 3))], "near their streams"
        model.reschedule("multi_stream")
        assert backend.open() == [(1, ())], "one for all streams of width 1"
        assert float(model(X)[0, 0]) == 1.0
    assert [each.closed for each in backend.made] == [1] * 5 + [4], "one that four streams share is closed with each"


def test_a_shared_session_goes_on_being_used_where_streams_are_as_wide(backend: Backend, wide: hr.Engine) -> None:
    with hr.compile_model("m.onnx", engine=wide, scheduler="multi_stream") as model:
        backend.before = lambda: pytest.fail("it is loaded again")
        model.reschedule("multi_stream", num_cores=2)
        model.reschedule("single_stream", num_cores=1)
        assert model.sessions == tuple(backend.made)
        assert backend.open() == [(1, ())]
        backend.before = lambda: None
        model.reschedule("multi_stream", num_streams=3)  # 2 1 1
        assert backend.loads[-1].widths == (2,)
        assert sorted(backend.open()) == [(1, ()), (2, ())]
        assert [session.width for session in backend.made] == [1, 2]


def test_a_session_that_is_one_streams_own_is_never_used_by_two(backend: Backend, wide: hr.Engine) -> None:
    with hr.compile_model("m.onnx", engine=wide, scheduler="multi_stream", num_streams=2) as model:
        old = [*backend.made]
        model.reschedule("single_stream", num_cores=2)
        assert model.sessions[0] not in old, "a run of an old stream may have been on it"
        assert [each.closed for each in old] == [1, 1]


def test_sessions_of_one_model_are_made_by_one_thread_at_a_time(backend: Backend, wide: hr.Engine) -> None:
    with hr.compile_model("m.onnx", engine=wide) as model:
        gate, loading = Gate(), [0, 0]

        def load() -> None:
            loading[0] += 1
            loading[1] = max(loading)
            gate()
            loading[0] -= 1

        backend.before = load
        ends = [in_a_thread(lambda n=n: model.reschedule("multi_stream", num_streams=n)) for n in (2, 3)]  # type: ignore[misc]
        gate.wait()
        assert model.scheduler == "single_stream"
        gate.open()
        for end in ends:
            end()
        assert loading == [0, 1]
        assert sorted(backend.open()) in ([(2, ()), (2, ())], [(1, ()), (2, ())]), "all others are closed"
        assert len(model.sessions) == len(model.placements)


def test_a_session_an_old_run_is_on_is_closed_when_that_run_ends(wide: hr.Engine, backend: Backend) -> None:
    gate = Gate()
    with hr.compile_model("m.onnx", engine=wide, scheduler="multi_stream") as model:
        run = Session.run
        old = backend.made[0]
        old.run = lambda *given: gate() or run(old, *given)  # type: ignore[method-assign]
        future = model.submit(X)
        gate.wait()
        model.reschedule("multi_stream", num_cores=3, timeout=0)  # the same session
        model.reschedule("elastic", timeout=0)
        model.reschedule("single_stream", timeout=0.0)
        assert not old.closed, "the first stream has not ended, two changes later"
        gate.open()
        assert float(future.result(PATIENCE)[0, 0]) == 1.0
    assert backend.open() == [], "and who closes the model finds all of them closed"
    assert old.closed
    assert not threads_of("m")


def test_a_load_that_fails_leaves_what_was_there(backend: Backend, wide: hr.Engine) -> None:
    def fail() -> None:
        raise InvalidModel("m.onnx is no model any more")

    with hr.compile_model("m.onnx", engine=wide, name="m") as model:
        before = (threads_of("m"), model.placements, model.sessions, repr(model))
        backend.before = fail
        with pytest.raises(InvalidModel, match="no model any more"):
            model.reschedule("multi_stream")
        assert (threads_of("m"), model.placements, model.sessions, repr(model)) == before
        assert float(model(X)[0, 0]) == 1.0
        backend.before = lambda: None
        backend.rows = 3
        with pytest.raises(InvalidModel, match="takes or gives other tensors"):
            model.reschedule("multi_stream")
        assert backend.open() == [(4, ())]
        backend.rows = None
        model.reschedule("multi_stream")
        assert float(model(X)[0, 0]) == 1.0


def test_streams_that_cannot_be_started_leave_what_was_there(
    backend: Backend, wide: hr.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hr.compile_model("m.onnx", engine=wide, name="m") as model:
        start, left = threading.Thread.start, [2]

        def exhausted(thread: threading.Thread) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise RuntimeError("can't start new thread")
            start(thread)

        with monkeypatch.context() as patches:
            patches.setattr(threading.Thread, "start", exhausted)
            with pytest.raises(RuntimeError, match="new thread"):
                model.reschedule("multi_stream")
        assert threads_of("m") == ["headrace-m-0"]
        assert backend.open() == [(4, ())]
        assert float(model(X)[0, 0]) == 1.0
        model.reschedule("multi_stream")
        assert len(threads_of("m")) == 4


def test_a_file_that_has_changed_is_not_mixed_with_what_was_loaded(digits: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.onnx"
    copy.write_bytes(digits.read_bytes())
    with hr.Engine(topology=made_up(2)) as engine, hr.compile_model(copy, engine=engine) as model:
        x = np.zeros(tuple(n or 1 for n in model.inputs[0].shape), model.inputs[0].dtype)  # type: ignore[index]
        right = model(x)
        model.reschedule("multi_stream")
        np.testing.assert_allclose(model(x), right, rtol=1e-5)
        copy.write_bytes(digits.read_bytes() + b"\0")
        model.reschedule("multi_stream", num_cores=1)  # needs no other session
        with pytest.raises(InvalidModel, match="was changed or removed after it was loaded"):
            model.reschedule("single_stream")
        copy.unlink()
        with pytest.raises(InvalidModel, match="was changed or removed"):
            model.reschedule("single_stream")
        np.testing.assert_allclose(model(x), right, rtol=1e-5)


# ---- who may, and when


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"scheduler": "auto"}, InvalidOption, "not available in this version"),
        ({"scheduler": "multistream"}, InvalidOption, "did you mean 'multi_stream'"),
        ({"num_streams": 2}, InvalidOption, "single_stream has one stream"),
        ({"scheduler": "multi_stream", "num_streams": 5}, InvalidOption, "choose 1 to 4"),
        ({"num_cores": 5}, NotEnoughCores, "5"),
        ({"num_cores": True}, InvalidOption, "num_cores is a whole number from 1"),
        ({"timeout": float("nan")}, InvalidOption, "timeout is a number of seconds"),
        ({"timeout": "1"}, TypeError, "timeout is a number of seconds"),
        ({"scheduler": "naive"}, InvalidOption, "from single_stream to naive"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_has_changed(
    asked: dict[str, Any], error: type[Exception], said: str, wide: hr.Engine
) -> None:
    with hr.compile_model(lambda x: x, engine=wide, name="m") as model:
        with pytest.raises(error, match=said):
            model.reschedule(**asked)
        assert (model.scheduler, threads_of("m")) == ("single_stream", ["headrace-m-0"])
        assert model(1) == 1


def test_naive_stays_naive() -> None:
    with hr.compile_model(lambda x: x, scheduler="naive") as model:
        with pytest.raises(InvalidOption, match="from naive to multi_stream: naive has no streams"):
            model.reschedule("multi_stream")
        assert model(1) == 1


def test_a_closed_model_is_not_rescheduled(wide: hr.Engine) -> None:
    model = hr.compile_model(lambda x: x, engine=wide)
    model.close()
    with pytest.raises(Closed):
        model.reschedule("multi_stream")


def test_a_model_that_is_closed_while_its_sessions_are_made_is_closed(backend: Backend, wide: hr.Engine) -> None:
    gate = Gate()
    model = hr.compile_model("m.onnx", engine=wide, name="m")
    backend.before = gate
    end = in_a_thread(lambda: model.reschedule("multi_stream"))
    gate.wait()
    model.close()
    gate.open()
    with pytest.raises(Closed):
        end()
    assert backend.open() == []
    assert not threads_of("m")
    assert wide.statistics().cores_leased == 0


def test_closing_right_after_it_waits_for_old_runs_too(wide: hr.Engine) -> None:
    held = Held()
    model = hr.compile_model(held, engine=wide, name="m")
    futures = [model.submit(x) for x in range(3)]
    held.gate.wait()
    model.reschedule("multi_stream", timeout=0)
    end = in_a_thread(model.close)
    until(lambda: model.closed)
    assert not futures[0].can_read()
    held.gate.open()
    end()
    assert [future.result(0) for future in futures] == [0, 1, 2]
    assert not threads_of("m")


def test_closing_without_draining_right_after_it_refuses_what_waits_and_waits_for_old_runs(wide: hr.Engine) -> None:
    held = Held()
    model = hr.compile_model(held, engine=wide, name="m")
    running, waiting = [model.submit(x) for x in range(2)]
    held.gate.wait()
    model.reschedule("elastic", num_streams=1, timeout=0)
    end = in_a_thread(lambda: model.close(drain=False))
    assert isinstance(waiting.exception(PATIENCE), Closed), "the old run has the cores"
    assert not running.can_read()
    held.gate.open()
    end()
    assert running.result(0) == 0
    assert not threads_of("m")


@pytest.mark.parametrize("whole_engine", [False, True])
def test_who_closes_waits_for_old_runs_and_for_the_sessions_they_were_on(
    backend: Backend, wide: hr.Engine, whole_engine: bool
) -> None:
    running, closing, closed = Gate(), Gate(), threading.Event()
    model = hr.compile_model("m.onnx", engine=wide, name="m")
    (old,) = backend.made
    run = old.run
    old.run = lambda *given: running() or run(*given)  # type: ignore[method-assign]
    old.close = closing  # type: ignore[method-assign]
    future = model.submit(X)
    running.wait()
    model.reschedule("multi_stream", timeout=0)

    def close() -> None:
        wide.close(drain=False) if whole_engine else model.close(drain=False)
        closed.set()

    end = in_a_thread(close)
    until(lambda: threads_of("m") == ["headrace-m-0", "headrace-m-reschedule"])
    assert not closed.wait(0.05), "the old stream runs"
    running.open()
    assert float(future.result(PATIENCE)[0, 0]) == 1.0
    closing.wait()
    if not whole_engine:
        assert not closed.wait(0.05), "its session is being closed"
    closing.open()
    end()
    model.close()
    assert not threads_of("m")


def test_in_a_callback_it_takes_effect_and_does_not_wait(wide: hr.Engine) -> None:
    held, switched = Held(), threading.Event()

    def switch(_: Any) -> None:
        model.reschedule("multi_stream")
        switched.set()

    with hr.compile_model(held, engine=wide, name="m") as model:
        first = model.submit(0)
        held.gate.wait()
        first.add_done_callback(switch)  # on the stream that is to end
        second = model.submit(1)
        held.gate.open()
        assert switched.wait(PATIENCE)
        assert model.scheduler == "multi_stream"
        assert [first.result(PATIENCE), second.result(PATIENCE), model(2)] == [0, 1, 2]
    assert not threads_of("m")


def test_in_a_callback_it_waits_for_no_other_stream_either(wide: hr.Engine) -> None:
    gates, switched = [Gate(), Gate()], threading.Event()

    def switch(_: Any) -> None:
        model.reschedule("elastic")
        switched.set()

    with hr.compile_model(lambda x: gates[x]() or x, engine=wide, scheduler="multi_stream") as model:
        hangs, quick = model.submit(0), model.submit(1)
        for gate in gates:
            gate.wait()
        quick.add_done_callback(switch)
        gates[1].open()
        assert switched.wait(PATIENCE)
        assert not hangs.can_read()
        gates[0].open()
        assert (hangs.result(PATIENCE), quick.result(PATIENCE)) == (0, 1)


def test_in_the_model_itself_it_takes_effect_with_the_next_run(wide: hr.Engine) -> None:
    def work(x: int) -> str:
        if x == 0:
            model.reschedule("multi_stream")
        return threading.current_thread().name

    with hr.compile_model(work, engine=wide, name="m") as model:
        assert model(0) == "headrace-m-0"
        assert model(1) != "headrace-m-0"
    assert not threads_of("m")


def test_a_finaliser_in_the_middle_of_a_step_of_the_engine_is_told(wide: hr.Engine) -> None:
    with hr.compile_model(lambda x: x, engine=wide) as model:
        with wide.guard.lock, pytest.raises(WouldDeadlock):
            model.reschedule("multi_stream")
        with model.rescheduling, pytest.raises(WouldDeadlock):
            model.reschedule("multi_stream")
        assert model.scheduler == "single_stream"


def test_a_run_that_never_ends_keeps_nobody_longer_than_the_timeout(wide: hr.Engine) -> None:
    gates = [Gate(), Gate()]
    gates[1].open()
    with hr.compile_model(lambda x: gates[x]() or x, engine=wide, scheduler="multi_stream", name="m") as model:
        hangs = model.submit(0)
        gates[0].wait()
        model.reschedule("multi_stream", num_streams=2, num_cores=3, timeout=0)
        assert model(1, timeout=PATIENCE) == 1
        assert not hangs.can_read()
        gates[0].open()
        assert hangs.result(PATIENCE) == 0, "it is answered all the same"


def test_several_threads_are_served_one_after_the_other(wide: hr.Engine) -> None:
    asked: list[dict[str, Any]] = [{"scheduler": "multi_stream", "num_streams": n} for n in (1, 2, 3, 4)] + [
        {"scheduler": "elastic"}
    ]
    made: list[int] = []
    with hr.compile_model(lambda x: x, engine=wide, name="m") as model:
        serve_by, busy = model.serve_by, threading.Lock()

        def watched(*given: Any) -> None:
            assert busy.acquire(blocking=False), "two at once"
            serve_by(*given)
            made.append(len(model.placements))
            busy.release()

        model.serve_by = watched  # type: ignore[method-assign]
        ends = [in_a_thread(lambda each=each: model.reschedule(**each)) for each in asked * 4]  # type: ignore[misc]
        for end in ends:
            end()
        assert len(made) >= 5
        assert len(model.placements) == made[-1]
        assert len(threads_of("m")) == made[-1], "of each change but the last the streams have ended"
        assert [model(x) for x in range(20)] == list(range(20))


def test_nothing_of_what_was_replaced_is_kept(wide: hr.Engine) -> None:
    def streams() -> int:
        gc.collect()
        return sum(isinstance(each, Stream) for each in gc.get_objects())

    before = streams()
    with hr.compile_model(lambda x: x, engine=wide) as model:
        for place in range(10):
            model(0)
            model.reschedule(["multi_stream", "single_stream"][place % 2])
        assert streams() == before + 1
        assert not model.helpers


# ---- behind a server


def test_a_served_model_is_rescheduled_while_the_service_answers(wide: hr.Engine) -> None:
    service = Service(max_requests=100, max_bytes=10_000)
    held = Held()
    entry = service.registry.add("m", "1")
    entry.served = Served("m", "1", hr.compile_model(held, name="m", engine=wide))
    entry.state = State.READY
    delivered: list[Any] = []
    for x in range(6):
        request = service.open("m", None, nbytes=1)
        service.start(request, (x,), delivered.append)
    held.gate.wait()
    end = in_a_thread(lambda: entry.served.model.reschedule("multi_stream"))  # type: ignore[union-attr]
    until(lambda: entry.served.model.scheduler == "multi_stream")  # type: ignore[union-attr]
    held.gate.open()
    end()
    until(lambda: len(delivered) == 6)
    assert sorted(request.result(0)[0] for request in delivered) == list(range(6))
    assert service.stop(PATIENCE)


def test_a_model_that_came_by_a_relative_path_is_found_again_from_another_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digits = Path(hr.__file__).parent / "bundled" / "digits" / "digits.onnx"
    monkeypatch.chdir(digits.parent)
    with hr.Engine(topology=made_up(2)) as engine, hr.compile_model(digits.name, engine=engine) as model:
        monkeypatch.chdir("/")
        model.reschedule("multi_stream")
        assert len(model.placements) == 2
        assert model(np.zeros((1, 1, 8, 8), np.float32)).shape == (1, 10)


@pytest.mark.parametrize("timeout", [float("inf"), 1e10, 1e300, 10**400, -1])
def test_any_time_is_waited_for(wide: hr.Engine, timeout: float) -> None:
    with hr.compile_model(None, backend="null", engine=wide) as model:
        model.reschedule("multi_stream", timeout=timeout)
        assert model.scheduler == "multi_stream"
        assert model(1) == 1


def test_a_file_that_has_changed_is_found_beside_one_that_cannot_be_looked_at(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "model.onnx"
    copy.write_bytes(digits.read_bytes())
    name = next(each for each in ("input", "output", "x", "a", "e") if each.encode() in digits.read_bytes())
    (tmp_path / name).symlink_to(name)  # it leads to itself
    monkeypatch.chdir(tmp_path)
    with hr.compile_model("model.onnx") as model:
        assert model.origin is not None
        assert model.origin.model == str(copy)
        copy.write_bytes(copy.read_bytes() + b"\0")
        with pytest.raises(InvalidModel, match="was changed or removed"):
            model.origin.load([(1, ())])


def test_a_folder_that_cannot_be_listed_leaves_the_file_watched(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: object) -> None:
        raise PermissionError

    copy = tmp_path / "model.onnx"
    copy.write_bytes(digits.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", refused)
        model = hr.compile_model(copy)
        with model:
            copy.write_bytes(copy.read_bytes() + b"\0")
            assert model.origin is not None
            with pytest.raises(InvalidModel, match="was changed or removed"):
                model.origin.load([(1, ())])


def test_naive_has_nothing_to_reschedule() -> None:
    with (
        hr.compile_model(None, backend="null", scheduler="naive") as model,
        pytest.raises(InvalidOption, match="a naive model has nothing to reschedule: naive has no streams"),
    ):
        model.reschedule()
