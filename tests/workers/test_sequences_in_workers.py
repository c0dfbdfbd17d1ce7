"""Sequences through real workers: a handler that keeps a sum for each."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.archives.archive import open_archive
from headrace.errors import SequenceLost, SequenceRefused, WorkerDied
from headrace.model.pending import Pending
from headrace.model.sequences import SequenceOptions
from headrace.workers import sequenced
from headrace.workers.options import WorkerOptions
from headrace.workers.sequenced import Sequencing
from headrace.workers.served_handler import HandlerArchive
from headrace.workers.start import start_workers

PATIENCE = 60.0
ID, START, END = "ts_request_sequence_id", "ts_request_sequence_start", "ts_request_sequence_end"
SUMS = """
import json, os, time

class Sums:
    def initialize(self, context):
        self.context = context

    def handle(self, data, context):
        answers = []
        for index, row in enumerate(data):
            body = bytes(row["body"]).decode()
            gate = context.get_request_header(index, "gate")
            if gate:
                with open(gate + "-reached", "w"):
                    pass
                while not os.path.exists(gate):
                    time.sleep(0.005)
            if body == "die":
                os._exit(3)
            if body == "fail":
                raise ValueError("it failed")
            sequence = context.get_sequence_id(index)
            total = context.cache.get(sequence, 0) + int(body)
            context.cache[sequence] = total
            answers.append(json.dumps([total, os.getpid(), len(data)]))
            if context.get_request_header(index, context.header_key_sequence_end) == "true":
                del context.cache[sequence]
        return answers
