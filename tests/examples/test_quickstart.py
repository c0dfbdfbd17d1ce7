"""docs/quickstart.md is run, command by command, on a real server; what comes has the shape of what it shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "quickstart"
ACCURACY = re.compile(r"(\d+) of 360 held-out pictures right")


@pytest.fixture(scope="module")
def run() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import run

        yield run


@pytest.fixture(scope="module")
def played(run: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, str]]:
    """Each step, and what came of it."""
    return list(run.play(run.steps_of(run.DOCUMENT.read_text()), tmp_path_factory.mktemp("quickstart")))


def shape(told: Any) -> Any:
    """Names and kinds: of text what is no number, of scores how many there are, and which is best."""
    if isinstance(told, dict):
        if told and all(isinstance(value, float) for value in told.values()):
            return "scores", len(told), max(told, key=lambda label: told[label])
        return {name: shape(value) for name, value in told.items()}
    if isinstance(told, list):
        return [shape(each) for each in told]
    if isinstance(told, str):
        return re.sub(r"\d+", "0", told)
    return told if isinstance(told, bool) or told is None else "number"


def shape_of(text: str) -> Any:
    try:
        return shape(json.loads(text))
    except ValueError:
        return [shape(line.split()) for line in text.splitlines()]


def test_every_command_gives_what_the_document_shows(played: list[tuple[Any, str]]) -> None:
    assert len(played) > 12
    for step, came in played:
        assert shape_of(came) == shape_of(step.shown), step.command


def test_it_does_what_it_is_about(played: list[tuple[Any, str]]) -> None:
    """In the order of the story: a document that lost half of it would still be true."""
    verbs = [
        *("make_models", "serve", "/predictions/digits_small", "-X POST 'http", "/predictions/digits_large"),
        *("min_worker=2", "8081/models/digits_large\n", "-X DELETE", "headrace models scale", "hr.manage"),
    ]
    commands = [step.command + "\n" for step, _ in played]
    at = -1
    for verb in verbs:
        at = next(place for place, command in enumerate(commands) if verb in command and place > at)


def test_both_networks_know_the_held_out_pictures(played: list[tuple[Any, str]]) -> None:
    """The numbers are those of the files. Another machine may round otherwise: then some few differ."""
    step, came = played[0]
    said, found = ([int(number) for number in ACCURACY.findall(text)] for text in (step.shown, came))
    assert len(found) == len(said) == 2
    small, large = found
    assert small >= 330
    assert large >= 350
    assert small < large
    assert all(abs(one - other) <= 6 for one, other in zip(said, found))


def test_two_workers_are_there_when_it_says_so(played: list[tuple[Any, str]]) -> None:
    (described,) = next(json.loads(came) for step, came in played if step.command.endswith("8081/models/digits_large"))
    assert (described["modelName"], described["minWorkers"]) == ("digits_large", 2)
    assert [worker["status"] for worker in described["workers"]] == ["READY", "READY"]


def test_what_is_read_of_a_document(run: ModuleType) -> None:
    text = "a\n```console\n$ one \\\n  more\nsaid\n$ two\n```\n```python\nprint(1)  # 1\n```\n```\n$ not this\n```\n"
    assert run.steps_of(text) == [
        run.Step("console", "one \\\n  more", "said\n"),
        run.Step("console", "two", ""),
        run.Step("python", "print(1)  # 1\n", "1\n"),
    ]


def test_the_pictures_to_train_on_are_none_of_those_held_out() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import make_models

        pictures, digits = make_models.pictures_to_fit()
        others, _ = make_models.held_out()
    assert pictures.shape == (1437, 64)
    assert sorted(set(digits.tolist())) == list(range(10))
    known = {picture.tobytes() for picture in pictures}
    assert len(others) == 360
    assert not known & {other.tobytes() for other in others.reshape(-1, 64)}
