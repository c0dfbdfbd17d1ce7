"""When the number of workers changes, so do their shares of the cores; no request is lost for that."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from worker_watching import descriptors, reached, wait_for

import headrace as hr
from headrace.engine.topology import made_up
from headrace.workers.pool import Pool
from headrace.workers.worker import Worker

Compile = Callable[..., hr.Model]


@pytest.fixture
def engine() -> Iterator[hr.Engine]:
    with hr.Engine(topology=made_up(4)) as made:
        yield made


def threads(model: hr.Model) -> list[int]:
    return [status.threads for status in model.workers]


def test_those_that_stay_are_restarted_with_their_new_share(compiled: Compile) -> None:
    model = compiled("environment")
    assert (threads(model), model("OMP_NUM_THREADS")) == ([4], "4")
    futures = [model.submit("OMP_NUM_THREADS") for _ in range(500)]
    model.scale(3)
    assert threads(model) == [2, 1, 1]
    assert {model("OMP_NUM_THREADS") for _ in range(50)} <= {"2", "1"}
    futures += [model.submit("OMP_NUM_THREADS") for _ in range(500)]
    model.scale(1)
    assert (threads(model), model("OMP_NUM_THREADS")) == ([4], "4")
    assert all(future.result(60) in ("4", "2", "1") for future in futures)
    assert model.statistics().failed == 0
    assert model.workers[0].starts == 3


def test_whose_share_is_the_same_is_left_alone(compiled: Compile) -> None:
    model = compiled("pid", workers=4)
    before = [status.pid for status in model.workers]
    model.scale(5)  # more than there are cores: each has one all the same
    assert [status.pid for status in model.workers][:4] == before
    model.scale(4)
    assert [status.pid for status in model.workers] == before


def test_they_may_be_kept_as_they_are_and_planned_later(compiled: Compile) -> None:
    model = compiled("pid")
    before = model(0)
    model.scale(4, replan=False)
    assert threads(model) == [4, 1, 1, 1]
    assert model.workers[0].pid == before
    assert model.crew.roster.replan(60)  # type: ignore[union-attr]
    assert threads(model) == [1] * 4
    assert before not in [status.pid for status in model.workers]


def test_one_that_is_busy_finishes_first_and_the_time_is_a_bound(compiled: Compile, tmp_path: Path) -> None:
    model = compiled("gate_if")
    future = model.submit(str(tmp_path))
    (pid,) = reached(tmp_path)
    model.scale(2, replan=False)
    assert not model.crew.roster.replan(0.5), "the first is busy for longer than that"  # type: ignore[union-attr]
    assert model.workers[0].pid == pid
    assert model(5) == 5  # the other one answers meanwhile
    (tmp_path / "open").touch()
    assert future.result(60) == str(tmp_path)
    wait_for(lambda: threads(model) == [2, 2])
    assert model.workers[0].pid != pid


def test_who_has_nothing_to_do_stays_and_who_hangs_leaves(compiled: Compile, tmp_path: Path) -> None:
    model = compiled("gate_if")
    future = model.submit(str(tmp_path))
    (busy,) = reached(tmp_path)
    model.scale(2, replan=False)
    (idle,) = {status.pid for status in model.workers} - {busy}
    scaling = threading.Thread(target=model.scale, args=(1,), kwargs={"replan": False})
    scaling.start()
    wait_for(lambda: len(model.workers) == 1)
    assert model.workers[0].pid == idle
    assert model(5) == 5
    model.scale(3, replan=False)  # while the other one still waits for what leaves
    assert len(model.workers) == 3
    assert scaling.is_alive()
    assert {model(i) for i in range(30)} == set(range(30))
    (tmp_path / "open").touch()
    scaling.join(60)
    assert not scaling.is_alive()
    assert future.result(60) == str(tmp_path)


def test_growing_does_not_wait_for_one_that_is_busy_which_is_replaced_when_it_is_done(
    compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.workers.roster.BUSY", 0.05)
    model = compiled("gate_if")
    future = model.submit(str(tmp_path))
    (pid,) = reached(tmp_path)
    model.scale(2)
    assert (model.workers[0].pid, threads(model)) == (pid, [4, 2])
    assert not future.can_read()
    (tmp_path / "open").touch()
    assert future.result(60) == str(tmp_path)
    wait_for(lambda: threads(model) == [2, 2])


def test_closing_ends_a_replan_that_goes_on(compiled: Compile, tmp_path: Path) -> None:
    model = compiled("gate_if")
    future = model.submit(str(tmp_path))
    reached(tmp_path)
    scaling = threading.Thread(target=model.scale, args=(2,))
    scaling.start()
    wait_for(lambda: len(model.workers) == 2)
    (tmp_path / "open").touch()
    model.close()
    scaling.join(60)
    assert not scaling.is_alive()
    assert future.result(60) == str(tmp_path)


def test_workers_stay_on_one_numa_node(compiled: Compile) -> None:
    with hr.Engine(topology=made_up(4, nodes=2)) as engine:
        model = hr.compile_model("worker_handlers:pid", isolation="process", workers=3, engine=engine)
        try:
            assert [(status.threads, status.cpus) for status in model.workers] == [
                (1, (0, 1)),
                (2, (2, 3)),
                (1, (0, 1)),
            ]
            model.scale(2)
            assert [(status.threads, status.cpus) for status in model.workers] == [(2, (0, 1)), (2, (2, 3))]
        finally:
            model.close()


def test_what_a_worker_is_like_is_said(compiled: Compile) -> None:
    model = compiled("pid", workers=2, memory_limit=1 << 30)
    for status in model.workers:
        assert status.limited_by in ("address space", "cgroup")
        assert status.memory_limit == 1 << 30
        assert status.rss is not None
        assert 1 << 20 < status.rss < 1 << 30
    with hr.compile_model(abs, engine=model.engine) as here:
        assert here.workers == ()


def test_a_model_that_is_closed_before_it_has_grown_leaves_nobody_behind(compiled: Compile) -> None:
    model = compiled("echo")
    pool = model.crew
    refused: list[hr.Closed] = []
    assert isinstance(pool, Pool)

    def grow() -> None:
        try:
            model.scale(3)
        except hr.Closed as error:
            refused.append(error)

    files, growing = descriptors(), threading.Thread(target=grow)
    with pool.roster.changing:  # as a restart has it
        growing.start()
        model.close()
    growing.join()
    assert len(refused) == 1
    assert len(pool) == 1
    assert descriptors()["anon_inode:[eventfd]"] <= files["anon_inode:[eventfd]"]


def test_a_model_may_be_closed_while_new_workers_are_about_to_begin(
    compiled: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = compiled("echo")
    pool = model.crew
    failed: list[RuntimeError] = []
    assert isinstance(pool, Pool)
    start = pool.begin

    def close() -> None:
        try:
            model.close()
        except RuntimeError as error:
            failed.append(error)

    def start_late(workers: Sequence[Worker]) -> None:
        closing = threading.Thread(target=close)
        closing.start()
        wait_for(lambda: not pool.port.attached)
        wait_for(lambda: not pool.workers[0].thread.is_alive())  # whose end it waits for first
        start(workers)
        closing.join()

    monkeypatch.setattr(pool, "begin", start_late)
    model.scale(3)
    assert not failed
