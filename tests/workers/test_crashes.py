"""Whatever becomes of a worker costs at most the requests it had begun, and those hear of it."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from worker_watching import is_alive, reached, wait_for

import headrace as hr

Compile = Callable[..., hr.Model]


def test_a_request_that_had_begun_is_run_once_more_and_its_neighbours_lose_nothing(
    compiled: Compile, tmp_path: Path
) -> None:
    model = compiled("dies_once")
    futures = [model.submit(str(tmp_path)) for _ in range(5)]
    assert [future.result(60) for future in futures] == ["alive"] * 5
    assert model.statistics().completed == 5


@pytest.mark.parametrize("idempotent", [True, False])
def test_what_was_sent_ahead_of_the_guilty_one_or_lies_behind_it_is_answered(
    compiled: Compile, idempotent: bool
) -> None:
    model = compiled("dies_if", idempotent=idempotent)
    list(model.map(range(2000), window=300))  # it is known that runs are short: many are sent ahead
    values = [*range(40), "die", *range(40, 80)]
    futures = [model.submit(value) for value in values]
    for value, future in zip(values, futures):
        if value == "die":
            with pytest.raises(hr.WorkerDied):
                future.result(60)
        else:
            assert future.result(60) == value


@pytest.mark.parametrize(("name", "how"), [("dies", "SIGKILL"), ("exits", "exit status 3"), ("segfaults", "SIGSEGV")])
def test_one_that_kills_its_second_worker_too_hears_how(compiled: Compile, name: str, how: str) -> None:
    model = compiled(name)
    with pytest.raises(hr.WorkerDied, match=how) as caught:
        model(0)
    assert caught.value.model == name


def test_what_must_not_be_run_twice_is_not(compiled: Compile, tmp_path: Path) -> None:
    model = compiled("dies_once", idempotent=False)
    with pytest.raises(hr.WorkerDied):
        model(str(tmp_path))
    assert model(str(tmp_path)) == "alive"


def test_of_a_batch_that_died_only_the_guilty_one_fails(compiled: Compile) -> None:
    model = compiled("dies_batch", max_batch_size=4, max_batch_delay=1.0)
    names = ["a", "die", "c", "d"]
    futures = [model.submit(name) for name in names]
    for name, future in zip(names, futures):
        if name == "die":
            with pytest.raises(hr.WorkerDied):
                future.result(60)
        else:
            assert future.result(60) == name


def test_a_killed_worker_is_replaced_and_requests_wait_for_the_new_one(compiled: Compile, tmp_path: Path) -> None:
    model = compiled("gate")
    first = model.submit(str(tmp_path))
    (pid,) = reached(tmp_path)
    waiting = [model.submit(str(tmp_path)) for _ in range(3)]
    os.kill(pid, signal.SIGKILL)
    reached(tmp_path, 2)
    (tmp_path / "open").touch()
    answers = [future.result(60) for future in (first, *waiting)]
    assert pid not in answers
    assert not is_alive(pid)


def test_a_stopped_worker_is_found_and_replaced(compiled: Compile, tmp_path: Path) -> None:
    model = compiled("gate", idempotent=False)
    future = model.submit(str(tmp_path))
    (pid,) = reached(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(hr.WorkerDied, match="SIGSTOP"):
        future.result(60)
    assert not is_alive(pid)


def test_a_stopped_worker_does_not_hang_it_was_stopped(
    compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.workers.watch.STOPPED", 1000.0)  # it is overdue before that
    model = compiled("gate", idempotent=False, response_timeout=0.1)
    future = model.submit(str(tmp_path))
    (pid,) = reached(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(hr.WorkerDied, match="SIGSTOP"):
        future.result(20)


def test_one_that_is_stopped_with_nothing_to_do_is_found_too(
    compiled: Compile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("headrace.workers.watch.IDLE", 0.05)
    model = compiled("pid")
    pid = model(0)
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: not is_alive(pid))
    assert model(0) != pid
    assert any("was stopped by a signal" in record.getMessage() for record in caplog.records)


def test_nobody_is_stuck_behind_a_run_that_turns_out_long(compiled: Compile, tmp_path: Path) -> None:
    model = compiled("gate_if", workers=2)
    list(model.map(range(2000), window=300))  # it is known that runs are short: many are sent ahead
    long = model.submit(str(tmp_path))
    others = [model.submit(i) for i in range(300)]
    assert [other.result(60) for other in others] == list(range(300))
    reached(tmp_path)
    assert not long.can_read()
    (tmp_path / "open").touch()
    assert long.result(60) == str(tmp_path)
    assert list(model.map(range(500), window=300)) == list(range(500))
    assert [status.starts for status in model.crew.statuses()] == [1, 1]  # type: ignore[union-attr]
    assert model.statistics().completed == 2801


def test_a_hang_is_ended_and_its_stack_is_told(
    compiled: Compile, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.workers.worker.END", 1000.0)  # it is killed, not waited for
    model = compiled("hangs", response_timeout=0.3)
    with pytest.raises(hr.ResponseTimeout, match=r"within 0.3 s") as caught:
        model(0)
    assert "in hangs" in caught.value.stack
    assert any("in hangs" in record.getMessage() for record in caplog.records)
    assert model.statistics().failed == 1


def test_a_cancelled_run_may_look_and_leave(compiled: Compile, tmp_path: Path) -> None:
    model = compiled("heeds")
    future = model.submit(str(tmp_path))
    wait_for((tmp_path / "reached").exists)
    assert future.cancel()
    wait_for((tmp_path / "heeded").exists)
    assert [status.starts for status in model.crew.statuses()] == [1]  # type: ignore[union-attr]


def test_one_that_does_not_leave_is_ended(compiled: Compile, tmp_path: Path) -> None:
    model = compiled("gate", cancel_grace=0.1)
    future = model.submit(str(tmp_path))
    (pid,) = reached(tmp_path)
    assert future.cancel()
    wait_for(lambda: not is_alive(pid))
    (tmp_path / "open").touch()
    assert model(str(tmp_path)) != pid


def test_closing_without_draining_ends_what_hangs(compiled: Compile, tmp_path: Path) -> None:
    model = compiled("gate", cancel_grace=0.1)
    future, waits = model.submit(str(tmp_path)), model.submit(str(tmp_path))
    (pid,) = reached(tmp_path)
    model.close(drain=False)
    assert not is_alive(pid)
    for each in (future, waits):
        with pytest.raises(hr.Closed):
            each.result(0)


def test_closing_without_draining_tells_what_runs_to_end(compiled: Compile, tmp_path: Path) -> None:
    model = compiled("heeds", cancel_grace=1000.0)
    model.submit(str(tmp_path))
    wait_for((tmp_path / "reached").exists)
    model.close(drain=False)
    assert (tmp_path / "heeded").exists()


def test_what_a_worker_writes_to_its_owner_cannot_hurt_it(compiled: Compile) -> None:
    model = compiled("writes_rubbish", idempotent=False)
    with pytest.raises(hr.WorkerDied, match="no answer"):
        model(0)


def test_a_model_that_cannot_be_kept_alive_says_so_and_refuses(
    compiled: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.workers.supervision.TOO_OFTEN", 2)
    model = compiled("dies_if", idempotent=False)
    assert model("a") == "a"
    told = []
    model.crew.on_change = lambda: told.append(model.crew.is_broken)  # type: ignore[union-attr]
    for _ in range(2):
        with pytest.raises(hr.WorkerDied):
            model("die")
    wait_for(lambda: model.crew.is_broken)  # type: ignore[union-attr]
    with pytest.raises(hr.ModelNotReady, match="is FAILED, not READY"):
        model("a")
    assert True in told
    with pytest.raises(hr.ModelNotReady, match="model dies_if is FAILED") as caught:
        model("a")
    assert 5 < caught.value.retry_after <= 15  # type: ignore[operator]


def test_the_circuit_closes_again(compiled: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.workers.supervision.TOO_OFTEN", 1)
    monkeypatch.setattr("headrace.workers.supervision.RETRY", 0.2)
    model = compiled("dies_if", idempotent=False)
    with pytest.raises(hr.WorkerDied):
        model("die")

    def answers() -> bool:
        try:
            return bool(model("a") == "a")
        except hr.ModelNotReady:
            return False

    wait_for(answers)
    assert not model.crew.is_broken  # type: ignore[union-attr]
    with pytest.raises(hr.WorkerDied):
        model("die")
    wait_for(lambda: model.crew.is_broken)  # type: ignore[union-attr]
    wait_for(answers)


def test_the_circuit_stays_open_while_its_worker_cannot_load(
    compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.workers.supervision.TOO_OFTEN", 2)
    monkeypatch.setattr("headrace.workers.supervision.RETRY", 0.05)
    monkeypatch.syspath_prepend(str(tmp_path))
    mark = tmp_path / "broken"
    (tmp_path / "loads_not.py").write_text(
        f"import os\nif os.path.exists({str(mark)!r}): raise RuntimeError('it is broken')\n"
        "def pid(_): return os.getpid()\n"
    )
    model = compiled(None, source="loads_not:pid")
    pid = model(0)
    mark.touch()
    os.kill(pid, signal.SIGKILL)
    crew = model.crew
    assert crew is not None
    wait_for(lambda: crew.statuses()[0].starts >= 6)
    assert crew.is_broken
    assert "it is broken" in str(crew.reason)
    with pytest.raises(hr.ModelNotReady, match="it is broken"):
        model(0)
    mark.unlink()
    wait_for(lambda: not crew.is_broken)
    assert model(0) != pid


def test_a_restart_with_what_cannot_be_loaded_leaves_the_old_one_at_work(
    compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    mark = tmp_path / "broken"
    (tmp_path / "loads_no_more.py").write_text(
        f"import os\nif os.path.exists({str(mark)!r}): raise RuntimeError('it is broken')\n"
        "def pid(_): return os.getpid()\n"
    )
    model = compiled(None, source="loads_no_more:pid")
    pid = model(0)
    mark.touch()
    model.restart()
    wait_for(lambda: model.workers[0].reason)
    assert "it is broken" in str(model.workers[0].reason)
    assert any("was not replaced" in record.getMessage() for record in caplog.records)
    assert model(0) == pid
    mark.unlink()
    model.restart()
    wait_for(lambda: model.workers[0].pid != pid)
    wait_for(lambda: model(0) != pid)
    assert model.workers[0].reason is None


def test_requests_are_answered_while_workers_are_killed_again_and_again(compiled: Compile) -> None:
    model = compiled("pid", workers=2)
    over = threading.Event()

    def kill() -> None:
        for _ in range(6):
            pids = [status.pid for status in model.crew.statuses() if status.pid]  # type: ignore[union-attr]
            if pids:
                os.kill(pids[0], signal.SIGKILL)
            over.wait(0.15)
        over.set()

    killer = threading.Thread(target=kill)
    killer.start()
    count = 0
    while not over.is_set():
        assert all(isinstance(each, int) for each in model.map(range(200)))
        count += 200
    killer.join()
    assert model.statistics().completed == count


def test_what_a_worker_has_started_ends_with_it(compiled: Compile) -> None:
    model = compiled("starts_another")
    other = model(0)
    assert is_alive(other)
    model.close()
    wait_for(lambda: not is_alive(other))


def test_no_worker_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import pathlib, sys, time
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            import headrace as hr
            model = hr.compile_model("worker_handlers:gate", isolation="process", workers=2)
            for _ in range(2):
                model.submit({str(tmp_path)!r})
            while len(list(pathlib.Path({str(tmp_path)!r}).glob("reached-*"))) < 2:
                time.sleep(0.01)
            print(*[status.pid for status in model.crew.statuses()], flush=True)
            time.sleep(1000)
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(hr.__file__).parent.parent)}
    with subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_alive, pids))
        owner.kill()
        owner.wait()
    wait_for(lambda: not any(map(is_alive, pids)))


MEMORY = "/memfd:headrace-worker (deleted)"


def open_files() -> list[str]:
    return sorted(
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    )


def test_nothing_is_left_of_many_restarts(compiled: Compile) -> None:
    others = open_files()
    model = compiled("pid")
    model(0)
    before, threads = len(open_files()), threading.active_count()
    for _ in range(12):
        pid = model(0)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_alive(pid))  # noqa: B023
    wait_for(lambda: model(0) and len(open_files()) == before)
    assert threading.active_count() == threads
    model.close()
    assert open_files().count(MEMORY) <= others.count(MEMORY)


# ---- when it dies: at load, while it starts again, mid-drain, while the pool becomes larger or smaller


def test_one_that_dies_while_it_loads_is_told_to_whoever_compiles_it(engine: hr.Engine, tmp_path: Path) -> None:
    (tmp_path / "dies_at_load.py").write_text("import os\nos._exit(4)\n")
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(hr.InvalidModel, match="exit status 4"):
            hr.compile_model("dies_at_load:f", isolation="process", engine=engine)
    finally:
        sys.path.remove(str(tmp_path))
    assert engine.statistics().ports == 0


def test_who_compiles_hears_that_the_engine_was_closed_meanwhile(engine: hr.Engine) -> None:
    raised: list[BaseException] = []

    def compile_it() -> None:
        try:
            hr.compile_model("hangs_at_import:echo", isolation="process", engine=engine)
        except hr.Closed as error:
            raised.append(error)

    compiling = threading.Thread(target=compile_it, daemon=True)
    compiling.start()
    wait_for(lambda: any("worker" in thread.name for thread in threading.enumerate()))
    engine.close()
    wait_for(lambda: raised)
    compiling.join()


def test_one_that_dies_while_it_starts_again_is_started_once_more(compiled: Compile, tmp_path: Path) -> None:
    mark = tmp_path / "broken"
    (tmp_path / "loads_or_not.py").write_text(
        f"import os\nif os.path.exists({str(mark)!r}):\n    os.remove({str(mark)!r})\n    os._exit(5)\n"
        "def pid(_):\n    return os.getpid()\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        model = compiled(None, source="loads_or_not:pid")
        first = model(0)
        mark.touch()
        os.kill(first, signal.SIGKILL)
        assert model(0) != first
    finally:
        sys.path.remove(str(tmp_path))
    assert not mark.exists()
    assert [status.starts for status in model.crew.statuses()] == [3]  # type: ignore[union-attr]


def test_one_that_dies_while_its_model_drains_is_replaced_and_everything_is_answered(
    compiled: Compile, tmp_path: Path
) -> None:
    model = compiled("gate")
    futures = [model.submit(str(tmp_path)) for _ in range(4)]
    (pid,) = reached(tmp_path)
    closing = threading.Thread(target=model.close)
    closing.start()
    wait_for(lambda: model.closed)
    os.kill(pid, signal.SIGKILL)
    reached(tmp_path, 2)
    (tmp_path / "open").touch()
    assert all(future.result(60) != pid for future in futures)
    closing.join(60)
    assert not closing.is_alive()


def test_one_that_dies_while_it_is_to_leave_costs_nobody_an_answer(compiled: Compile, tmp_path: Path) -> None:
    model = compiled("gate", workers=2)
    futures = [model.submit(str(tmp_path)) for _ in range(2)]
    pids = reached(tmp_path, 2)
    scaling = threading.Thread(target=model.scale, args=(1,), kwargs={"replan": False})
    scaling.start()
    wait_for(lambda: len(model.crew.statuses()) == 1)  # type: ignore[union-attr]
    (leaving,) = set(pids) - {model.workers[0].pid}
    os.kill(leaving, signal.SIGKILL)
    scaling.join(60)
    assert not scaling.is_alive()
    (tmp_path / "open").touch()
    assert leaving not in [future.result(60) for future in futures]


def test_one_that_dies_while_the_pool_grows_costs_nobody_an_answer(compiled: Compile) -> None:
    model = compiled("pid")
    first = model(0)
    growing = threading.Thread(target=model.scale, args=(3,))
    growing.start()
    wait_for(lambda: len(model.crew.statuses()) == 3)  # type: ignore[union-attr]
    os.kill(first, signal.SIGKILL)
    assert all(isinstance(each, int) for each in model.map(range(100)))
    growing.join(60)
    assert not growing.is_alive()
    wait_for(lambda: model.crew.ready == 3)  # type: ignore[union-attr]
