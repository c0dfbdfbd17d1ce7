"""On an event loop a request enters, is taken and is sent to an idle worker in one step of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.engine import remote
from headrace.engine.dispatch import Dispatch
from headrace.model.pending import Owner, Pending
from headrace.workers import serving

Compile = Callable[..., hr.Model]


class Nobody(Owner):
    name = "nobody"

    def on_error(self, pending: Pending) -> None:
        pass


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How requests have entered, each."""
    ways: list[str] = []
    exchange, put = remote.exchange, Dispatch._put

    def watched(engine: Any, stream: Any, ended: Any, credit: int, inside: int, entering: Any = None) -> Any:
        if entering is not None:
            ways.append("straight")
        return exchange(engine, stream, ended, credit, inside, entering)

    def usual(self: Dispatch, *about: Any) -> Any:
        ways.append("usual")
        return put(self, *about)

    monkeypatch.setattr(serving, "exchange", watched)
    monkeypatch.setattr(Dispatch, "_put", usual)
    return ways


async def ask(model: hr.Model, value: object) -> Any:
    """As the server's loop does."""
    pending = Pending(Nobody(), (value,), model.guard)
    model.send(pending)
    (answer,) = await pending
    return answer


def test_a_request_on_a_loop_goes_straight_to_an_idle_worker(compiled: Compile, entered: list[str]) -> None:
    model = compiled("double")

    async def main() -> None:
        for i in range(50):
            assert await ask(model, i) == 2 * i

    asyncio.run(main())
    assert entered.count("straight") >= 45, entered  # its thread may have the turn at the beginning
    statistics = model.statistics()
    assert (statistics.submitted, statistics.completed) == (50, 50)


def test_several_at_once_are_each_given_their_own_answer(compiled: Compile, entered: list[str]) -> None:
    model = compiled("double", workers=2)

    async def main() -> None:
        for _ in range(20):
            assert await asyncio.gather(*(ask(model, i) for i in range(30))) == [2 * i for i in range(30)]

    asyncio.run(main())
    assert len(entered) == 600
    assert "straight" in entered


def test_what_enters_while_another_run_goes_on_is_not_forgotten(compiled: Compile, entered: list[str]) -> None:
    model = compiled("batch", max_batch_size=4, max_batch_delay=0.02)

    async def main() -> None:
        for i in range(50):
            assert await ask(model, i) == (1, i)
        entered.clear()
        for _ in range(20):  # the second enters while the first is with its worker
            assert [x for _, x in await asyncio.gather(ask(model, 1), ask(model, 2))] == [1, 2]

    asyncio.run(main())
    assert entered.count("straight") >= 20, entered


def test_on_no_loop_it_goes_the_usual_way(compiled: Compile, entered: list[str]) -> None:
    model = compiled("double")
    pending = Pending(Nobody(), (4,), model.guard)
    model.send(pending)
    assert pending.result(60) == [8]
    assert entered == ["usual"]


def test_an_entry_that_is_traced_goes_the_usual_way(compiled: Compile, entered: list[str], tmp_path: Path) -> None:
    model = compiled("double")

    async def main() -> None:
        await ask(model, 1)
        with model.trace(tmp_path / "trace.json"):
            entered.clear()
            await ask(model, 1)
        assert entered == ["usual"]

    asyncio.run(main())


def test_in_the_middle_of_a_step_of_the_engine_nothing_is_begun(compiled: Compile, entered: list[str]) -> None:
    """A finaliser may send a request there."""
    model = compiled("double")

    async def main() -> None:
        await ask(model, 1)
        pending = Pending(Nobody(), (4,), model.guard)
        entered.clear()
        with model.guard.lock:
            model.send(pending)
            assert entered == ["usual"]
        assert await pending == [8]

    asyncio.run(main())


def test_one_whose_worker_dies_with_it_is_run_again(compiled: Compile, entered: list[str], tmp_path: Path) -> None:
    model = compiled("dies_once")

    async def main() -> None:
        assert await ask(model, str(tmp_path)) == "alive"
        assert await ask(model, str(tmp_path)) == "alive"

    asyncio.run(main())


def test_a_hang_is_found(compiled: Compile, tmp_path: Path) -> None:
    model = compiled("gate", response_timeout=0.3, idempotent=False)

    async def main() -> None:
        with pytest.raises(hr.ResponseTimeout):
            await ask(model, str(tmp_path))

    asyncio.run(main())


def test_a_closed_model_says_so(compiled: Compile) -> None:
    model = compiled("double")

    async def main() -> None:
        await ask(model, 1)
        await asyncio.to_thread(model.close)
        with pytest.raises(hr.Closed):
            await ask(model, 1)

    asyncio.run(main())


def test_what_comes_when_all_its_workers_have_ended_is_refused(compiled: Compile, engine: hr.Engine) -> None:
    """Somebody may have asked whether the model is closed before it was."""
    model = compiled("double", workers=2)
    assert model.port is not None
    engine.detach(model.port)
    pending = Pending(Nobody(), (1,), model.guard)
    engine.offer(model.port, model.batcher.add, pending)
    assert isinstance(pending.exception(10), hr.Closed)
