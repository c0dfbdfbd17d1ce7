from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from headrace.backends.base import Stop
from headrace.engine.guard import Guard
from headrace.errors import BackendError, Closed, InvalidInput
from headrace.model.instance import LocalInstance
from headrace.model.pending import Owner, Pending

GUARD = Guard()


class Nobody(Owner):
    def on_error(self, pending: Pending) -> None:
        pass


class Recording:
    """A session that runs `function(*inputs)` and keeps what it was given."""

    def __init__(self, function: Callable[..., list[Any]]) -> None:
        self.function, self.calls, self.closed = function, [], 0

    def run(self, inputs: tuple[Any, ...], names: tuple[str, ...] | None = None) -> list[Any]:
        self.calls.append(inputs)
        if names is not None:
            return self.function(**dict(zip(names, inputs)))
        return self.function(*inputs)

    def close(self) -> None:
        self.closed += 1


def requests(*inputs: Any) -> list[Pending]:
    batch = []
    for value in inputs:
        pending = Pending(Nobody(), value if isinstance(value, tuple) else (value,), GUARD)
        if isinstance(pending.inputs[0], np.ndarray):
            pending.rows = len(pending.inputs[0])
        batch.append(pending)
    return batch


class Stoppable(Recording):
    """A session that also takes a way to be stopped, and keeps which it was given."""

    stoppable = True

    def __init__(self, function: Callable[..., list[Any]]) -> None:
        super().__init__(function)
        self.stops: list[Stop | None] = []
        self.stopped: list[Any] = []

    def run(self, inputs: tuple[Any, ...], names: tuple[str, ...] | None = None, stop: Stop | None = None) -> list[Any]:
        self.stops.append(stop)
        return super().run(inputs, names)

    def stop(self, handle: Any) -> None:
        self.stopped.append(handle)


def ran(instance: LocalInstance, batch: list[Pending]) -> list[Pending]:
    instance.run(batch)
    return batch


def values(batch: list[Pending]) -> list[Any]:
    assert all(request.failure is None for request in batch)
    return [request.outcome for request in batch]


def positive(x: Any) -> list[Any]:
    if np.any(np.asarray(x) < 0):
        raise ValueError("negative")
    return [np.asarray(x) * 2]


# ---- tensors


def test_a_batch_is_one_run_and_each_request_gets_its_own_rows() -> None:
    session = Recording(positive)
    batch = ran(LocalInstance(session), requests(np.ones((1, 2)), np.full((2, 2), 3)))
    assert [value[0].tolist() for value in values(batch)] == [[[2, 2]], [[6, 6], [6, 6]]]
    assert len(session.calls) == 1


def test_one_bad_request_in_a_batch_fails_alone() -> None:
    batch = ran(LocalInstance(Recording(positive)), requests(np.ones(1), -np.ones(1), np.full(2, 3.0)))
    assert [request.failure is None for request in batch] == [True, False, True]
    assert batch[0].outcome[0].tolist() == [2]
    assert batch[2].outcome[0].tolist() == [6, 6]
    error = batch[1].failure
    assert isinstance(error, BackendError)
    assert isinstance(error.__cause__, ValueError)
    assert str(error) == "the model raised ValueError: negative"


def test_a_batch_that_comes_back_with_the_wrong_rows_is_run_one_by_one() -> None:
    session = Recording(lambda x: [x[:1] * 2])
    batch = ran(LocalInstance(session), requests(np.ones(1), np.full(1, 5.0)))
    assert [value[0].tolist() for value in values(batch)] == [[2], [10]]
    assert len(session.calls) == 3


def test_a_lone_request_is_not_copied_on_its_way() -> None:
    session = Recording(positive)
    (one,) = requests(np.ones(3))
    ran(LocalInstance(session), [one])
    assert session.calls[0][0] is one.inputs[0]


def test_names_are_passed_on() -> None:
    (one,) = requests((1, 2))
    one.names = ("b", "a")
    assert values(ran(LocalInstance(Recording(lambda a, b: [(a, b)])), [one])) == [[(2, 1)]]


# ---- callables that take lists


def in_lists(function: Callable[[list[Any]], Any]) -> LocalInstance:
    return LocalInstance(Recording(lambda xs: [function(xs)]), in_lists=True)


def test_a_callable_gets_the_list_of_requests_and_each_its_answer() -> None:
    session = Recording(lambda xs: [[x * 2 for x in xs]])
    assert values(ran(LocalInstance(session, in_lists=True), requests(1, "a", 3))) == [[2], ["aa"], [6]]
    assert session.calls == [([1, "a", 3],)]


def test_a_lone_request_is_a_list_of_one() -> None:
    session = Recording(lambda xs: [[x * 2 for x in xs]])
    assert values(ran(LocalInstance(session, in_lists=True), requests(1))) == [[2]]
    assert session.calls == [([1],)]


