"""What can be changed of a model, as it is said. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.errors import InvalidInput, InvalidOption
from headrace.serving.priorities import Priorities, level_of, priorities_of
from headrace.serving.settings import OTHER_NAMES, SAID, Settings, bounds_of, line, read, told


def test_what_is_said_is_read_in_its_units() -> None:
    said = {
        "batch_size": 8, "max_batch_delay": 50, "job_queue_size": 20, "response_timeout": 2.5, "priorities": 3,
        "priority": 1, "min_worker": 1, "max_workers": 4,
    }  # fmt: skip
    assert read(said) == Settings(8, 0.05, 20, 2.5, 3, 1, 1, 4)
    assert read({"queue": 5}) == Settings(queue=5)
    assert set(OTHER_NAMES.values()) <= set(SAID)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "nothing is to be changed"),
        ({"batchsize": 1}, "there is no setting 'batchsize'; there are batch_size"),
        ({"batch_size": "8"}, "batch_size is a whole number (rows joined into one run); '8' came"),
        ({"batch_size": 8.0}, "batch_size is a whole number"),
        ({"batch_size": True}, "batch_size is a whole number"),
        ({"batch_size": None}, "batch_size is a whole number (rows joined into one run); null came; null is for what"),
        ({"queue": None, "job_queue_size": 1}, "queue came twice"),
        ({"batch_size": 0}, "from 1 to"),
        ({"queue": 2**31}, "from 1 to 2,147,483,647"),
        ({"max_batch_delay": -1}, "from 0 to 3,600,000"),
        ({"max_batch_delay": float("nan")}, "from 0"),
        ({"response_timeout": 0}, "from 0.001 to 1,000,000; 0 came"),
        ({"response_timeout": 1e-9}, "from 0.001"),
        ({"response_timeout": 1e7}, "from 0.001 to 1,000,000"),
        ({"min_workers": -1}, "from 0"),
        ({"min_worker": 1, "min_workers": 1}, "min_workers came twice"),
        ({"queue": [1]}, "queue is a whole number"),
    ],
)
def test_what_is_not_said_so_is_refused(said: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(said)
    assert why in str(refused.value)


@pytest.mark.parametrize("name", [name for name in SAID if not name.endswith("_workers")])
def test_whatever_may_be_said_may_be_read_from_a_snapshot(name: str) -> None:
    setting = SAID[name]
    low, high = bounds_of(setting.name)
    for said in setting.low, setting.high:
        try:
            value = getattr(read({name: int(said)}), setting.name)
        except InvalidInput:
            continue
        assert low <= value <= high
    if setting.scale is not None:
        with pytest.raises(InvalidInput):
            read({name: low / setting.scale - 1e-9})


def test_null_takes_back_what_was_set() -> None:
    said = read({"queue": None, "priorities": None, "default_priority_level": None, "batch_size": 2})
    assert said == Settings(2, reset=frozenset({"queue", "priority_levels", "default_priority_level"}))
    assert said.of_options == {"max_batch_size": 2}
    assert read({"queue": None}).asked == "queue not set"


def test_what_became_another_is_told_as_it_is_said() -> None:
    changed = {"max_batch_size": (1, 8), "max_batch_delay": (0.0, 0.0125), "queue": (None, 5), "min_workers": (1, 1)}
    assert told(changed) == {
        "batch_size": {"from": 1, "to": 8},
        "max_batch_delay": {"from": 0, "to": 12.5},
        "queue": {"from": None, "to": 5},
    }
    assert line(changed) == "batch_size 1 -> 8, max_batch_delay 0 -> 12.5, queue none -> 5"
    assert line({}) == "all was so already"
    assert Settings(max_batch_delay=0.05, min_workers=2).asked == "max_batch_delay 50, min_workers 2"


def test_a_level_becomes_the_engines_priority() -> None:
    priorities = priorities_of(3, None)
    assert priorities == Priorities(3, 2)
    assert [priorities.of(level) for level in range(6)] == [0, 1, 0, -1, 0, 0], "larger first; 0, and none, default"
    assert [Priorities(3, 1).of(level) for level in (1, 3)] == [0, -2]
    assert priorities_of(0, None) is None


@pytest.mark.parametrize(("levels", "default"), [(-1, None), (1001, None), (3, 4), (0, 1), (3, 0)])
def test_levels_that_cannot_be(levels: int, default: int | None) -> None:
    with pytest.raises(InvalidOption):
        priorities_of(levels, default)


def test_levels_as_requests_say_them() -> None:
    assert [level_of(said, "x") for said in (0, 7, "3", b"12")] == [0, 7, 3, 12]
    for said in (-1, 1.0, True, None, "", b"-1", "1.5", "²", b"high"):
        with pytest.raises(InvalidInput, match="x is a whole number: 1 is the highest level"):
            level_of(said, "x")