"""
Make = Callable[..., hr.Model]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    (tmp_path / "MAR-INF").mkdir()
    about = {"modelName": "sums", "modelVersion": "1", "handler": "sums.py"}
    (tmp_path / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": about}))
    (tmp_path / "sums.py").write_text(SUMS)
    models: list[hr.Model] = []
    with hr.Engine() as engine:

        def make(workers: int = 2, batch: int = 1, **options: Any) -> hr.Model:
            sequences = Sequencing(SequenceOptions(**{"max_queue": 50, **options}))
            archive = HandlerArchive(open_archive(tmp_path), batch_size=batch, sequences=sequences)
            # As `serving.handlers` has it.
            how = WorkerOptions(idempotent=False, cancel_grace=120.0)
            models.append(start_workers(archive, how, workers, engine=engine, max_batch_size=batch))
            return models[-1]

        yield make
        for model in models:
            model.close()


def submit(model: hr.Model, sequence: str, body: object, *headers: tuple[str, str], start: bool = False) -> Any:
    said = [("TS_Request_Sequence_Id", sequence), *headers]
    if start:
        said.append((START, "true"))
    return model.submit(("id", tuple(said), str(body).encode()))


def answer(future: Any) -> Any:
    return json.loads(future.result(PATIENCE))


def wait_for(so: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not so():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.002)


class GateFile:
    """The handler says that it is there, and waits."""

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self._path = folder / name
        self.header = ("gate", str(self._path))

    def reached(self) -> bool:
        return Path(f"{self._path}-reached").exists()

    def open(self) -> None:
        self._path.touch()


def begun_on_each(model: hr.Model) -> dict[int, str]:
    """A sequence on each of two workers, by their processes."""
    found: dict[int, str] = {}
    for name in ("a", "b"):
        _, pid, _ = answer(submit(model, name, 1, start=True))
        found[pid] = name
    return found


def test_each_sequence_has_one_worker_and_its_requests_their_order(make: Make) -> None:
    model = make(workers=2, batch=4)
    futures = {name: [submit(model, name, 1, start=True)] for name in "abcdef"}
    for value in range(2, 30):
        for name, mine in futures.items():
            mine.append(submit(model, name, value))
    for mine in futures.values():
        answers = [answer(future) for future in mine]
        assert [total for total, *_ in answers] == [sum(range(n + 1)) for n in range(1, 30)]
        assert len({pid for _, pid, _ in answers}) == 1
    assert model.statistics().completed == 6 * 29


def test_sequences_are_spread_though_one_worker_could_do_all(make: Make) -> None:
    assert len(begun_on_each(make(workers=2))) == 2


def test_a_batch_joins_one_request_of_each(make: Make, tmp_path: Path) -> None:
    model, gate = make(workers=1, batch=8), GateFile(tmp_path)
    first = submit(model, "x", 1, gate.header, start=True)
    wait_for(gate.reached)
    behind = [submit(model, name, 1, start=True) for name in "abc"] + [submit(model, "a", 5), submit(model, "x", 2)]
    gate.open()
    assert answer(first)[0] == 1
    assert [answer(future)[::2] for future in behind] == [[1, 4], [1, 4], [1, 4], [6, 1], [3, 4]]


def test_a_batch_that_fails_is_not_done_again(make: Make, tmp_path: Path) -> None:
    model, gate = make(workers=1, batch=8), GateFile(tmp_path)
    answer(submit(model, "a", 1, start=True))
    held = submit(model, "x", 1, gate.header, start=True)
    wait_for(gate.reached)
    good, bad = submit(model, "a", 10), submit(model, "b", "fail", start=True)
    gate.open()
    answer(held)
    assert isinstance(bad.exception(PATIENCE), hr.BackendError)
    assert isinstance(good.exception(PATIENCE), hr.BackendError)  # whoever sent it says what is to become of it
    assert answer(submit(model, "a", 0))[0] == 11  # once


def test_a_request_that_is_cancelled_leaves_the_others_their_order(make: Make, tmp_path: Path) -> None:
    model, gate = make(workers=2), GateFile(tmp_path)
    first = submit(model, "a", 1, gate.header, start=True)
    wait_for(gate.reached)
    second, third, fourth = (submit(model, "a", value) for value in (10, 100, 1000))
    second.cancel()
    first.cancel()  # it runs: it is finished all the same, as its sequence needs it
    gate.open()
    assert (answer(third)[0], answer(fourth)[0]) == (101, 1101)


def test_a_death_ends_its_sequences_and_no_others(make: Make, tmp_path: Path) -> None:
    model, gate = make(workers=2), GateFile(tmp_path)
    of = begun_on_each(model)
    doomed, safe = of[min(of)], of[max(of)]
    held = submit(model, doomed, 1, gate.header)
    wait_for(gate.reached)
    waiting, anew = submit(model, doomed, 1), submit(model, doomed, 7, start=True)
    os.kill(min(of), signal.SIGKILL)
    assert isinstance(held.exception(PATIENCE), WorkerDied)
    assert isinstance(waiting.exception(PATIENCE), SequenceLost)
    assert answer(anew)[0] == 7
    assert answer(submit(model, safe, 1))[:2] == [2, max(of)]


def test_after_a_death_the_next_request_is_told_and_a_new_start_goes_on(make: Make) -> None:
    model = make(workers=2)
    of = begun_on_each(model)
    name, other = of[min(of)], max(of)
    assert isinstance(submit(model, name, "die").exception(PATIENCE), WorkerDied)
    with pytest.raises(SequenceLost, match="begin it anew"):
        submit(model, name, 1)
    assert answer(submit(model, name, 5, start=True))[0] == 5
    assert answer(submit(model, of[other], 1))[:2] == [2, other]


def test_refused_requests_are_refused_at_once_and_cost_no_room(make: Make) -> None:
    model = make(workers=1, max_queue=1)
    assert model.engine is not None
    for _ in range(20):
        with pytest.raises(SequenceRefused, match="no worker to serve inference request"):
            submit(model, "never", 1)
    assert model.engine.budget.inside == 0
    assert answer(submit(model, "a", 1, start=True))[0] == 1


def test_one_that_names_no_sequence_is_one_by_itself(make: Make) -> None:
    model = make(workers=1)
    for _ in range(3):
        assert answer(model.submit(("id", (), b"1")))
    assert len(model.batcher.sequences) == 0  # type: ignore[attr-defined]


def test_one_that_is_refused_costs_those_that_came_with_it_nothing(make: Make) -> None:
    model = make(workers=1)
    sent = [Pending(model, (("id", ((ID, name), (START, "true")), b"1"),), model.guard) for name in "ab"]
    sent.insert(1, Pending(model, (("id", ((ID, "never"),), b"1"),), model.guard))
    model.send_all(sent)
    assert [type(each.exception(PATIENCE)) for each in sent] == [type(None), SequenceRefused, type(None)]


def test_a_worker_that_goes_keeps_its_sequences_until_they_end(make: Make, tmp_path: Path) -> None:
    model, gate = make(workers=2), GateFile(tmp_path)
    of = begun_on_each(model)
    leaving = model.workers[1].pid
    name = of[leaving]
    scaled = threading.Thread(target=model.scale, args=(1,))
    scaled.start()
    wait_for(lambda: model.batcher.sequences.is_draining(1))  # type: ignore[attr-defined]
    held = submit(model, "c", 1, gate.header, start=True)
    wait_for(gate.reached)
    new = submit(model, "d", 1, start=True)  # the one that stays is busy
    assert answer(submit(model, name, 1))[:2] == [2, leaving]
    gate.open()
    assert leaving not in (answer(held)[1], answer(new)[1])
    assert answer(submit(model, name, 1, (END, "true")))[:2] == [3, leaving]
    scaled.join(PATIENCE)
    assert not scaled.is_alive()
    assert len(model.workers) == 1
    with pytest.raises(SequenceRefused):
        submit(model, name, 1)


def test_a_worker_that_goes_does_not_wait_for_ever(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequenced, "DRAIN", 0.0)
    model = make(workers=2)
    of = begun_on_each(model)
    name = of[model.workers[1].pid]
    model.scale(1)
    with pytest.raises(SequenceLost):
        submit(model, name, 1)


def test_more_workers_take_new_sequences_and_leave_the_others(make: Make) -> None:
    model = make(workers=1)
    _, pid, _ = answer(submit(model, "a", 1, start=True))
    model.scale(2)
    assert answer(submit(model, "a", 1))[:2] == [2, pid]
    assert answer(submit(model, "b", 1, start=True))[1] != pid


def test_what_has_been_accepted_is_answered_before_it_closes(make: Make) -> None:
    model = make(workers=2)
    futures = [submit(model, "a", 1, start=True)] + [submit(model, "a", 1) for _ in range(20)]
    model.close()
    assert [answer(future)[0] for future in futures] == list(range(1, 22))


def test_many_threads_each_with_a_sequence_of_its_own(make: Make) -> None:
    model = make(workers=2, batch=4)
    wrong: list[object] = []

    def client(name: str) -> None:
        for round in range(3):
            for value in range(1, 15):
                last = ((END, "true"),) if value == 14 else ()
                total = answer(submit(model, name, value, *last, start=value == 1))[0]
                if total != sum(range(value + 1)):
                    wrong.append((name, round, value, total))

    threads = [threading.Thread(target=client, args=(f"s{n}",)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not wrong
    assert model.statistics().completed == 12 * 3 * 14
