"""Closing at any moment: everybody is answered, and nothing stays behind."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headrace as hr
from headrace.engine.topology import made_up
from headrace.testing import Gate

PATIENCE = 30.0


def threads_of(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"headrace-{name}-")]


def all_ended(name: str) -> bool:
    for thread in threads_of(name):
        thread.join(PATIENCE)
    return not threads_of(name)


@pytest.mark.parametrize("max_batch_size", [1, 4])
def test_closing_answers_everything_that_is_inside(engine: hr.Engine, max_batch_size: int) -> None:
    gate = Gate()

    def work(x: Any) -> Any:
        gate()
        return x

    model = hr.compile_model(work, engine=engine, max_batch_size=max_batch_size, name="drained")
    futures = [model.submit(x) for x in range(10)]
    gate.wait()
    closing = threading.Thread(target=model.close)
    closing.start()
    gate.open()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert [future.can_read() for future in futures] == [True] * 10
    assert [future.result() for future in futures] == list(range(10))
    assert not threads_of("drained")
    assert engine.statistics().budget.inside == 0


def test_closing_without_draining_refuses_what_has_not_begun(engine: hr.Engine) -> None:
    gate = Gate()
    model = hr.compile_model(lambda x: gate() or x, engine=engine, name="refusing")
    running, *waiting = [model.submit(x) for x in range(5)]
    waiting[0].cancel()
    gate.wait()
    closing = threading.Thread(target=model.close, kwargs={"drain": False})
    closing.start()
    for future in waiting[1:]:
        assert isinstance(future.exception(PATIENCE), hr.Closed)
    assert waiting[0].cancelled()
    assert not running.can_read(), "what runs is waited for"
    gate.open()
    closing.join(PATIENCE)
    assert running.result() == 0
    seen = model.statistics()
    assert (seen.submitted, seen.completed, seen.cancelled, seen.refused, seen.waiting) == (5, 1, 1, 3, 0)
    assert engine.statistics().budget.inside == 0
    assert not threads_of("refusing")


def test_closing_twice_is_closing_once(engine: hr.Engine) -> None:
    with hr.compile_model(lambda x: x, engine=engine) as model:
        model(1)
        model.close()
        model.close(drain=False)
    model.close()
    assert engine.statistics().ports == 0


def test_whoever_closes_it_again_waits_for_the_same_end(engine: hr.Engine) -> None:
    gate, seen = Gate(), []
    model = hr.compile_model(lambda x: gate() or x, engine=engine)
    futures = [model.submit(x) for x in range(5)]
    gate.wait()

    def close() -> None:
        model.close()
        seen.append([future.can_read() for future in futures])

    threads = [threading.Thread(target=close) for _ in range(3)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(PATIENCE)
    assert seen == [[True] * 5] * 3
    assert [future.result() for future in futures] == list(range(5))


def test_closing_without_draining_cuts_a_drain_short(engine: hr.Engine) -> None:
    gate = Gate()
    model = hr.compile_model(lambda x: gate() or x, engine=engine)
    running, *waiting = [model.submit(x) for x in range(5)]
    gate.wait()
    threads = [threading.Thread(target=model.close, kwargs={"drain": drain}) for drain in (True, False)]
    threads[0].start()
    while not model._closed:  # no gate reaches in there
        pass
    threads[1].start()
    assert [type(future.exception(PATIENCE)) for future in waiting] == [hr.Closed] * 4
    gate.open()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert running.result() == 0


@pytest.mark.parametrize("scheduler", ["single_stream", "naive"])
def test_a_closed_model_says_so_however_it_is_called(engine: hr.Engine, scheduler: str) -> None:
    model = hr.compile_model(lambda x: x, engine=engine, scheduler=scheduler)
    model.close()
    for call in (model, model.submit, lambda x: next(model.map([x])), lambda x: asyncio.run(model.asubmit(x))):
        with pytest.raises(hr.Closed):
            call(1)
    assert engine.statistics().budget.inside == 0
    assert model.statistics().submitted == 0


def test_a_closed_model_says_so_also_where_there_is_no_room() -> None:
    gate = Gate()
    with (
        hr.Engine(topology=made_up(1), max_operations=1) as engine,
        hr.compile_model(lambda: gate(), engine=engine) as other,
    ):
        model = hr.compile_model(lambda x: x, engine=engine)
        model.close()
        held = other.submit([])
        with pytest.raises(hr.Closed):
            model.submit(1)
        gate.open()
        held.result(PATIENCE)


def test_who_waits_for_room_while_the_model_is_closed_hears_it() -> None:
    gate = Gate()
    engine = hr.Engine(topology=made_up(1), max_operations=1)
    other = hr.compile_model(lambda: gate(), engine=engine)
    model = hr.compile_model(lambda x: x, engine=engine)

    async def user() -> None:
        waiting = asyncio.create_task(model.asubmit(1))
        await asyncio.sleep(0)
        assert engine.statistics().budget.waiting == 1
        model.close()
        gate.open()
        with pytest.raises(hr.Closed):
            await waiting

    held = other.submit([])
    asyncio.run(user())
    held.result(PATIENCE)
    other.close()
    inside = engine.statistics().budget.inside
    engine.close(drain=False)
    assert inside == 0, "its room is given back"


def test_closing_the_engine_closes_its_models() -> None:
    engine = hr.Engine(topology=made_up(1))
    model = hr.compile_model(lambda x: x, engine=engine, name="of-the-engine")
    assert model(1) == 1
    engine.close()
    assert not threads_of("of-the-engine")
    with pytest.raises(hr.Closed):
        model(1)
    model.close()


@pytest.mark.parametrize("drain", [True, False])
@pytest.mark.parametrize("max_batch_size", [1, 4])
def test_every_request_ends_when_the_model_is_closed_under_eight_threads(drain: bool, max_batch_size: int) -> None:
    for _ in range(10):
        with hr.Engine(topology=made_up(2)) as engine:
            model = hr.compile_model(
                lambda x: x, scheduler="multi_stream", engine=engine, max_batch_size=max_batch_size, name="hammered"
            )
            futures: list[list[hr.Future[Any]]] = [[] for _ in range(8)]
            some = threading.Semaphore(0)

            def submit(mine: list[hr.Future[Any]], model: hr.Model, some: threading.Semaphore) -> None:
                for x in range(100_000):
                    try:
                        mine.append(model.submit(x))
                    except hr.Closed:
                        return
                    some.release()

            threads = [threading.Thread(target=submit, args=(mine, model, some)) for mine in futures]
            for thread in threads:
                thread.start()
            for _ in range(30):
                assert some.acquire(timeout=PATIENCE)
            model.close(drain=drain)
            for thread in threads:
                thread.join(PATIENCE)
            answered = 0
            for mine in futures:
                for x, future in enumerate(mine):
                    error = future.exception(PATIENCE)
                    assert isinstance(error, hr.Closed) if error is not None else future.result() == x
                    answered += error is None
            seen = model.statistics()
            assert (seen.waiting, seen.running, seen.completed) == (0, 0, answered)
            assert seen.submitted == seen.completed + seen.refused
            assert engine.statistics().budget.inside == 0
            assert engine.statistics().cores_leased == 0
            assert not threads_of("hammered")


def test_closing_drains_while_another_model_waits_for_the_cores(engine: hr.Engine) -> None:
    """Its last run ends by giving the cores to the other one; who drains must hear of it all the same."""
    gate = Gate()
    with hr.compile_model(lambda x: x, engine=engine) as other:
        model = hr.compile_model(lambda x: gate() or x, engine=engine)
        mine = model.submit(1)
        gate.wait()
        theirs = other.submit(2)
        closing = threading.Thread(target=model.close, daemon=True)
        closing.start()
        while model._port is not None and model._port.drained is None:  # it waits now: no gate reaches in there
            pass
        gate.open()
        closing.join(PATIENCE)
        assert not closing.is_alive()
        assert (mine.result(), theirs.result(PATIENCE)) == (1, 2)


@pytest.mark.parametrize("drain", [True, False])
def test_a_model_that_is_closed_at_any_moment_leaves_its_cores_to_others(drain: bool) -> None:
    with hr.Engine(topology=made_up(2)) as engine, hr.compile_model(lambda x: x, engine=engine) as other:
        for x in range(200):
            model = hr.compile_model(lambda x: x, scheduler="multi_stream", engine=engine)
            futures = [model.submit(x), other.submit(x), model.submit(x)]
            model.close(drain=drain)
            assert futures[1].result(PATIENCE) == x
            assert all(isinstance(f.exception(PATIENCE), hr.Closed | None) for f in futures)


@pytest.mark.parametrize("drain", [True, False])
def test_a_model_may_be_closed_from_a_callback(engine: hr.Engine, digits: Path, drain: bool) -> None:
    """What its stream has taken in hand by then is answered; and so is the rest, if it drains."""
    gate = Gate()
    model = hr.compile_model(digits, engine=engine, name="called-back")
    assert model.inputs is not None
    x = np.ones((1, *(n or 1 for n in model.inputs[0].shape[1:])), np.float32)
    expected = model([x])[0]
    with hr.compile_model(lambda: gate(), engine=engine) as holder:
        holder.submit([])
        gate.wait()
        futures = [model.submit([x]) for _ in range(6)]
        futures[0].add_done_callback(lambda _: model.close(drain=drain))
        gate.open()
        errors = [future.exception(PATIENCE) for future in futures]
        assert all_ended("called-back")
    for future, error in zip(futures, errors):
        if error is None:
            np.testing.assert_array_equal(future.result()[0], expected)
        else:
            assert isinstance(error, hr.Closed)
            assert not drain
    assert errors[0] is None
    assert engine.statistics().budget.inside == 0


def test_a_callable_may_close_its_own_model(engine: hr.Engine) -> None:
    model = hr.compile_model(lambda x: model.close() or x, engine=engine, name="closes-itself")
    futures = [model.submit(x) for x in range(3)]
    for x, future in enumerate(futures):
        error = future.exception(PATIENCE)
        assert error is None or isinstance(error, hr.Closed)
        assert error is not None or future.result() == x
    assert futures[0].result() == 0
    assert all_ended("closes-itself")


def test_models_may_close_each_other_from_their_callbacks(engine: hr.Engine) -> None:
    gate, meet = Gate(), threading.Barrier(2)

    def close(model: hr.Model) -> None:
        meet.wait(PATIENCE)  # each on its own stream, and neither has ended
        model.close()

    with hr.compile_model(lambda: gate(), engine=engine) as holder:
        holder.submit([])
        gate.wait()
        one = hr.compile_model(lambda x: x, engine=engine, name="one-of-two")
        two = hr.compile_model(lambda x: x, engine=engine, name="two-of-two")
        futures = [one.submit(1), two.submit(2)]
        futures[0].add_done_callback(lambda _: close(two))
        futures[1].add_done_callback(lambda _: close(one))
        gate.open()
        assert [future.result(PATIENCE) for future in futures] == [1, 2]
        assert all_ended("one-of-two")
        assert all_ended("two-of-two")


def test_a_naive_model_that_is_closed_by_another_thread_finishes_its_run_first(engine: hr.Engine) -> None:
    gate = Gate()
    model = hr.compile_model(lambda x: gate() or x, scheduler="naive")
    answers: list[Any] = []
    caller = threading.Thread(target=lambda: answers.append(model(1)))
    caller.start()
    gate.wait()
    closing = threading.Thread(target=model.close)
    closing.start()
    gate.open()
    caller.join(PATIENCE)
    closing.join(PATIENCE)
    assert answers == [1]
    with pytest.raises(hr.Closed):
        model(2)


def test_a_naive_request_that_was_overtaken_by_closing_is_refused(digits: Path) -> None:
    """It had passed the first look when another thread closed the model: it must not run on what is gone."""
    model = hr.compile_model(digits, scheduler="naive")
    assert model.inputs is not None
    x = np.ones((1, *(n or 1 for n in model.inputs[0].shape[1:])), np.float32)
    outcomes: list[Any] = []
    with model._in_caller:  # as a run holds it
        caller = threading.Thread(target=lambda: outcomes.append(model.submit([x])))
        caller.start()
        while model._budget.statistics().inside == 0:
            pass
        model.close()
    caller.join(PATIENCE)
    assert isinstance(outcomes[0].exception(PATIENCE), hr.Closed)
    assert model._budget.statistics().inside == 0
