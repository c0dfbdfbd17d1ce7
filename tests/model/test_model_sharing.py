"""Several models on one engine: its cores are what they share."""

import threading
from typing import Any

import headrace as hr
from headrace.engine.topology import made_up
from headrace.testing import Gate

PATIENCE = 30.0


def test_models_take_turns() -> None:
    gate, order = Gate(), []

    def first(x: int) -> None:
        if x == 0:
            gate()
        order.append(f"a{x}")

    with (
        hr.Engine(topology=made_up(1)) as engine,
        hr.compile_model(first, engine=engine) as a,
        hr.compile_model(lambda x: order.append(f"b{x}"), engine=engine) as b,
        hr.compile_model(lambda x: order.append(f"c{x}"), engine=engine) as c,
    ):
        futures = [a.submit(0)]
        gate.wait()
        futures += [model.submit(x) for model in (a, b, c) for x in (1, 2)]
        gate.open()
        for future in futures:
            future.result(PATIENCE)
    assert order == ["a0", "b1", "c1", "a1", "b2", "c2", "a2"]


def test_no_more_runs_than_there_are_cores() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def work(x: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        total = sum(range(200))
        with lock:
            running -= 1
        return total

    with hr.Engine(topology=made_up(3)) as engine:
        models = [hr.compile_model(work, scheduler="multi_stream", engine=engine) for _ in range(4)]
        futures = [model.submit(x) for x in range(50) for model in models]
        for future in futures:
            future.result(PATIENCE)
        for model in models:
            model.close()
    assert most <= 3


def test_a_narrow_model_whose_turn_it_is_takes_all_its_streams() -> None:
    """Else one of them would run and the other cores be kept idle, for the wide one that waits."""
    gate, both = Gate(), threading.Barrier(2)

    def wide_work(x: int) -> None:
        if x == 0:
            gate()

    with (
        hr.Engine(topology=made_up(2)) as engine,
        hr.compile_model(wide_work, scheduler="single_stream", engine=engine) as wide,
        hr.compile_model(lambda x: both.wait(PATIENCE), scheduler="multi_stream", engine=engine) as narrow,
    ):
        futures: list[hr.Future[Any]] = [wide.submit(0)]
        gate.wait()
        futures += [narrow.submit(x) for x in range(2)]
        futures.append(wide.submit(1))
        gate.open()
        for future in futures:
            future.result(2 * PATIENCE)  # a run alone would wait in vain for the other


def test_a_wide_model_is_not_starved_by_a_narrow_one() -> None:
    """Four narrow streams that are never without work; the wide one needs all four cores at once."""
    gate, order = Gate(), []

    def narrow_work(x: int) -> None:
        if x < 4:
            gate()
        order.append(x)

    with (
        hr.Engine(topology=made_up(4)) as engine,
        hr.compile_model(narrow_work, scheduler="multi_stream", engine=engine, name="narrow") as narrow,
        hr.compile_model(lambda x: order.append(x), scheduler="single_stream", engine=engine, name="wide") as wide,
    ):
        futures: list[hr.Future[Any]] = [narrow.submit(x) for x in range(4)]
        gate.wait(4)
        futures.append(wide.submit("wide"))
        futures += [narrow.submit(x) for x in range(4, 40)]
        gate.open()
        for future in futures:
            future.result(PATIENCE)
    assert order.index("wide") == 4, "it runs as soon as those that ran before it have ended"
    assert sorted(order[:4]) == [0, 1, 2, 3]
    assert len(order) == 41


def test_a_wide_model_leaves_the_narrow_one_its_turn() -> None:
    gate, order = Gate(), []

    def wide_work(x: int) -> None:
        if x == 0:
            gate()
        order.append("wide")

    with (
        hr.Engine(topology=made_up(2)) as engine,
        hr.compile_model(wide_work, engine=engine) as wide,
        hr.compile_model(lambda x: order.append("narrow"), scheduler="multi_stream", engine=engine) as narrow,
    ):
        futures = [wide.submit(0)]
        gate.wait()
        futures += [wide.submit(x) for x in range(1, 5)] + [narrow.submit(0)]
        gate.open()
        for future in futures:
            future.result(PATIENCE)
    assert order == ["wide", "narrow", "wide", "wide", "wide", "wide"]


def test_one_models_failures_are_not_anothers() -> None:
    with (
        hr.Engine(topology=made_up(1)) as engine,
        hr.compile_model(lambda x: 1 / 0, engine=engine) as broken,
        hr.compile_model(lambda x: x, engine=engine) as sound,
    ):
        futures = [(broken.submit(x), sound.submit(x)) for x in range(20)]
        for x, (bad, good) in enumerate(futures):
            assert isinstance(bad.exception(PATIENCE), hr.BackendError)
            assert good.result(PATIENCE) == x


def test_one_models_results_feed_another_from_its_callbacks() -> None:
    answers: list[int] = []
    done = threading.Event()
    with (
        hr.Engine(topology=made_up(2)) as engine,
        hr.compile_model(lambda x: x + 1, engine=engine) as add,
        hr.compile_model(lambda x: x * 10, scheduler="multi_stream", engine=engine) as times,
    ):

        def finish(future: hr.Future[int]) -> None:
            answers.append(future.result())
            if len(answers) == 10:
                done.set()

        for x in range(10):
            add.submit(x).add_done_callback(lambda f: times.submit(f.result()).add_done_callback(finish))
        assert done.wait(PATIENCE)
    assert sorted(answers) == [10 * x for x in range(1, 11)]