def test_one_bad_request_in_a_list_fails_alone() -> None:
    batch = ran(in_lists(lambda xs: [1 / x for x in xs]), requests(1, 0, 2))
    assert [request.failure is None for request in batch] == [True, False, True]
    assert (batch[0].outcome, batch[2].outcome) == ([1], [0.5])
    assert isinstance(batch[1].failure, BackendError)
    assert isinstance(batch[1].failure.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_exception_in_the_place_of_an_answer_is_that_requests_error(count: int) -> None:
    ours, theirs = InvalidInput("too long"), KeyError("k")
    answers: list[Any] = [ours, theirs, None][:count]
    session = Recording(lambda xs: [answers])
    batch = ran(LocalInstance(session, in_lists=True), requests(*range(count)))
    assert len(session.calls) == 1, "the callable has answered: nothing is tried again"
    assert batch[0].failure is ours
    if count > 1:
        assert isinstance(batch[1].failure, BackendError)
        assert batch[1].failure.__cause__ is theirs
        assert "answered with KeyError" in str(batch[1].failure)
    if count > 2:
        assert (batch[2].outcome, batch[2].failure) == ([None], None)


def test_the_wrong_number_of_answers_is_found_out_for_each_request() -> None:
    batch = ran(in_lists(lambda xs: [sum(xs)]), requests(1, 2))  # one answer: right for a list of one
    assert values(batch) == [[1], [2]]
    batch = ran(in_lists(lambda xs: [*xs, 0]), requests(1, 2))
    assert [str(request.failure) for request in batch] == ["a batch of 1 requests came back as 2 answers"] * 2
    assert all(isinstance(request.failure, BackendError) for request in batch)


def test_an_answer_that_is_no_list_says_what_was_expected() -> None:
    (request,) = ran(in_lists(lambda xs: "text"), requests(1))
    assert isinstance(request.failure, BackendError)
    assert "returns a list of as many answers; it was given 1 and returned a str" in str(request.failure)


# ---- nothing a model raises gets out


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this works")


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Unprintable(), MemoryError()])
def test_whatever_a_model_raises_is_an_outcome_for_each(raised: BaseException, count: int, lists: bool) -> None:
    def fail(_: object) -> list[Any]:
        raise raised

    inputs = range(count) if lists else [np.zeros(1)] * count
    for request in ran(LocalInstance(Recording(fail), lists), requests(*inputs)):
        assert isinstance(request.failure, BackendError)
        assert request.failure.__cause__ is raised
        assert type(raised).__name__ in str(request.failure)


def test_an_unprintable_answer_is_an_outcome_too() -> None:
    raised = Unprintable()
    (request,) = ran(in_lists(lambda xs: [raised]), requests(1))
    assert isinstance(request.failure, BackendError)
    assert request.failure.__cause__ is raised


def test_a_model_may_say_itself_what_is_wrong() -> None:
    said = Closed("come back tomorrow")

    def fail(x: object) -> list[Any]:
        raise said

    (request,) = ran(LocalInstance(Recording(fail)), requests(1))
    assert request.failure is said


# ---- stopping


def test_a_session_that_cannot_be_stopped_is_run_without_a_way_to_stop_it() -> None:
    instance = LocalInstance(Recording(positive))  # its `run` takes no third argument
    assert not instance.stoppable
    assert values(ran(instance, requests(np.ones(1), np.ones(1)))) == [[2], [2]]


@pytest.mark.parametrize("count", [1, 2])
def test_a_stoppable_session_is_given_the_way_to_stop_its_run(count: int) -> None:
    session, stop = Stoppable(positive), Stop()
    instance = LocalInstance(session)
    assert instance.stoppable
    instance.run(batch := requests(*[np.ones(1)] * count), stop)
    assert values(batch) == [[2]] * count
    assert session.stops == [stop]
    instance.kill("handle")
    assert session.stopped == ["handle"]


def test_it_is_run_without_one_as_well() -> None:
    session = Stoppable(positive)
    assert values(ran(LocalInstance(session), requests(np.ones(1)))) == [[2]]
    assert session.stops == [None]


def test_each_run_of_a_batch_that_failed_can_be_stopped() -> None:
    session, stop = Stoppable(positive), Stop()
    LocalInstance(session).run(requests(np.ones(1), -np.ones(1)), stop)
    assert session.stops == [stop] * 3, "the joined one, and one for each of the two"


def test_who_was_cancelled_while_the_joined_run_failed_is_not_run_alone() -> None:
    batch = requests(np.ones(1), np.full(1, 5.0), np.full(1, 7.0))

    def fail(x: Any) -> list[Any]:
        if len(x) > 1:
            batch[1].cancel()
            raise ValueError("joined")
        return [x]

    session = Recording(fail)
    ran(LocalInstance(session), batch)
    assert [inputs[0].tolist() for inputs in session.calls] == [[1, 5, 7], [1], [7]]
    assert (batch[0].outcome, batch[2].outcome) == ([1], [7])


def test_closing_it_closes_its_session() -> None:
    session = Recording(positive)
    LocalInstance(session).close()
    assert session.closed == 1
