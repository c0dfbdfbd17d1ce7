"""Requests joined into one run, end to end. A gate holds the only core, so that what is to be joined has gathered."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

import headrace as hr
from headrace.engine.topology import made_up
from headrace.testing import Gate

PATIENCE = 30.0


@contextlib.contextmanager
def held(engine: hr.Engine) -> Iterator[None]:
    """The engine's only core is taken until the end of the block."""
    gate = Gate()
    with hr.compile_model(lambda: gate(), engine=engine, name="holder") as holder:
        future = holder.submit([])
        gate.wait()
        yield
        gate.open()
        future.result(PATIENCE)


def test_what_waits_is_one_run_and_everyone_gets_their_own(engine: hr.Engine, sum_and_difference: bytes) -> None:
    with hr.compile_model(sum_and_difference, engine=engine, max_batch_size=8) as model:
        with held(engine):
            futures = []
            for n in (1, 2, 3, 1):
                array = np.full((n, 3), n, np.float32)
                futures.append(model.submit([array, np.ones_like(array)]))
        for n, future in zip((1, 2, 3, 1), futures):
            total, difference = future.result(PATIENCE)
            np.testing.assert_array_equal(total, np.full((n, 3), n + 1, np.float32), strict=True)
            np.testing.assert_array_equal(difference, np.full((n, 3), n - 1, np.float32), strict=True)
        seen = model.statistics()
    assert (seen.runs, seen.rows, seen.completed) == (1, 7, 4)


def test_requests_in_different_forms_share_a_run(engine: hr.Engine, sum_and_difference: bytes) -> None:
    a = np.ones((1, 3), np.float32)
    with hr.compile_model(sum_and_difference, engine=engine, max_batch_size=8) as model:
        with held(engine):
            as_list, as_dict = model.submit([a, a]), model.submit({"b": a, "a": a})
        assert [type(answer) for answer in (as_list.result(PATIENCE), as_dict.result(PATIENCE))] == [list, dict]
        assert model.statistics().runs == 1


def test_a_batch_has_no_more_rows_than_asked_for(engine: hr.Engine, sum_and_difference: bytes) -> None:
    rows = (2, 3, 2, 9, 1)
    with hr.compile_model(sum_and_difference, engine=engine, max_batch_size=4) as model:
        with held(engine):
            futures = [model.submit([np.full((n, 3), n, np.float32)] * 2) for n in rows]
        for n, future in zip(rows, futures):
            assert future.result(PATIENCE)[0].tolist() == [[2 * n] * 3] * n
        seen = model.statistics()
    assert (seen.runs, seen.rows) == (3, 17)  # 2 + 2, 3 + 1, and 9 alone


def test_one_bad_request_in_a_batch_fails_alone(engine: hr.Engine, graph: Callable[..., bytes]) -> None:
    table = numpy_helper.from_array(np.arange(10, dtype=np.float32), "table")
    nodes = [("Gather", ["table", "i"], ["y"], {})]
    model_of = graph(nodes, {"i": (TensorProto.INT64, ["n"])}, {"y": ["n"]}, [table])
    with hr.compile_model(model_of, engine=engine, max_batch_size=8) as model:
        with held(engine):
            futures = [model.submit(np.array(indices)) for indices in ([1, 2], [99], [3], [-50, 0], [4])]
        answers = [None if future.exception(PATIENCE) else future.result().tolist() for future in futures]
        assert answers == [[1, 2], None, [3], None, [4]]
        assert all(isinstance(futures[i].exception(), hr.BackendError) for i in (1, 3))
        seen = model.statistics()
    assert (seen.completed, seen.failed, seen.runs) == (3, 2, 1)


def test_inputs_that_differ_in_rows_never_meet_a_neighbours(engine: hr.Engine, graph: Callable[..., bytes]) -> None:
    """Joined, these three add up to four rows of each input: the run would succeed, and give everybody junk."""
    model_of = graph([("Add", ["a", "b"], ["y"], {})], {"a": ["n", 1], "b": ["m", 1]}, {"y": ["k", 1]})

    def column(*numbers: float) -> Any:
        return np.array(numbers, np.float32).reshape(-1, 1)

    with hr.compile_model(model_of, engine=engine, max_batch_size=16) as model:
        with held(engine):
            first = model.submit([column(1, 2, 3), column(1, 2)])
            good = [model.submit([column(10), column(20)]), model.submit([column(30), column(40)])]
            last = model.submit([column(4, 5), column(4, 5, 6)])
            broadcast = model.submit([column(100), column(1, 2)])
        assert [future.result(PATIENCE)[0].tolist() for future in good] == [[[30]], [[70]]]
        assert isinstance(first.exception(PATIENCE), hr.BackendError)
        assert isinstance(last.exception(PATIENCE), hr.BackendError)
        assert broadcast.result(PATIENCE)[0].tolist() == [[101], [102]], "alone, it is the model's affair"
        assert model.statistics().runs == 4


