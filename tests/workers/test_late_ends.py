"""A process that does not end when it is told to is killed, and the log says what it waited for."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import late_handlers
import pytest

import headrace as hr

Compile = Callable[..., hr.Model]


def said_at_the_end_of(model: hr.Model, caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(r.getMessage() for r in caplog.records if f"-{model.name}-" in r.getMessage())


def test_what_it_waited_for_is_said(compiled: Compile, caplog: pytest.LogCaptureFixture) -> None:
    models = [compiled(name, f"late_handlers:{name}") for name in ("polls", "saves", "asks")]
    assert [model(1) for model in models] == [1, 1, 1]
    caplog.clear()
    with caplog.at_level(logging.INFO, "headrace.workers"), ThreadPoolExecutor(3) as threads:
        list(threads.map(hr.Model.close, models))
    file = late_handlers.__file__
    polls, saves, asks = (said_at_the_end_of(model, caplog) for model in models)
    assert "polls-worker-0 was told to end, had not after 5 s, and was killed: it was told to end, and waits" in polls
    assert "waits for thread 'poller' (" in polls
    assert "waits for what runs at exit (" in saves
    assert f"{file}:" in saves
    assert "in save_all)" in saves
    assert "waits for thread 'asyncio_0' (" in asks
    assert [r.levelname for r in caplog.records if "was killed" in r.getMessage()] == ["WARNING"] * 3


def test_who_ends_in_time_is_left_alone(compiled: Compile, caplog: pytest.LogCaptureFixture) -> None:
    model = compiled("has_idle_threads", "late_handlers:has_idle_threads")
    assert model(-1) == 1
    with caplog.at_level(logging.INFO, "headrace.workers"):
        model.close()
    assert "was told to end" not in caplog.text
