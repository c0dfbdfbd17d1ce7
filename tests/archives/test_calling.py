"""How a handler is called: without a worker."""

from typing import Any

import pytest

from headrace.archives import handler


def called(function: Any) -> Any:
    """The Handler of a function, and its context."""
    load = handler._neighbour
    metrics = load("measures").Metrics(None, "m")
    context = load("context").Context("m", "/", {}, 4, None, "1", True, metrics, {})
    return load("calling").Handler(function, None, context, None, True, load), context


def requests(count: int) -> list[Any]:
    return [(f"id-{i}", (("n", str(i)),), b"x") for i in range(count)]


def test_what_a_batch_raises_is_raised_and_what_one_request_raises_is_answered() -> None:
    def fails(data: Any, context: Any) -> Any:
        raise handler._neighbour("context").PredictionException("no", 418)

    call, _ = called(fails)
    assert call(requests(1)) == [(418, "InternalServerException", "no")]
    with pytest.raises(Exception, match="no : 418"):
        call(requests(2))


@pytest.mark.parametrize("wrong", [[], ["a", "b", "c"], {"a": 1, "b": 2}])
def test_a_batch_with_another_count_is_raised(wrong: Any) -> None:
    call, _ = called(lambda data, context: wrong)
    with pytest.raises((TypeError, ValueError)):
        call(requests(2))


def test_an_exception_of_a_server_that_is_installed_is_known_by_its_name() -> None:
    class PredictionException(Exception):
        def __init__(self, message: str, error_code: Any) -> None:
            self.message, self.error_code = message, error_code

    def fails(data: Any, context: Any) -> Any:
        raise PredictionException("theirs", data[0]["body"].decode())

    call, _ = called(fails)
    assert call([("id", (), b"404")]) == [(404, "InternalServerException", "theirs")]
    assert call([("id", (), b"what")]) == [(500, "InternalServerException", "theirs")]


def test_each_batch_begins_anew() -> None:
    def measures(data: Any, context: Any) -> Any:
        context.metrics.add_counter("c", 1, 0)
        return [len(context.metrics.store)] * len(data)

    call, context = called(measures)
    assert call(requests(2)) == [b"1", b"1"]
    assert call(requests(1)) == [b"1"]
    assert context.request_ids == context.metrics.request_ids == {0: "id-0"}
    assert context.metrics.store[0].request_id == "id-0"
    context.metrics = None  # or something of the handler's own
    call.function = lambda data, context: data and ["fine"]
    assert call(requests(1)) == [b"fine"]