def test_a_cancelled_request_costs_its_batch_nothing(engine: hr.Engine, sum_and_difference: bytes) -> None:
    with hr.compile_model(sum_and_difference, engine=engine, max_batch_size=8) as model:
        with held(engine):
            futures = [model.submit([np.full((1, 3), n, np.float32)] * 2) for n in range(5)]
            for i in (0, 3):
                futures[i].cancel()
        assert [futures[i].result(PATIENCE)[0][0, 0] for i in (1, 2, 4)] == [2, 4, 8]
        seen = model.statistics()
    assert (seen.runs, seen.rows, seen.cancelled) == (1, 3, 2)


def test_one_that_is_cancelled_in_its_run_costs_the_others_nothing(engine: hr.Engine) -> None:
    gate, runs = Gate(), []

    def work(xs: list[int]) -> list[int]:
        runs.append(list(xs))
        if len(xs) > 1:
            gate()
        return [2 * x for x in xs]

    with hr.compile_model(work, engine=engine, max_batch_size=8) as model:
        with held(engine):
            futures = [model.submit(x) for x in range(3)]
        gate.wait()
        assert futures[1].cancel()
        gate.open()
        assert [futures[0].result(PATIENCE), futures[2].result(PATIENCE)] == [0, 4]
        model.close()
        assert engine.statistics().budget.inside == 0
    assert runs == [[0, 1, 2]]
    assert model.statistics().running == 0


def test_a_callable_gets_lists_and_its_exceptions_are_answers(engine: hr.Engine) -> None:
    ran: list[list[Any]] = []

    def work(xs: list[Any]) -> list[Any]:
        ran.append(list(xs))
        return [x if x is not None else hr.InvalidInput("nothing came") for x in xs]

    with hr.compile_model(work, engine=engine, max_batch_size=8) as model:
        assert model("alone") == "alone"
        with held(engine):
            futures = [model.submit(x) for x in ([1, 2], None, {"a": 1})]
        assert futures[0].result(PATIENCE) == [1, 2]
        with pytest.raises(hr.InvalidInput, match="nothing came"):
            futures[1].result(PATIENCE)
        assert futures[2].result(PATIENCE) == {"a": 1}
    assert ran == [["alone"], [[1, 2], None, {"a": 1}]]


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda xs: xs[:1] * 3, "a batch of 1 requests came back as 3 answers"),
        (lambda xs: None, "it was given 1 and returned a NoneType"),
        (lambda xs: dict.fromkeys(xs), "it was given 1 and returned a dict"),
    ],
)
def test_a_callable_that_does_not_answer_in_a_list_is_told(engine: hr.Engine, work: Any, said: str) -> None:
    with hr.compile_model(work, engine=engine, max_batch_size=8) as model:
        with held(engine):
            futures = [model.submit(x) for x in range(2)]
        for future in futures:
            with pytest.raises(hr.BackendError, match=said):
                future.result(PATIENCE)


class Joining:
    """A callable that takes lists, keeps them, and waits at a gate in every run."""

    def __init__(self) -> None:
        self.runs: list[list[int]] = []
        self.gate = Gate()
        self.lock = threading.Lock()

    def __call__(self, xs: list[int]) -> list[int]:
        with self.lock:
            self.runs.append(list(xs))
        self.gate()
        return xs


def test_a_free_stream_beside_a_busy_one_waits_for_a_full_batch() -> None:
    work = Joining()
    with (
        hr.Engine(topology=made_up(2)) as engine,
        hr.compile_model(
            work, scheduler="multi_stream", engine=engine, max_batch_size=3, max_batch_delay=1000
        ) as model,
    ):
        futures = [model.submit(0)]
        work.gate.wait()
        futures += [model.submit(1), model.submit(2)]
        assert work.runs == [[0]], "a lone request is taken at once; the next ones may wait for company"
        assert model.statistics().waiting == 2
        futures.append(model.submit(3))
        work.gate.wait()
        assert work.runs == [[0], [1, 2, 3]]
        work.gate.open()
        assert [future.result(PATIENCE) for future in futures] == [0, 1, 2, 3]


def test_a_batch_that_does_not_fill_runs_after_the_delay() -> None:
    work = Joining()
    with (
        hr.Engine(topology=made_up(2)) as engine,
        hr.compile_model(
            work, scheduler="multi_stream", engine=engine, max_batch_size=8, max_batch_delay=0.01
        ) as model,
    ):
        futures = [model.submit(0)]
        work.gate.wait()
        futures.append(model.submit(1))
        work.gate.wait()  # the other stream has taken it, although the first is still busy and the batch is not full
        assert work.runs == [[0], [1]]
        work.gate.open()
        assert [future.result(PATIENCE) for future in futures] == [0, 1]


def test_an_idle_stream_does_not_wait_for_the_delay() -> None:
    with (
        hr.Engine(topology=made_up(2)) as engine,
        hr.compile_model(lambda xs: xs, engine=engine, max_batch_size=8, max_batch_delay=1000) as model,
    ):
        assert [model.submit(x).result(PATIENCE) for x in range(5)] == list(range(5))


def test_closing_does_not_wait_for_company() -> None:
    work = Joining()
    with hr.Engine(topology=made_up(2)) as engine:
        model = hr.compile_model(work, scheduler="multi_stream", engine=engine, max_batch_size=3, max_batch_delay=1000)
        futures = [model.submit(x) for x in range(2)]
        work.gate.wait()
        work.gate.open()
        model.close()
        assert [future.result(PATIENCE) for future in futures] == [0, 1]
