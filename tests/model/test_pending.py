import pytest

from headrace.engine.admission import Budget
from headrace.errors import Closed
from headrace.model.pending import Owner, Pending


class Looking(Owner):
    """Sees what a request still holds when its error is told."""

    def __init__(self) -> None:
        self.held: list[bool] = []

    def on_error(self, pending: Pending) -> None:
        self.held.append(pending.permit.held)


@pytest.fixture
def owner() -> Looking:
    return Looking()


@pytest.fixture
def pending(owner: Looking) -> Pending:
    return Pending(owner, (b"inputs",), Budget(1).admit(6))


def test_what_has_not_begun_lets_go_when_it_is_settled(pending: Pending) -> None:
    assert pending.cancel()
    assert (pending.inputs, pending.permit.held) == ((), False)


def test_what_runs_holds_on_to_its_inputs_and_its_permit_when_it_is_cancelled(pending: Pending) -> None:
    assert pending.begin()
    assert pending.cancel()
    assert (pending.inputs, pending.permit.held) == ((b"inputs",), True)
    pending.let_go()
    assert (pending.inputs, pending.permit.held) == ((), False)


def test_what_was_cancelled_does_not_begin(pending: Pending) -> None:
    pending.cancel()
    assert not pending.begin()


def test_the_room_is_free_before_anybody_hears_of_the_outcome(pending: Pending) -> None:
    heard: list[bool] = []
    pending.add_done_callback(lambda _: heard.append(pending.permit.held))
    pending.begin()
    pending.ended = True
    pending.settle(1)
    assert heard == [False]


@pytest.mark.parametrize("begun", [False, True])
def test_an_error_is_told_while_the_request_is_still_inside(pending: Pending, owner: Looking, begun: bool) -> None:
    """Whoever waits until nobody is inside, and then looks for errors, finds it."""
    if begun:
        pending.begin()
        pending.ended = True
    pending.settle(error=Closed("closed"))
    assert owner.held == [True]
    assert not pending.permit.held


def test_a_value_is_told_to_nobody(pending: Pending, owner: Looking) -> None:
    pending.settle(1)
    assert owner.held == []
