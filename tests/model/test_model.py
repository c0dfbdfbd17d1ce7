"""A compiled model as its users meet it: call, submit, await, map, cancel, statistics."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

import headrace as hr
from headrace.engine.topology import made_up
from headrace.model.statistics import ModelStatistics
from headrace.testing import FakeClock, Gate

PATIENCE = 30.0


def double(x: Any) -> Any:
    return x * 2


def added_up(seen: ModelStatistics) -> bool:
    ended = seen.completed + seen.failed + seen.cancelled + seen.late + seen.refused
    return seen.submitted == ended + seen.waiting + seen.running


# ---- forms, end to end


def test_the_answer_comes_in_the_form_of_the_question(engine: hr.Engine, sum_and_difference: bytes) -> None:
    a, b = np.full((2, 3), 5, np.float32), np.full((2, 3), 3, np.float32)
    with hr.compile_model(sum_and_difference, engine=engine) as model:
        total, difference = model([a, b])
        assert (total[0, 0], difference[0, 0]) == (8, 2)
        by_name = model({"b": b, "a": a})
        assert {name: array[0, 0] for name, array in by_name.items()} == {"sum": 8, "difference": 2}


def test_one_array_in_is_one_array_out(engine: hr.Engine, graph: Callable[..., bytes]) -> None:
    ints = (TensorProto.INT64, ["n"])
    with hr.compile_model(graph([("Neg", ["x"], ["y"], {})], {"x": ints}, {"y": ints}), engine=engine) as model:
        assert model(np.array([1, -2])).tolist() == [-1, 2]
        assert [y.tolist() for y in model([np.array([3])])] == [[-3]]
        with pytest.raises(hr.InvalidInput, match="int32"):
            model(np.array([1], np.int32))


@pytest.mark.parametrize("max_batch_size", [1, 4])
def test_text_goes_through(engine: hr.Engine, graph: Callable[..., bytes], max_batch_size: int) -> None:
    text = (TensorProto.STRING, ["n"])
    same = graph([("Identity", ["t"], ["u"], {})], {"t": text}, {"u": text})
    with hr.compile_model(same, engine=engine, max_batch_size=max_batch_size) as model:
        words = [np.array(["a", "grün"]), np.array([b"abc"]), np.array(["", "x"], object)]
        answers = [answer.tolist() for answer in model.map(words)]
    assert answers == [["a", "grün"], ["abc"], ["", "x"]]


def test_a_fixed_batch_is_taken_as_it_is(engine: hr.Engine, graph: Callable[..., bytes]) -> None:
    pair = graph([("Identity", ["x"], ["y"], {})], {"x": [2, 1]}, {"y": [2, 1]})
    with hr.compile_model(pair, engine=engine) as model:
        assert model(np.ones((2, 1), np.float32)).shape == (2, 1)
        with pytest.raises(hr.InvalidInput, match=r"takes float32 \[2, 1\]; an array of float32 \[1, 1\] came"):
            model(np.ones((1, 1), np.float32))


def test_a_callable_is_called_as_it_was_called_upon(engine: hr.Engine) -> None:
    def show(*args: Any, **named: Any) -> tuple[Any, Any]:
        return args, named

    with hr.compile_model(show, engine=engine) as model:
        assert model(1) == ((1,), {})
        assert model([1, 2]) == ((1, 2), {})
        assert model({"a": 1}) == ((), {"a": 1})
        assert model((1, 2)) == (((1, 2),), {})
        assert model(None) == ((None,), {})
        assert model([]) == ((), {})


def test_the_null_backend_is_the_machinery_alone(engine: hr.Engine) -> None:
    array = np.zeros(3)
    with hr.compile_model(None, backend="null", engine=engine) as model:
        assert model(array) is array
        assert model([1, 2]) == [1, 2]


def test_a_wrong_input_reaches_nothing(engine: hr.Engine, sum_and_difference: bytes) -> None:
    with hr.compile_model(sum_and_difference, engine=engine) as model:
        for wrong in (None, [], {"a": 1}, np.zeros(3)):
            with pytest.raises(hr.InvalidInput):
                model.submit(wrong)
        assert model.statistics().submitted == 0
        assert engine.statistics().budget.inside == 0


# ---- errors


def test_what_a_callable_raises_is_the_cause_of_the_error_every_time(engine: hr.Engine) -> None:
    with hr.compile_model(lambda x: 1 / x, engine=engine) as model:
        future = model.submit(0)
        for _ in range(2):
            with pytest.raises(hr.BackendError, match="the model raised ZeroDivisionError") as caught:
                future.result(PATIENCE)
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert model(2) == 0.5


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("raised", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), Unprintable()])
def test_nothing_that_a_callable_raises_ends_its_stream(engine: hr.Engine, raised: BaseException) -> None:
    def fail(x: int) -> int:
        if x == 0:
            raise raised
        return x

    with hr.compile_model(fail, engine=engine) as model:
        error = model.submit(0).exception(PATIENCE)
        assert isinstance(error, hr.BackendError)
        assert error.__cause__ is raised
        assert model(1) == 1


def test_a_callable_may_raise_an_error_of_ours(engine: hr.Engine) -> None:
    def picky(x: Any) -> Any:
        raise hr.InvalidInput("not today")

    with hr.compile_model(picky, engine=engine) as model, pytest.raises(hr.InvalidInput, match=r"^not today$"):
        model(1)


def test_errors_nobody_has_looked_at_are_raised_by_waitall(engine: hr.Engine) -> None:
    with hr.compile_model(lambda x: 1 / x, engine=engine) as model:
        futures = [model.submit(x) for x in (0, 1, 0)]
        assert isinstance(futures[0].exception(PATIENCE), hr.BackendError)
        with pytest.RaisesGroup(pytest.RaisesExc(hr.BackendError, match="ZeroDivisionError")):
            engine.waitall(PATIENCE)
        engine.waitall(PATIENCE)


def test_a_callable_that_waits_for_its_own_model_is_told(engine: hr.Engine) -> None:
    with hr.compile_model(lambda x: model(x), engine=engine, name="itself") as model:
        with pytest.raises(hr.WouldDeadlock):
            model(1)


# ---- threads and event loops


@pytest.mark.parametrize("scheduler", ["single_stream", "multi_stream", "naive"])
@pytest.mark.parametrize("max_batch_size", [1, 4])
def test_it_is_safe_to_call_from_many_threads(sum_and_difference: bytes, scheduler: str, max_batch_size: int) -> None:
    with (
        hr.Engine(topology=made_up(4)) as engine,
        hr.compile_model(
            sum_and_difference, scheduler=scheduler, engine=engine, max_batch_size=max_batch_size
        ) as model,
        ThreadPoolExecutor(16) as threads,
    ):

        def caller(n: int) -> bool:
            for i in range(20):
                a = np.full((1 + i % 3, 3), n, np.float32)
                total, difference = model([a, np.full_like(a, i)])
                assert total.shape == difference.shape == a.shape
                assert (total == n + i).all()
                assert (difference == n - i).all()
            return True

        assert all(threads.map(caller, range(16)))
        model.close()
        seen = model.statistics()
    assert (seen.submitted, seen.completed, seen.waiting, seen.running) == (320, 320, 0, 0)
    assert seen.rows == (sum(1 + i % 3 for i in range(20)) * 16 if max_batch_size > 1 else 320)


def test_futures_come_in_the_order_they_complete() -> None:
    gates = [Gate() for _ in range(3)]
    with (
        hr.Engine(topology=made_up(3)) as engine,
        hr.compile_model(lambda i: gates[i]() or i, scheduler="multi_stream", engine=engine) as model,
    ):
        futures = [model.submit(i) for i in range(3)]
        completed = hr.as_completed(futures, timeout=PATIENCE)
        order = []
        for i in (2, 0, 1):
            gates[i].open()
            order.append(next(completed).result())
    assert order == [2, 0, 1]


def test_it_can_be_awaited_in_several_ways(engine: hr.Engine) -> None:
    async def user() -> list[Any]:
        answers = [await model.asubmit(1), await model.submit(2)]
        answers += await asyncio.gather(*(model.asubmit(x) for x in range(5)))
        futures = [model.submit(x) for x in range(3)]
        answers.append(sorted([f.result() async for f in hr.as_completed(futures)]))
        with pytest.raises(hr.BackendError):
            await model.asubmit(None)
        return answers

    with hr.compile_model(double, engine=engine) as model:
        assert asyncio.run(user()) == [2, 4, 0, 2, 4, 6, 8, [0, 2, 4]]


def test_a_full_engine_refuses_on_an_event_loop_and_asubmit_waits() -> None:
    gate = Gate()

    async def user() -> list[Any]:
        first = model.submit(0)
        with pytest.raises(hr.Overloaded):
            model.submit(1)
        waiting = [asyncio.create_task(model.asubmit(x)) for x in range(1, 6)]
        await asyncio.sleep(0)  # each of them is in line now
        assert engine.statistics().budget.waiting == 5
        gate.open()
        return [await first, *(await asyncio.gather(*waiting))]

    with (
        hr.Engine(topology=made_up(1), max_operations=1) as engine,
        hr.compile_model(lambda x: gate() or x, engine=engine) as model,
    ):
        assert asyncio.run(user()) == [0, 1, 2, 3, 4, 5]
        model.close()
        assert engine.statistics().budget.inside == 0


def test_who_is_cancelled_while_it_awaits_takes_its_work_along(engine: hr.Engine) -> None:
    gate, ran = Gate(), []

    async def user() -> None:
        model.submit(0)
        task = asyncio.create_task(model.asubmit(1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with hr.compile_model(lambda x: gate() or ran.append(x), engine=engine) as model:
        asyncio.run(user())
        gate.open()
        model.close()
    assert ran == [0]
    assert model.statistics().cancelled == 1


def test_the_room_is_free_when_the_answer_is_there() -> None:
    """Whoever hears of an answer and sends the next request at once must find the room it left."""
    with (
        hr.Engine(topology=made_up(1), max_operations=1, on_full="reject") as engine,
        hr.compile_model(double, engine=engine) as model,
    ):
        chain: list[Any] = []
        done = threading.Event()

        def again(future: hr.Future[Any]) -> None:
            chain.append(future.result())
            if len(chain) == 20:
                done.set()
            else:
                model.submit(len(chain)).add_done_callback(again)

        model.submit(0).add_done_callback(again)
        assert done.wait(PATIENCE)
        model.close()
    assert chain == [2 * n for n in range(20)]


def test_a_callback_that_raises_costs_nobody_an_answer(engine: hr.Engine, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()

    def fail(_: object) -> None:
        raise SystemExit(1)

    with hr.compile_model(lambda xs: [gate() or x for x in xs], engine=engine, max_batch_size=4) as model:
        futures = [model.submit(x) for x in range(5)]
        gate.wait()
        for future in futures:
            future.add_done_callback(fail)
        gate.open()
        assert [future.result(PATIENCE) for future in futures] == list(range(5))
    assert "a callback of a future raised" in caplog.text


# ---- map


def test_map_answers_in_order_whatever_completes_first() -> None:
    gate = Gate()

    def second_first(i: int) -> int:
        if i == 0:
            gate()
        elif i == 1:
            gate.open()
        return i

    with (
        hr.Engine(topology=made_up(2)) as engine,
        hr.compile_model(second_first, scheduler="multi_stream", engine=engine) as model,
    ):
        assert list(model.map(range(10))) == list(range(10))


@pytest.mark.parametrize("window", [1, 3, 100])
def test_map_takes_no_more_than_its_window(engine: hr.Engine, window: int) -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for i in range(10):
            taken.append(i)
            yield i

    with hr.compile_model(double, engine=engine) as model:
        answers = model.map(source(), window=window)
        assert taken == [], "nothing begins before somebody asks"
        for count, answer in enumerate(answers):
            assert answer == 2 * count
            assert len(taken) <= min(10, count + window)
        assert len(taken) == 10


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_has_room_for_one_at_least(engine: hr.Engine, window: int) -> None:
    with hr.compile_model(double, engine=engine) as model, pytest.raises(hr.InvalidOption, match="window"):
        model.map([1], window=window)


def test_an_error_of_the_model_comes_in_its_place_and_ends_the_map(engine: hr.Engine) -> None:
    gate = Gate()

    def picky(i: int) -> int:
        if i == 2:
            gate()
            raise ValueError("two")
        return i

    with hr.compile_model(picky, engine=engine) as model:
        answers = model.map(range(10), window=10)
        assert [next(answers), next(answers)] == [0, 1]
        gate.open()
        with pytest.raises(hr.BackendError, match="two"):
            next(answers)
        assert list(answers) == []
        model.close()
        seen = model.statistics()
    assert (seen.submitted, seen.failed) == (10, 1)
    assert added_up(seen)


def test_a_wrong_input_comes_in_its_place_too(engine: hr.Engine, sum_and_difference: bytes) -> None:
    row = [np.ones((1, 3), np.float32)] * 2
    with hr.compile_model(sum_and_difference, engine=engine) as model:
        answers = model.map([row, row, [1, 2], row], window=16)
        assert [next(answers)[0][0, 0], next(answers)[0][0, 0]] == [2, 2]
        with pytest.raises(hr.InvalidInput, match="input 'a' is a NumPy array"):
            next(answers)
        assert model.statistics().submitted == 2, "what comes after it is not sent"


@pytest.mark.parametrize("progress", [False, True])
def test_who_stops_early_cancels_the_rest(engine: hr.Engine, progress: bool) -> None:
    gate, ran = Gate(), []

    def slow_from_one_on(i: int) -> int:
        if i:
            gate()
        ran.append(i)
        return i

    with hr.compile_model(slow_from_one_on, engine=engine) as model:
        answers = model.map(range(10), window=10, progress=progress)
        assert next(answers) == 0
        gate.wait()  # 1 runs, 2 to 9 wait
        answers.close()  # type: ignore[attr-defined]
        gate.open()
        model.close()
    assert ran == [0, 1]
    assert model.statistics().cancelled == 8


def test_map_waits_for_its_own_oldest_where_others_fill_the_engine() -> None:
    gate = Gate()
    with (
        hr.Engine(topology=made_up(2), max_operations=3, on_full="reject") as engine,
        hr.compile_model(lambda: gate(), scheduler="multi_stream", num_streams=1, num_cores=1, engine=engine) as other,
        hr.compile_model(double, scheduler="multi_stream", engine=engine) as model,
    ):
        held = other.submit([])
        gate.wait()
        assert list(model.map(range(20), window=10)) == [2 * i for i in range(20)]
        full = [other.submit([]), other.submit([])]
        with pytest.raises(hr.Overloaded):
            next(model.map([1]))
        gate.open()
        assert [future.result(PATIENCE) for future in (held, *full)] == [None] * 3


def test_progress_is_drawn_on_stderr_and_nothing_on_stdout(
    engine: hr.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with hr.compile_model(double, engine=engine) as model:
        assert list(model.map([1, 2, 3], progress=True)) == [2, 4, 6]
        known = capsys.readouterr()
        assert list(model.map(iter([1, 2]), progress=True)) == [2, 4]
        unknown = capsys.readouterr()
        assert list(model.map(iter([1, 2]), progress=True, total=2)) == [2, 4]
        told = capsys.readouterr()
        list(model.map([1, 2, 3]))
        quiet = capsys.readouterr()
    assert "double" in known.err
    assert "3/3" in known.err
    assert "2/?" in unknown.err
    assert "2/2" in told.err
    assert "\x1b" not in known.err, "no control characters where stderr is not a terminal"
    assert (known.out, unknown.out, told.out, quiet.out, quiet.err) == ("",) * 5


# ---- cancelling, and what is counted


def test_the_numbers_add_up_at_every_moment(engine: hr.Engine) -> None:
    gate = Gate()

    def work(x: int) -> float:
        gate()
        return 1 / x

    with hr.compile_model(work, engine=engine) as model:
        assert model.statistics() == ModelStatistics(1, *[0] * 10, 0.0, 0.0)  # type: ignore[arg-type]
        futures = [model.submit(x, timeout=t) for x, t in ((1, None), (0, None), (2, None), (3, 0), (4, None))]
        gate.wait()
        seen = model.statistics()
        assert (seen.submitted, seen.running, seen.waiting) == (5, 1, 4)
        assert added_up(seen)
        assert futures[2].cancel()
        assert added_up(model.statistics())
        gate.open()
        assert futures[4].result(PATIENCE) == 0.25
        model.close()
        seen = model.statistics()
    assert (seen.completed, seen.failed, seen.cancelled, seen.late, seen.refused) == (2, 1, 1, 1, 0)
    assert (seen.waiting, seen.running, seen.runs, seen.rows) == (0, 0, 3, 3)
    assert seen.queue_seconds > 0
    assert seen.run_seconds > 0
    assert added_up(seen)
    assert isinstance(futures[3].exception(), hr.DeadlineExceeded)


def test_what_is_cancelled_in_the_queue_never_runs_and_leaves_at_once(engine: hr.Engine) -> None:
    gate, ran = Gate(), []
    with hr.compile_model(lambda x: gate() or ran.append(x), engine=engine) as model:
        futures = [model.submit(x) for x in range(4)]
        gate.wait()
        assert engine.statistics().budget.inside == 4
        assert futures[1].cancel()
        assert futures[3].cancel()
        assert not futures[3].cancel()
        assert engine.statistics().budget.inside == 2
        gate.open()
        model.close()
    assert ran == [0, 2]
    for future in (futures[1], futures[3]):
        assert future.cancelled()
        with pytest.raises(hr.Cancelled):
            future.result()


@pytest.mark.parametrize("max_bytes", [None, 10_000])
def test_what_is_cancelled_while_it_runs_stays_inside_until_its_run_has_ended(max_bytes: int | None) -> None:
    gate = Gate()
    with (
        hr.Engine(topology=made_up(1), max_bytes=max_bytes) as engine,
        hr.compile_model(lambda x: gate() or x.sum(), engine=engine) as model,
    ):
        future = model.submit(np.ones(1000))
        gate.wait()
        assert future.cancel()
        with pytest.raises(hr.Cancelled):
            future.result()
        inside = engine.statistics().budget
        assert inside.inside == 1
        if max_bytes:  # else bytes are not counted
            assert inside.nbytes >= 8000, "the run still reads its inputs"
        gate.open()
        model.close()
        assert future.cancelled(), "what the run returned is dropped"
        inside = engine.statistics().budget
        assert (inside.inside, inside.nbytes) == (0, 0)


def test_cancelled_requests_do_not_pile_up(engine: hr.Engine) -> None:
    gate = Gate()
    with hr.compile_model(lambda x: gate() or x, engine=engine) as model:
        first = model.submit(0)
        gate.wait()
        for x in range(3000):
            model.submit(x).cancel()
        assert model.statistics().waiting < 500
        assert added_up(model.statistics())
        gate.open()
        assert first.result(PATIENCE) == 0


# ---- deadlines


def test_what_is_late_is_not_run_and_says_so() -> None:
    clock, gate, ran = FakeClock(), Gate(), []
    with (
        hr.Engine(topology=made_up(1), clock=clock) as engine,
        hr.compile_model(lambda x: ran.append(x) or gate(), engine=engine) as model,
    ):
        futures = [model.submit(0), *(model.submit(x, timeout=x) for x in (1, 2, 3))]
        gate.wait()
        clock.advance(2)
        gate.open()
        assert futures[3].result(PATIENCE) is None
        with pytest.raises(hr.DeadlineExceeded, match=r"1\.000 s before a stream was free"):
            futures[1].result(PATIENCE)
        assert futures[2].result(PATIENCE) is None
        assert ran == [0, 2, 3]
        assert isinstance(futures[1].exception(), TimeoutError)


@pytest.mark.parametrize("scheduler", ["single_stream", "naive"])
def test_an_idle_model_takes_a_request_whose_time_is_up_at_once(engine: hr.Engine, scheduler: str) -> None:
    """Whether it is late when a stream has it is for the stream to say, a moment later."""
    with hr.compile_model(double, engine=engine, scheduler=scheduler) as model:
        for x in range(20):
            future = model.submit(x, timeout=0)
            error = future.exception(PATIENCE)
            assert isinstance(error, hr.DeadlineExceeded) or future.result() == 2 * x
        assert model.statistics().submitted == 20


def test_a_request_that_needs_no_time_at_all_is_in_time() -> None:
    with (
        hr.Engine(topology=made_up(1), clock=FakeClock()) as engine,
        hr.compile_model(double, engine=engine) as model,
    ):
        assert model(1, timeout=0) == 2


class Slow:
    """A model each run of which takes one second of its clock; the first run after `stop` stops at the gate."""

    def __init__(self) -> None:
        self.clock, self.gate, self.stopped, self.ran = FakeClock(), Gate(), False, []

    def __call__(self, x: int) -> int:
        self.ran.append(x)
        if self.stopped:
            self.gate()
        self.clock.advance(1.0)
        return x

    def stop(self, model: hr.Model) -> hr.Future[int]:
        """What runs from now on."""
        model(0)  # so that it is known how long a run takes
        self.stopped = True
        future = model.submit(1)
        self.gate.wait()
        return future


def test_what_cannot_begin_in_time_is_refused_when_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.engine.port.KNOWN", 1)
    slow = Slow()
    with (
        hr.Engine(topology=made_up(1), clock=slow.clock) as engine,
        hr.compile_model(slow, engine=engine) as model,
        contextlib.ExitStack() as before_closing,
    ):
        running = slow.stop(model)
        before_closing.callback(slow.gate.open)
        waiting = [model.submit(x) for x in (2, 3, 4)]
        before = model.statistics().submitted, engine.statistics().budget.inside
        with pytest.raises(hr.DeadlineExceeded, match="could not be started in time"):
            model.submit(5, timeout=2.0)
        with pytest.raises(hr.DeadlineExceeded, match="could not be started in time"):
            asyncio.run(model.asubmit(5, timeout=2.0))
        assert (model.statistics().submitted, engine.statistics().budget.inside) == before, "it never came in"
        in_time = model.submit(6, timeout=5.0)
        first = model.submit(7, timeout=2.0, priority=100)  # it overtakes those that wait
        slow.gate.open()
        for future in (running, *waiting, in_time, first):
            future.result(PATIENCE)
    assert slow.ran == [0, 1, 7, 2, 3, 4, 6]


def test_those_who_were_cancelled_take_no_time_from_who_comes() -> None:
    slow = Slow()
    with (
        hr.Engine(topology=made_up(1), clock=slow.clock) as engine,
        hr.compile_model(slow, engine=engine) as model,
    ):
        running = slow.stop(model)
        for x in range(10):
            model.submit(x).cancel()
        try:
            future = model.submit(2, timeout=2.0)
        finally:
            slow.gate.open()
        assert future.result(PATIENCE) == 2
        assert running.result(PATIENCE) == 1


def test_those_that_are_joined_take_the_time_of_one_run() -> None:
    clock, gate, stopped = FakeClock(), Gate(), []

    def slow(xs: list[int]) -> list[int]:
        if stopped:
            gate()
        clock.advance(1.0)
        return xs

    with (
        hr.Engine(topology=made_up(1), clock=clock) as engine,
        hr.compile_model(slow, engine=engine, max_batch_size=4) as model,
    ):
        model(0)
        stopped.append(True)
        futures = [model.submit(1)]
        gate.wait()
        futures += [model.submit(x) for x in range(4)]
        futures += [model.submit(x, timeout=2.0) for x in range(4)]
        gate.open()
        for future in futures:
            future.result(PATIENCE)
        assert model.statistics().runs == 4


def test_seconds_in_runs_are_summed_up() -> None:
    slow = Slow()
    with (
        hr.Engine(topology=made_up(1), clock=slow.clock) as engine,
        hr.compile_model(slow, engine=engine) as model,
    ):
        for x in range(3):
            model(x)
        assert model.statistics().run_seconds == 3.0


def test_the_time_a_request_waits_for_room_counts() -> None:
    clock, gate = FakeClock(), Gate()

    async def user() -> None:
        first = model.submit(0)
        waiting = asyncio.create_task(model.asubmit(1, timeout=5))
        await asyncio.sleep(0)
        assert engine.statistics().budget.waiting == 1
        clock.advance(6)
        gate.open()
        assert await first == 0
        with pytest.raises(hr.DeadlineExceeded):
            await waiting

    with (
        hr.Engine(topology=made_up(1), max_operations=1, clock=clock) as engine,
        hr.compile_model(lambda x: gate() or x, engine=engine) as model,
    ):
        asyncio.run(user())


@pytest.mark.parametrize("scheduler", ["single_stream", "naive"])
@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", object()])
def test_a_timeout_that_is_none_costs_no_room(engine: hr.Engine, scheduler: str, timeout: Any) -> None:
    with hr.compile_model(double, engine=engine, scheduler=scheduler) as model:
        with pytest.raises((hr.InvalidOption, TypeError)):
            model(1, timeout=timeout)
        assert model._budget.statistics().inside == 0
        assert model(1, timeout=float("inf")) == 2
