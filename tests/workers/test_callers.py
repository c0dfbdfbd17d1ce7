"""A caller that waits for its own answer hears it itself; whatever becomes of the caller, nobody else waits for it."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from worker_watching import descriptors, reached

import headrace as hr
from headrace.workers.caller import Caller

Compile = Callable[..., hr.Model]


@pytest.fixture
def hears(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a caller listens itself."""
    listens = threading.Event()
    listen = Caller.listen

    def watched(self: Caller, fd: int, seconds: float | None) -> None:
        listens.set()
        listen(self, fd, seconds)

    monkeypatch.setattr(Caller, "listen", watched)
    return listens


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_a_lone_caller_hears_what_its_worker_answers(compiled: Compile, heard_by: list[int]) -> None:
    model = compiled("double")

    def calls() -> None:
        heard_by.clear()
        assert [model(i) for i in range(100)] == [2 * i for i in range(100)]
        assert [model.submit(i).result() for i in range(100)] == [2 * i for i in range(100)]
        assert heard_by.count(threading.get_ident()) > 100

    calls()
    in_a_thread(calls)


def test_who_does_not_wait_is_told_by_others(compiled: Compile, heard_by: list[int]) -> None:
    model = compiled("double")
    for i in range(50):
        assert model(i) == 2 * i
        told = threading.Event()
        heard_by.clear()
        model.submit(i).add_done_callback(lambda _, told=told: told.set())  # type: ignore[misc]
        assert told.wait(60)
        assert threading.get_ident() not in heard_by


def test_one_that_said_it_would_wait_and_does_not_holds_nobody_up(compiled: Compile) -> None:
    model = compiled("double")
    assert model(1) == 2
    for _ in range(3):
        call = model._read(1, None, 0)
        call.heard_by = threading.get_ident()
        told = threading.Event()
        call.add_done_callback(lambda _, told=told: told.set())  # type: ignore[misc]
        model._enter_or_wait(call, None)
        assert told.wait(60)
    assert model(2) == 4


def test_a_caller_whose_time_is_up_leaves_and_the_run_goes_on(
    compiled: Compile, hears: threading.Event, tmp_path: Path
) -> None:
    model = compiled("gate")
    future = model.submit(str(tmp_path))
    (pid,) = reached(tmp_path)
    with pytest.raises(TimeoutError):
        future.result(0.05)
    assert hears.is_set()
    told = threading.Event()
    future.add_done_callback(lambda _: told.set())
    (tmp_path / "open").touch()
    assert told.wait(60)
    assert future.result() == pid


def test_a_caller_hears_that_its_run_was_cancelled(compiled: Compile, hears: threading.Event, tmp_path: Path) -> None:
    model = compiled("gate", cancel_grace=60.0)
    future = model.submit(str(tmp_path))

    def cancels() -> None:
        assert hears.wait(60)
        assert future.cancel()

    other = threading.Thread(target=cancels)
    other.start()
    with pytest.raises(hr.Cancelled):
        future.result(60)
    other.join(60)
    (tmp_path / "open").touch()
    assert isinstance(model(str(tmp_path)), int)


def test_ctrl_c_ends_the_wait_and_nothing_else(compiled: Compile, hears: threading.Event, tmp_path: Path) -> None:
    model = compiled("gate")
    future = model.submit(str(tmp_path))

    def interrupts() -> None:
        assert hears.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    other = threading.Thread(target=interrupts)
    other.start()
    with pytest.raises(KeyboardInterrupt):
        future.result(60)
    other.join(60)
    assert not future.can_read()
    told = threading.Event()
    future.add_done_callback(lambda _: told.set())
    (tmp_path / "open").touch()
    assert told.wait(60)
    assert model(str(tmp_path)) == future.result()


def test_a_worker_that_dies_while_its_caller_listens_is_replaced(compiled: Compile) -> None:
    model = compiled("dies_if", idempotent=False)
    for _ in range(3):
        assert [model(i) for i in range(20)] == list(range(20))
        with pytest.raises(hr.WorkerDied):
            model("die")


def test_what_had_begun_is_run_once_more_while_its_caller_waits(compiled: Compile, tmp_path: Path) -> None:
    assert compiled("dies_once")(str(tmp_path)) == "alive"


def test_rubbish_that_a_caller_hears_is_the_end_of_its_process(compiled: Compile) -> None:
    model = compiled("rubbish_if", idempotent=False)
    assert [model(i) for i in range(20)] == list(range(20))
    with pytest.raises(hr.WorkerDied, match="no answer"):
        model("rubbish")
    assert model(1) == 1


def test_a_hang_is_found_while_its_caller_listens(compiled: Compile, hears: threading.Event) -> None:
    model = compiled("hangs", response_timeout=0.3)
    future = model.submit(0)
    with pytest.raises(hr.ResponseTimeout):
        future.result()
    assert hears.is_set()


def test_callers_in_several_threads_take_turns(compiled: Compile, heard_by: list[int]) -> None:
    model = compiled("double", workers=2)
    right: list[bool] = []

    def calls() -> None:
        right.append(all(model(i) == 2 * i for i in range(300)))

    def pairs() -> None:
        for i in range(150):
            first, second = model.submit(i), model.submit(i + 1)
            right.append((second.result(), first.result()) == (2 * i + 2, 2 * i))

    threads = [threading.Thread(target=target) for target in (calls, pairs, calls, pairs)]
    for thread in threads:
        thread.start()
    calls()
    for thread in threads:
        thread.join(60)
    assert right == [True] * 303


def test_nothing_is_left_of_threads_that_have_ended(compiled: Compile) -> None:
    model = compiled("double")
    model(1)
    before = descriptors()
    for _ in range(5):
        in_a_thread(lambda: [model(i) for i in range(10)])
    assert descriptors() == before
