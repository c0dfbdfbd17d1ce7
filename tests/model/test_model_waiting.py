"""Nobody waits for room for longer than was said."""

from __future__ import annotations

import asyncio

import pytest

import headrace as hr
from headrace.engine.topology import made_up
from headrace.testing import Gate


def test_a_submit_waits_for_room_no_longer_than_its_timeout() -> None:
    gate = Gate()
    with hr.Engine(topology=made_up(1), max_operations=1) as engine:
        with hr.compile_model(lambda x: (gate(), x)[1], engine=engine) as model:
            inside = model.submit(1)
            gate.wait()
            with pytest.raises(hr.Overloaded):
                model.submit(2, timeout=0.01)
            gate.open()
            assert inside.result(30) == 1
            assert model(3, timeout=30) == 3
        assert engine.statistics().budget.inside == 0


def test_an_asubmit_waits_for_room_no_longer_than_its_timeout() -> None:
    gate = Gate()

    async def both(model: hr.Model) -> None:
        inside = model.submit(1)
        gate.wait()
        with pytest.raises(hr.Overloaded):
            await model.asubmit(2, timeout=0.01)
        later = asyncio.create_task(model.asubmit(3, timeout=30))
        await asyncio.sleep(0)
        gate.open()
        assert await inside == 1
        assert await later == 3

    with hr.Engine(topology=made_up(1), max_operations=1) as engine:
        with hr.compile_model(lambda x: (gate(), x)[1], engine=engine) as model:
            asyncio.run(both(model))
        assert engine.statistics().budget.inside == 0


def test_a_model_that_calls_itself_is_told_before_anything_is_submitted() -> None:
    calls: list[int] = []

    def recurse(n: int) -> int:
        calls.append(n)
        result: int = model(n - 1)
        return result

    with hr.compile_model(recurse) as model:
        with pytest.raises(hr.WouldDeadlock):
            model(3)
        assert calls == [3]
        assert model.statistics().submitted == 1
