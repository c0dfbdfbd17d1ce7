from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from headrace.engine.admission import Budget
from headrace.errors import BackendError, Closed, InvalidInput
from headrace.model.instance import LocalInstance, Outcome
from headrace.model.pending import Owner, Pending

BUDGET = Budget(1_000_000)


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
        pending = Pending(Nobody(), value if isinstance(value, tuple) else (value,), BUDGET.admit())
        if isinstance(pending.inputs[0], np.ndarray):
            pending.rows = len(pending.inputs[0])
        batch.append(pending)
    return batch


def values(outcomes: list[Outcome]) -> list[Any]:
    assert all(outcome.error is None for outcome in outcomes)
    return [outcome.value for outcome in outcomes]


def positive(x: Any) -> list[Any]:
    if np.any(np.asarray(x) < 0):
        raise ValueError("negative")
    return [np.asarray(x) * 2]


# ---- tensors


def test_a_batch_is_one_run_and_each_request_gets_its_own_rows() -> None:
    session = Recording(positive)
    outcomes = LocalInstance(session).run(requests(np.ones((1, 2)), np.full((2, 2), 3)))
    assert [value[0].tolist() for value in values(outcomes)] == [[[2, 2]], [[6, 6], [6, 6]]]
    assert len(session.calls) == 1


def test_one_bad_request_in_a_batch_fails_alone() -> None:
    outcomes = LocalInstance(Recording(positive)).run(requests(np.ones(1), -np.ones(1), np.full(2, 3.0)))
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert outcomes[0].value[0].tolist() == [2]
    assert outcomes[2].value[0].tolist() == [6, 6]
    error = outcomes[1].error
    assert isinstance(error, BackendError)
    assert isinstance(error.__cause__, ValueError)
    assert str(error) == "the model raised ValueError: negative"


def test_a_batch_that_comes_back_with_the_wrong_rows_is_run_one_by_one() -> None:
    session = Recording(lambda x: [x[:1] * 2])
    outcomes = LocalInstance(session).run(requests(np.ones(1), np.full(1, 5.0)))
    assert [value[0].tolist() for value in values(outcomes)] == [[2], [10]]
    assert len(session.calls) == 3


def test_a_lone_request_is_not_copied_on_its_way() -> None:
    session = Recording(positive)
    (one,) = requests(np.ones(3))
    LocalInstance(session).run([one])
    assert session.calls[0][0] is one.inputs[0]


def test_names_are_passed_on() -> None:
    (one,) = requests((1, 2))
    one.names = ("b", "a")
    assert values(LocalInstance(Recording(lambda a, b: [(a, b)])).run([one])) == [[(2, 1)]]


# ---- callables that take lists


def in_lists(function: Callable[[list[Any]], Any]) -> LocalInstance:
    return LocalInstance(Recording(lambda xs: [function(xs)]), in_lists=True)


def test_a_callable_gets_the_list_of_requests_and_each_its_answer() -> None:
    session = Recording(lambda xs: [[x * 2 for x in xs]])
    assert values(LocalInstance(session, in_lists=True).run(requests(1, "a", 3))) == [[2], ["aa"], [6]]
    assert session.calls == [([1, "a", 3],)]


def test_a_lone_request_is_a_list_of_one() -> None:
    session = Recording(lambda xs: [[x * 2 for x in xs]])
    assert values(LocalInstance(session, in_lists=True).run(requests(1))) == [[2]]
    assert session.calls == [([1],)]


def test_one_bad_request_in_a_list_fails_alone() -> None:
    outcomes = in_lists(lambda xs: [1 / x for x in xs]).run(requests(1, 0, 2))
    assert [outcome.value for outcome in outcomes] == [[1], None, [0.5]]
    assert isinstance(outcomes[1].error, BackendError)
    assert isinstance(outcomes[1].error.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_exception_in_the_place_of_an_answer_is_that_requests_error(count: int) -> None:
    ours, theirs = InvalidInput("too long"), KeyError("k")
    answers: list[Any] = [ours, theirs, None][:count]
    session = Recording(lambda xs: [answers])
    outcomes = LocalInstance(session, in_lists=True).run(requests(*range(count)))
    assert len(session.calls) == 1, "the callable has answered: nothing is tried again"
    assert outcomes[0].error is ours
    if count > 1:
        assert isinstance(outcomes[1].error, BackendError)
        assert outcomes[1].error.__cause__ is theirs
        assert "answered with KeyError" in str(outcomes[1].error)
    if count > 2:
        assert (outcomes[2].value, outcomes[2].error) == ([None], None)


def test_the_wrong_number_of_answers_is_found_out_for_each_request() -> None:
    outcomes = in_lists(lambda xs: [sum(xs)]).run(requests(1, 2))  # one answer: right for a list of one
    assert values(outcomes) == [[1], [2]]
    outcomes = in_lists(lambda xs: [*xs, 0]).run(requests(1, 2))
    assert [str(outcome.error) for outcome in outcomes] == ["a batch of 1 requests came back as 2 answers"] * 2
    assert all(isinstance(outcome.error, BackendError) for outcome in outcomes)


def test_an_answer_that_is_no_list_says_what_was_expected() -> None:
    (outcome,) = in_lists(lambda xs: "text").run(requests(1))
    assert isinstance(outcome.error, BackendError)
    assert "returns a list of as many answers; it was given 1 and returned a str" in str(outcome.error)


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
    outcomes = LocalInstance(Recording(fail), lists).run(requests(*inputs))
    assert len(outcomes) == count
    for outcome in outcomes:
        assert isinstance(outcome.error, BackendError)
        assert outcome.error.__cause__ is raised
        assert type(raised).__name__ in str(outcome.error)


def test_an_unprintable_answer_is_an_outcome_too() -> None:
    raised = Unprintable()
    (outcome,) = in_lists(lambda xs: [raised]).run(requests(1))
    assert isinstance(outcome.error, BackendError)
    assert outcome.error.__cause__ is raised


def test_a_model_may_say_itself_what_is_wrong() -> None:
    said = Closed("come back tomorrow")

    def fail(x: object) -> list[Any]:
        raise said

    (outcome,) = LocalInstance(Recording(fail)).run(requests(1))
    assert outcome.error is said


def test_closing_it_closes_its_session() -> None:
    session = Recording(positive)
    LocalInstance(session).close()
    assert session.closed == 1
