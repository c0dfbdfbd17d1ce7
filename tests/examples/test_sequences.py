"""The example of completion order does what it says, in each of its ways; how long it takes is not looked at."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import headrace as hr
from headrace.engine.topology import made_up
from headrace.testing import Gate

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "sequences"
WAYS = ["submission order", "can_read", "poll", "poll, short first"]


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import in_completion_order

        yield in_completion_order


@pytest.fixture(scope="module")
def translator(example: ModuleType) -> Iterator[tuple[hr.Engine, hr.Model]]:
    with hr.Engine(topology=made_up(2)) as engine:
        with hr.compile_model(example.make_model(), scheduler="multi_stream", engine=engine) as model:
            yield engine, model


@pytest.mark.parametrize("length", [1, 8, 100])
def test_as_many_tokens_come_out_as_went_in(translator: tuple[hr.Engine, hr.Model], length: int) -> None:
    _, model = translator
    written = model(np.arange(length))
    assert written.shape == (length,)
    assert written.dtype == np.int64


def test_what_is_written_first_heeds_what_is_read_last(translator: tuple[hr.Engine, hr.Model]) -> None:
    _, model = translator
    sentence = np.arange(8)
    first_tokens = {int(model(np.append(sentence, last))[0]) for last in range(50)}
    assert len(first_tokens) > 1


@pytest.mark.parametrize("way", WAYS)
def test_every_request_is_handed_out_once(
    example: ModuleType, translator: tuple[hr.Engine, hr.Model], way: str
) -> None:
    engine, model = translator
    rng = np.random.default_rng(3)
    inputs = [rng.integers(0, example.TOKENS, length) for length in rng.integers(8, 200, 60)]
    handed_out: list[hr.Future[Any]] = []
    read, short_first = example.WAYS[way]
    engine.poll()

    def noted(*args: Any) -> list[hr.Future[Any]]:
        ended: list[hr.Future[Any]] = read(*args)
        handed_out.extend(ended)
        return ended

    served = example.serve(engine, model, inputs, np.zeros(60), noted, short_first)
    assert sorted(served.order) == list(range(60))
    assert len(handed_out) == len(set(handed_out)) == 60
    assert served.most_in_flight == 60
    assert (served.latencies > 0).all()
    assert engine.poll() == []


@pytest.mark.parametrize("way", WAYS)
def test_only_submission_order_waits_for_a_long_one_that_came_first(example: ModuleType, way: str) -> None:
    read, short_first = example.WAYS[way]
    gate = Gate()

    def translate(sequence: str) -> str:
        if sequence == "a long one":
            gate()
        elif way == "submission order":
            gate.open()  # by nobody else: whoever reads in this order reads nothing while the long one runs
        return sequence

    def opening(engine: hr.Engine, in_flight: dict[hr.Future[Any], int], idle: float) -> list[hr.Future[Any]]:
        ended: list[hr.Future[Any]] = read(engine, in_flight, idle)
        if any(in_flight[future] == 1 for future in ended):
            gate.open()  # no sooner: the short one is read while the long one runs
        return ended

    with hr.Engine(topology=made_up(2)) as engine:
        with hr.compile_model(translate, scheduler="multi_stream", engine=engine) as model:
            engine.poll()
            served = example.serve(engine, model, ["a long one", "short"], np.zeros(2), opening, short_first)
    assert served.order == ([0, 1] if way == "submission order" else [1, 0])


def test_it_prints_a_line_for_each_way_under_each_load() -> None:
    command = [sys.executable, "-W", "error", str(FOLDER / "in_completion_order.py")]
    told = subprocess.run(
        [*command, "--requests", "60", "--rounds", "1", "--seed", "3"], capture_output=True, text=True, timeout=120
    )
    assert told.returncode == 0, told.stderr
    lines = re.findall(r"^(steady|crowd) +(.+?)((?: +[\d.]+){5})$", told.stdout, re.MULTILINE)
    assert [(load, way) for load, way, _ in lines] == [(load, way) for load in ("steady", "crowd") for way in WAYS]
    for load, _, figures in lines:
        mean, p50, p99, _kept_waiting, most_in_flight = map(float, figures.split())
        assert mean > 0
        assert p50 <= p99
        assert most_in_flight >= (20 if load == "crowd" else 1)
