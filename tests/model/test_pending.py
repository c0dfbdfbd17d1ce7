"""What a request holds, and when it lets go: the library's, which is its own permit, and any other."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import pytest

from headrace.engine.admission import Budget
from headrace.engine.guard import Guard
from headrace.errors import BackendError, Closed
from headrace.model.call import Call
from headrace.model.forms import Form
from headrace.model.pending import Owner, Pending
from headrace.model.run import Run


class Looking(Owner):
    """What a `Call` needs of its model. Sees what a request still holds when its error is told."""

    name = "m"

    def __init__(self) -> None:
        self.guard = Guard()
        self._budget = Budget(1, guard=self.guard)
        self.held: list[bool] = []

    def on_error(self, pending: Pending) -> None:
        self.held.append(pending.held)


@pytest.fixture
def owner() -> Looking:
    return Looking()


@pytest.fixture
def pending(owner: Looking) -> Call:
    call = Call(owner, ((b"inputs",), None, Form.ONE), 0, None)  # type: ignore[arg-type]
    owner._budget.admit(6, call)
    return call


def ran(pending: Pending, outcome: Any = None, failure: BaseException | None = None) -> None:
    """Its run has ended, as `Run` says it."""
    pending.outcome, pending.failure = outcome, failure
    with pending._guard.lock:
        pending.finish(1.0)
    pending.deliver()


def test_its_room_is_one_place_and_its_bytes(owner: Looking, pending: Call) -> None:
    assert (pending.held, owner._budget.inside, owner._budget.nbytes) == (True, 1, 6)


def test_what_has_not_begun_lets_go_when_it_is_settled(owner: Looking, pending: Call) -> None:
    assert pending.cancel()
    assert (pending.inputs, pending.held) == ((), False)
    assert (owner._budget.inside, owner._budget.nbytes) == (0, 0)


def test_what_runs_holds_on_to_its_inputs_and_its_room_when_it_is_cancelled(owner: Looking, pending: Call) -> None:
    assert pending.begin()
    assert pending.cancel()
    assert (pending.inputs, pending.held, owner._budget.inside) == ((b"inputs",), True, 1)
    ran(pending, ["dropped"])
    assert pending.cancelled()
    assert (pending.inputs, pending.held) == ((), False)
    assert (owner._budget.inside, owner._budget.nbytes) == (0, 0)


def test_the_room_is_given_back_once(owner: Looking, pending: Call) -> None:
    pending.begin()
    pending.cancel()
    ran(pending)
    pending.let_go()
    pending.leave()
    assert (owner._budget.inside, owner._budget.nbytes) == (0, 0)


def test_what_was_cancelled_does_not_begin(pending: Call) -> None:
    pending.cancel()
    assert not pending.begin()


def test_the_room_is_free_before_anybody_hears_of_the_outcome(pending: Call) -> None:
    heard: list[bool] = []
    pending.add_done_callback(lambda _: heard.append(pending.held))
    pending.begin()
    ran(pending, [1])
    assert heard == [False]


def test_the_room_is_free_before_anybody_hears_that_it_was_cancelled(pending: Call) -> None:
    heard: list[bool] = []
    pending.add_done_callback(lambda _: heard.append(pending.held))
    pending.cancel()
    assert heard == [False]


@pytest.mark.parametrize("begun", [False, True])
def test_an_error_is_told_while_the_request_is_still_inside(pending: Call, owner: Looking, begun: bool) -> None:
    """Whoever waits until nobody is inside, and then looks for errors, finds it."""
    if begun:
        pending.begin()
        ran(pending, failure=BackendError("it broke"))
    else:
        pending.settle(error=Closed("closed"))
    assert owner.held == [True]
    assert not pending.held
    assert isinstance(pending.exception(), BackendError if begun else Closed)


@pytest.mark.parametrize("begun", [False, True])
def test_a_value_is_told_to_nobody(pending: Call, owner: Looking, begun: bool) -> None:
    if begun:
        pending.begin()
        ran(pending, 1)
    else:
        pending.settle(1)
    assert pending.result() == 1
    assert owner.held == []


def test_a_failure_after_it_was_cancelled_is_told_to_nobody(pending: Call, owner: Looking) -> None:
    pending.begin()
    pending.cancel()
    told = list(owner.held)
    ran(pending, failure=BackendError("it was stopped"))
    assert pending.cancelled()
    assert owner.held == told


def test_what_its_run_left_in_it_is_not_kept_beside_the_outcome(pending: Call) -> None:
    """Neither a result nobody wants nor a failure whose traceback holds the inputs."""
    pending.begin()
    pending.joined = Run(None, None, [pending])  # type: ignore[arg-type]
    ran(pending, ["large"])
    assert (pending.outcome, pending.failure, pending.joined, pending.inputs) == (None, None, None, ())


def test_a_failure_keeps_the_traceback_it_was_raised_with(pending: Call) -> None:
    def traceback_of(error: BaseException) -> TracebackType | None:
        try:
            raise error
        except BackendError as raised:
            return raised.__traceback__

    error = BackendError("it broke")
    expected = traceback_of(error)
    pending.begin()
    ran(pending, failure=error)
    with pytest.raises(BackendError) as caught:
        pending.result()
    frames, tb = [], caught.value.__traceback__
    while tb is not None:
        frames.append(tb)
        tb = tb.tb_next
    assert expected in frames


def test_everybody_who_waits_is_told_once(pending: Call) -> None:
    told: list[int] = []
    for i in range(3):
        pending.add_done_callback(lambda _, i=i: told.append(i))  # type: ignore[misc]
    pending.begin()
    ran(pending, [1])
    pending.deliver()
    assert told == [0, 1, 2]
