"""Coroutine functions in worker processes: several runs at once, each with its own time, end and context."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_watching import descriptors, is_alive, reached, wait_for

import headrace as hr
from headrace.workers.answers import Answers
from headrace.workers.serving import Serving

Compile = Callable[..., hr.Model]


@pytest.fixture
def loops(compiled: Compile) -> Compile:
    """`compiled`, of a coroutine function by its name."""
    return lambda name, **options: compiled(None, source=f"coroutine_handlers:{name}", **options)


def starts(model: hr.Model) -> list[int]:
    return [status.starts for status in model.crew.statuses()]  # type: ignore[union-attr]


def test_several_runs_go_on_at_once_in_one_worker(loops: Compile) -> None:
    model = loops("meets")
    futures = [model.submit(20) for _ in range(20)]
    assert len({future.result(20) for future in futures}) == 1


def test_answers_that_do_not_fit_into_one_frame_leave_in_several(loops: Compile) -> None:
    model = loops("ends_together", concurrency=150, response_timeout=10)
    futures = [model.submit((150, 10_000)) for _ in range(150)]
    assert {len(future.result(20)) for future in futures} == {10_000}
    assert starts(model) == [1]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_never_more_than_asked_for(loops: Compile, concurrency: int) -> None:
    model = loops("counts", concurrency=concurrency)
    assert max(model.map(range(200), window=50)) == concurrency


def test_who_is_done_first_is_answered_first(loops: Compile, tmp_path: Path) -> None:
    model = loops("gate")
    waits = [model.submit(str(tmp_path)) for _ in range(5)]
    (pid,) = reached(tmp_path)
    assert set(model.map(range(300), window=50)) == {pid}
    assert not any(future.can_read() for future in waits)
    (tmp_path / "open").touch()
    assert {future.result(20) for future in waits} == {pid}


def test_values_of_all_sizes_go_there_and_back_side_by_side(loops: Compile) -> None:
    model = loops("double")
    arrays = [np.full(size, i) for i, size in enumerate([0, 1, 1000, 50_000, 3_000_000, 10, 300_000] * 5)]
    for array, answer in zip(arrays, model.map(arrays, window=20)):
        assert np.array_equal(array * 2, answer)
    assert starts(model) == [1]


def test_answers_that_do_not_fit_side_by_side_wait_for_each_other(loops: Compile) -> None:
    model = loops("double")
    most = [np.full(60 << 20, i, np.uint8) for i in range(6)]
    for i, answer in enumerate(model.map(most, window=6)):
        assert (answer[0], answer[-1], answer.nbytes) == (2 * i, 2 * i, 60 << 20)
    with pytest.raises(hr.BackendError, match="does not fit"):
        model(np.zeros(129 << 20, np.uint8))
    assert model(1) == 2
    assert starts(model) == [1]


def test_an_answer_waits_for_room_that_others_have(
    loops: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    grant = Answers._grant
    monkeypatch.setattr(Answers, "_grant", lambda self, frame: (asked.append(frame), grant(self, frame))[1])
    model = loops("room")
    first = model.submit([str(tmp_path), np.zeros(100 << 20, np.uint8)])
    reached(tmp_path)
    second = model.submit([str(tmp_path), 180 << 20])
    wait_for(lambda: asked)
    (tmp_path / "open").touch()
    assert first.result(20) is None
    assert second.result(20).nbytes == 180 << 20
    assert len(asked) == 2


def test_what_one_keeps_of_its_input_stays_what_it_was_and_the_rest_is_used_again(loops: Compile) -> None:
    model = loops("keeps")
    sums: list[float] = []
    for i in range(8):
        array = np.full(20_000, float(i))
        sums.append(array.sum())
        assert model(array) == sums
    doubles = loops("double")
    for _ in range(40):  # a gigabyte, through 256 MiB
        assert doubles(np.ones(12 << 20, np.uint8))[-1] == 2


@pytest.mark.parametrize(("kind", "says"), [("x", "ValueError: no x"), ("exit", "SystemExit"), ("cancelled", "Cancel")])
def test_what_one_raises_is_its_own_and_says_where(loops: Compile, kind: str, says: str) -> None:
    model = loops("fails")
    for _ in range(2):
        with pytest.raises(hr.BackendError, match=says) as caught:
            model(kind)
        assert "coroutine_handlers.py" in caught.value.__cause__.__notes__[0]  # type: ignore[union-attr]
    assert starts(model) == [1]


def test_each_run_has_a_context_of_its_own(loops: Compile) -> None:
    answers = list(loops("in_context").map(range(50), window=20))
    assert answers == [("none", i, i) for i in range(50)]


def test_batches_are_lists_and_a_bad_member_fails_alone(loops: Compile) -> None:
    model = loops("batch", max_batch_size=4, max_batch_delay=1.0)
    names = ["a", "bad", "c", "d"] * 3
    futures = [model.submit(name) for name in names]
    for future, name in zip(futures, names):
        if name == "bad":
            with pytest.raises(hr.BackendError, match="there is a bad one"):
                future.result(20)
        else:
            assert future.result(20)[1] == name


def test_an_object_may_be_called_by_a_coroutine_method(loops: Compile) -> None:
    assert list(loops("called").map(range(10))) == list(range(10))


# ---- time and cancelling


def test_cancelling_reaches_the_coroutine_at_once_and_nobody_else(loops: Compile, tmp_path: Path) -> None:
    model = loops("heeds", cancel_grace=30.0)
    (tmp_path / "other").mkdir()
    other = model.submit(str(tmp_path / "other"))
    future = model.submit(str(tmp_path))
    wait_for((tmp_path / "reached").exists)
    assert future.cancel()
    wait_for((tmp_path / "cancelled").exists)
    assert not other.can_read()
    (tmp_path / "other" / "open").touch()
    assert other.result(20) is None
    assert starts(model) == [1]


def test_one_that_does_not_leave_is_ended_and_its_neighbours_begin_once_more(loops: Compile, tmp_path: Path) -> None:
    model = loops("ignores", cancel_grace=0.1)
    (tmp_path / "other").mkdir()
    others = [model.submit([(str(tmp_path / "other"), 2)]) for _ in range(2)]
    future = model.submit(str(tmp_path))
    (pid,) = reached(tmp_path)
    wait_for(lambda: len(list((tmp_path / "other").glob("reached-*"))) == 2)
    assert future.cancel()
    wait_for(lambda: not is_alive(pid))
    assert (tmp_path / "ignored").exists()
    (tmp_path / "other" / "open").touch()
    (other,) = {each.result(20) for each in others}  # together: nobody suspects them
    assert other != pid


def test_one_that_takes_too_long_is_cancelled_alone_and_says_where_it_was(
    loops: Compile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="headrace.workers")
    model = loops("hangs", response_timeout=0.3, cancel_grace=30.0)
    future = model.submit(f"waits {tmp_path}")
    (pid,) = reached(tmp_path)
    while not future.can_read():
        assert model(1) == pid  # others answer all the while, and look at nobody's time
    with pytest.raises(hr.ResponseTimeout, match=r"within 0.3 s") as caught:
        future.result(20)
    stack = caught.value.stack
    assert stack.index("in _until") < stack.index("in inner_wait") < stack.index("in hangs")
    wait_for(lambda: any("in inner_wait" in record.getMessage() for record in caplog.records))
    assert starts(model) == [1]


def test_its_time_is_looked_at_though_others_answer_all_the_while(
    loops: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear = Serving._hear
    monkeypatch.setattr(Serving, "_hear", lambda self: (True, hear(self)[1]))
    model = loops("hangs", response_timeout=0.1)
    future = model.submit(f"waits {tmp_path}")
    with pytest.raises(hr.ResponseTimeout):
        future.result(10)
    assert starts(model) == [1]


def test_one_that_blocks_its_loop_is_ended_and_its_neighbours_begin_once_more(loops: Compile, tmp_path: Path) -> None:
    model = loops("hangs", response_timeout=0.3, cancel_grace=0.1)
    (tmp_path / "other").mkdir()
    future = model.submit(f"blocks {tmp_path}")
    (pid,) = reached(tmp_path)
    others = [model.submit(i) for i in range(40)]
    with pytest.raises(hr.ResponseTimeout) as caught:
        future.result(20)
    assert "in hangs" in caught.value.stack
    assert pid not in {other.result(20) for other in others}


def test_of_many_that_are_late_only_the_one_that_blocks_the_loop_fails(loops: Compile, tmp_path: Path) -> None:
    model = loops("hangs", response_timeout=0.5, cancel_grace=0.1)
    (tmp_path / "other").mkdir()
    others = [model.submit(f"waits {tmp_path / 'other'}") for _ in range(4)]
    (pid,) = reached(tmp_path / "other")
    guilty = model.submit(f"blocks {tmp_path}")
    reached(tmp_path)
    (tmp_path / "other" / "open").touch()  # which those inside cannot see
    with pytest.raises(hr.ResponseTimeout) as caught:
        guilty.result(20)
    assert "in hangs" in caught.value.stack
    assert pid not in {other.result(20) for other in others}
    assert starts(model) == [2]


def test_where_it_is_not_known_what_blocks_the_loop_they_are_run_once_more(loops: Compile, tmp_path: Path) -> None:
    model = loops("blocks_later", response_timeout=0.2, cancel_grace=0.1)
    others = [model.submit(f"waits {tmp_path}") for _ in range(3)]
    reached(tmp_path)
    guilty = model.submit("later")
    (tmp_path / "open").touch()
    with pytest.raises(hr.ResponseTimeout):
        guilty.result(20)
    assert {type(other.result(20)) for other in others} == {int}


def test_one_that_does_not_leave_in_time_is_ended_and_its_stack_is_told(
    loops: Compile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = loops("ignores", response_timeout=0.2, cancel_grace=0.1)
    future = model.submit(str(tmp_path))
    (pid,) = reached(tmp_path)
    with pytest.raises(hr.ResponseTimeout) as caught:
        future.result(20)
    assert "in ignores" in caught.value.stack
    wait_for(lambda: not is_alive(pid))


# ---- crashes


@pytest.mark.parametrize("workers", [1, 2])
def test_of_many_that_had_begun_only_the_guilty_one_fails(loops: Compile, tmp_path: Path, workers: int) -> None:
    model = loops("dies_if", workers=workers)
    inside = [model.submit(str(tmp_path)) for _ in range(6)]
    reached(tmp_path)
    guilty = [model.submit("die") for _ in range(2)]
    others = [model.submit(i) for i in range(60)]
    wait_for(lambda: sum(starts(model)) > workers)
    (tmp_path / "open").touch()
    for future in guilty:
        with pytest.raises(hr.WorkerDied):
            future.result(20)
    assert [future.result(20) for future in others] == list(range(60))
    assert [future.result(20) for future in inside] == [str(tmp_path)] * 6


@pytest.mark.parametrize("workers", [1, 2])
def test_where_nothing_says_who_ended_it_only_the_guilty_one_fails(
    loops: Compile, tmp_path: Path, workers: int
) -> None:
    model = loops("ends_it_later", workers=workers)
    inside = [model.submit(str(tmp_path)) for _ in range(6)]
    reached(tmp_path)
    guilty = model.submit("later")
    wait_for(lambda: sum(starts(model)) > workers)
    others = [model.submit(i) for i in range(60)]
    (tmp_path / "open").touch()
    with pytest.raises(hr.WorkerDied):
        guilty.result(20)
    assert [future.result(20) for future in others] == list(range(60))
    assert [future.result(20) for future in inside] == [str(tmp_path)] * 6
    wait_for(lambda: not model._source.alone)  # type: ignore[attr-defined]  # its worker sees to it after the answer


def test_what_was_inside_one_that_was_killed_goes_on_together_and_beside_newcomers(
    loops: Compile, tmp_path: Path
) -> None:
    model = loops("holds")
    inside = [model.submit(str(tmp_path)) for _ in range(6)]
    wait_for(lambda: len(list(tmp_path.glob("reached-*"))) == 6)
    pid = model.workers[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    newcomer = model.submit(str(tmp_path))
    wait_for(lambda: len(list(tmp_path.glob("reached-*"))) == 6 + 7)
    (tmp_path / "open").touch()
    assert pid not in {future.result(20) for future in [*inside, newcomer]}
    assert starts(model) == [2]


def test_what_must_not_be_run_twice_is_not(loops: Compile, tmp_path: Path) -> None:
    model = loops("dies_if", idempotent=False)
    inside = model.submit(str(tmp_path))
    reached(tmp_path)
    with pytest.raises(hr.WorkerDied):
        model("die")
    with pytest.raises(hr.WorkerDied):
        inside.result(20)
    assert model(1) == 1


def test_closing_without_draining_cancels_them_and_says_that_it_closed(loops: Compile, tmp_path: Path) -> None:
    model = loops("gate", cancel_grace=1000.0)
    futures = [model.submit(str(tmp_path)) for _ in range(3)]
    (pid,) = reached(tmp_path)
    model.close(drain=False)
    assert not is_alive(pid)
    for each in futures:
        with pytest.raises(hr.Closed):
            each.result(0)


def test_closing_answers_what_is_inside_and_leaves_nothing(loops: Compile, tmp_path: Path) -> None:
    before = descriptors()
    model = loops("gate", workers=2)
    futures = [model.submit(str(tmp_path)) for _ in range(10)]
    pids = reached(tmp_path)
    closing = threading.Thread(target=model.close)
    closing.start()
    wait_for(lambda: model.closed)
    (tmp_path / "open").touch()
    closing.join(20)
    assert not closing.is_alive()
    assert all(isinstance(future.result(0), int) for future in futures)
    assert not any(map(is_alive, pids))
    assert descriptors() == before


def test_tasks_it_leaves_behind_end_with_its_worker(loops: Compile, tmp_path: Path) -> None:
    model = loops("leaves_something_behind")
    model(str(tmp_path))
    model.close()
    assert (tmp_path / "ended").exists()


def test_growing_shrinking_and_restarting_lose_no_request(loops: Compile) -> None:
    model = loops("double")
    futures = [model.submit(i) for i in range(100)]
    model.scale(3)
    futures += [model.submit(i) for i in range(100, 200)]
    model.scale(1)
    model.restart()
    futures += [model.submit(i) for i in range(200, 300)]
    assert [future.result(20) for future in futures] == [2 * i for i in range(300)]


# ---- what is refused


def test_asynchronous_generators_are_refused(engine: hr.Engine) -> None:
    with pytest.raises(hr.InvalidModel, match="is a generator function"):
        hr.compile_model("coroutine_handlers:generates", isolation="process", engine=engine)


def test_in_this_process_it_is_said_what_to_do(engine: hr.Engine) -> None:
    async def here(x: Any) -> Any:
        return x

    with pytest.raises(hr.InvalidModel, match=r"isolation='process'.*concurrency=N"):
        hr.compile_model(here, engine=engine)


@pytest.mark.parametrize("concurrency", [0, 257, True, 1.5])
def test_how_many_at_once_is_a_whole_number(engine: hr.Engine, concurrency: object) -> None:
    with pytest.raises(hr.InvalidOption, match="concurrency is a whole number from 1 to 256"):
        hr.compile_model("coroutine_handlers:gate", isolation="process", engine=engine, concurrency=concurrency)  # type: ignore[arg-type]
    with pytest.raises(hr.InvalidOption, match="only worker processes"):
        hr.compile_model(os.getpid, engine=engine, concurrency=2)
