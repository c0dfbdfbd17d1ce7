"""Floods, giants and misers: much output, large values, little memory. Another model does not notice."""

import re
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from worker_watching import descriptors, reached, wait_for

import headrace as hr

Compile = Callable[..., hr.Model]


def resident() -> int:
    """Bytes of this process that are its own."""
    text = Path("/proc/self/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", text)
    assert found
    return int(found[1]) << 10


def test_a_flood_of_output_is_counted_and_costs_no_memory(compiled: Compile, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="headrace.workers")
    model = compiled("floods")
    model(1)
    before = resident()
    assert model(512) == 512  # to stdout and to stderr: a gigabyte
    model.close()
    assert resident() - before < 32 << 20
    said = [record.getMessage() for record in caplog.records]
    assert len(said) < 5_000
    assert max(map(len, said)) < 10_000
    lost = sum(int(found[1].replace(",", "")) for each in said if (found := re.search(r"([\d,]+) lines of", each)))
    lines = sum(each.endswith("x" * 50) for each in said)
    assert abs(lost + lines - 2 * 384 * 20_560) < 10_000  # about: the last ones may be cut off at its end


def test_while_one_model_floods_another_answers(compiled: Compile, tmp_path: Path) -> None:
    flooding, other = compiled("floods_until"), compiled("double")
    future = flooding.submit(str(tmp_path))
    reached(tmp_path)
    assert list(other.map(range(2000), window=20)) == [2 * i for i in range(2000)]
    assert not future.can_read()
    (tmp_path / "open").touch()
    assert future.result(60) == "over"


def test_a_limit_of_memory_is_the_workers_own_and_it_goes_on(compiled: Compile) -> None:
    limit = 400_000_000
    model = compiled("eats", memory_limit=limit)
    pids = [status.pid for status in model.crew.statuses()]  # type: ignore[union-attr]
    for _ in range(2):
        with pytest.raises(hr.BackendError, match="memory_limit"):
            model(0)
    assert [status.pid for status in model.crew.statuses()] == pids  # type: ignore[union-attr]
    soft, hard = compiled("address_space", memory_limit=limit)(0)
    assert soft == hard >= limit


@pytest.mark.parametrize("answers", ["none", "fewer", "more", "a tuple", "no list"])
def test_a_batch_with_the_wrong_number_of_answers_says_so(compiled: Compile, answers: str) -> None:
    model = compiled("miscounts", max_batch_size=4)
    if answers == "a tuple":
        assert model(answers) == answers
        return
    says = "returned a dict" if answers == "no list" else r"a batch of 1 requests came back as \d answers"
    with pytest.raises(hr.BackendError, match=says):
        model(answers)
    assert model("a tuple") == "a tuple"
    assert [status.starts for status in model.crew.statuses()] == [1]  # type: ignore[union-attr]


def test_large_values_fit_up_to_the_arena_and_what_does_not_is_named(compiled: Compile) -> None:
    ones, last = compiled("ones"), compiled("last_bytes")
    most = 255 << 20
    answer = ones(most)
    assert answer.nbytes == most
    assert answer.all()
    del answer
    with pytest.raises(hr.BackendError, match=r"an answer of [\d,]+ bytes does not fit: [\d,]+ bytes are the most"):
        ones(256 << 20)
    assert ones(3).tolist() == [1, 1, 1]
    large = np.zeros(most, np.uint8)
    large[-3:] = 1, 2, 3
    assert last(large).tolist() == [1, 2, 3]
    with pytest.raises(hr.BackendError, match=r"a request of [\d,]+ bytes does not fit"):
        last(np.zeros(256 << 20, np.uint8))
    assert last(large).tolist() == [1, 2, 3]  # its memory was given back
    for model in (ones, last):
        assert [status.starts for status in model.crew.statuses()] == [1]  # type: ignore[union-attr]


def test_large_requests_that_come_together_wait_for_each_other(compiled: Compile) -> None:
    model = compiled("echo")
    list(model.map(range(2000), window=300))  # it is known that runs are short: many are sent ahead
    arrays = [np.full(40 << 20, i, np.uint8) for i in range(8)]
    futures = [model.submit(array) for array in arrays]
    futures[4].cancel()
    for i, future in enumerate(futures):
        if i != 4:
            answer = future.result(20)
            assert (answer[0], answer[-1], answer.nbytes) == (i, i, 40 << 20)
    assert list(model.map(range(500), window=300)) == list(range(500))


def test_nothing_is_left_of_restarts_that_were_asked_for(compiled: Compile) -> None:
    model = compiled("pid", workers=2)
    assert list(model.map(range(10)))
    before, pids = (descriptors(), threading.active_count()), {each.pid for each in model.crew.statuses()}  # type: ignore[union-attr]
    for _ in range(4):
        model.restart()
        wait_for(lambda: not pids & {each.pid for each in model.crew.statuses()})  # type: ignore[union-attr]  # noqa: B023
        wait_for(lambda: model.crew.ready == 2)  # type: ignore[union-attr]
        assert list(model.map(range(10)))
        wait_for(lambda: (descriptors(), threading.active_count()) == before)
        pids = {each.pid for each in model.crew.statuses()}  # type: ignore[union-attr]
