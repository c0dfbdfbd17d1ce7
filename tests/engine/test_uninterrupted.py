"""What must not be split by Ctrl-C is not; and Ctrl-C is not lost."""

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from headrace.engine.uninterrupted import uninterrupted

PATIENCE = 30.0


@pytest.fixture(autouse=True)
def handler() -> Iterator[Any]:
    """Whatever a test does, SIGINT is handled as before."""
    before = signal.getsignal(signal.SIGINT)
    yield before
    signal.signal(signal.SIGINT, before)


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):  # it is handled between two turns of a loop
        pass


def test_ctrl_c_comes_right_after_the_step_and_once(handler: Any) -> None:
    done: list[int] = []

    def step() -> None:
        ctrl_c()
        ctrl_c()
        done.append(1)

    with pytest.raises(KeyboardInterrupt):
        uninterrupted(step)
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(KeyboardInterrupt):
        ctrl_c()


def test_a_handler_of_the_users_own_is_called_and_stays() -> None:
    came: list[int] = []
    own = lambda number, frame: came.append(number)  # noqa: E731
    signal.signal(signal.SIGINT, own)
    uninterrupted(ctrl_c)
    assert came == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is own


def test_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uninterrupted(ctrl_c)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_what_the_step_raises_is_raised_and_the_handler_is_back(handler: Any) -> None:
    def step() -> None:
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        uninterrupted(step)
    assert signal.getsignal(signal.SIGINT) is handler


def test_other_threads_are_never_interrupted_and_touch_no_handler(handler: Any) -> None:
    seen: list[object] = []
    thread = threading.Thread(target=lambda: uninterrupted(lambda: seen.append(signal.getsignal(signal.SIGINT))))
    thread.start()
    thread.join(PATIENCE)
    assert seen == [handler]
