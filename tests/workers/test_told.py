"""What workers tell of themselves is bounded, and one name is one kind."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.counters import Buckets
from headrace.workers.told import LONGEST, SERIES, Told, named


def made() -> tuple[Told, list[str]]:
    said: list[str] = []
    return Told("m", said.append), said


def test_counters_add_up_gauges_are_replaced_histograms_gather() -> None:
    told, said = made()
    for value in (1, 2.5):
        told.tell([["c", "counter", "", value, {}], ["g", "gauge", "ms", value, {"Level": "Model"}]])
        told.tell([["h", "histogram", "ms", value, {}]])
    found = {series.name: series for series in told.read()}
    assert (found["c"].value, found["g"].value) == (3.5, 2.5)
    assert (found["g"].unit, found["g"].dimensions) == ("ms", (("Level", "Model"),))
    assert isinstance(found["h"].value, Buckets)
    assert (found["h"].value.count, found["h"].value.total) == (2, 3.5)
    assert said == []


def test_a_name_stays_what_it_was_and_that_is_said_once() -> None:
    told, said = made()
    told.tell([["a", "counter", "", 1, {}], *[["a", "gauge", "", 5, {}]] * 3])
    assert [(series.kind, series.value) for series in told.read()] == [("counter", 1)]
    assert said == ["metric a was a counter, and is not counted as a gauge"]
    assert told.dropped == 3


def test_there_are_no_more_series_than_that() -> None:
    told, said = made()
    told.tell([["a", "counter", "", 1, {"i": str(i)}] for i in range(SERIES + 50)])
    assert len(told.read()) == SERIES
    told.tell([["a", "counter", "", 1, {"i": "0"}]])  # those that are there go on
    assert told.read()[0].value == 2
    assert told.dropped == 50
    assert len(said) == 1


def test_dimensions_that_are_one_as_they_are_written_are_refused_and_said() -> None:
    told, said = made()
    told.tell([["a", "counter", "", 1, {"x-y": "1", "x_y": "2"}]])
    assert (told.read(), told.dropped) == ([], 1)
    assert said == ["metric a has dimensions that are one as Prometheus writes them: x-y, x_y"]


@pytest.mark.parametrize(
    "record", [["a", "kind", "", 1, {}], ["a", "counter", "", -1, {}], ["a", "counter", "", float("nan"), {}],
               ["a", "gauge", "", 1, {str(i): "" for i in range(17)}]]
)  # fmt: skip
def test_values_that_are_none_are_dropped_and_said(record: list[object]) -> None:
    told, said = made()
    told.tell([record])
    assert (told.read(), told.dropped, len(said)) == ([], 1, 1)


@pytest.mark.parametrize(
    "records", [None, {}, [1], [["a"]], [["a", "counter", "", "1", {}]], [["a", "counter", "", 1, []]]]
)
def test_what_is_no_list_of_metrics_is_an_error(records: object) -> None:
    with pytest.raises(ValueError, match="not a"):
        made()[0].tell(records)


@given(st.text(max_size=300))
def test_names_are_names(text: str) -> None:
    import re

    name = named(text)
    assert re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name)
    assert not name.startswith("__")
    assert len(name) <= LONGEST + 1


@given(st.lists(st.tuples(st.text(), st.sampled_from(["counter", "gauge", "histogram"]), st.text(), st.floats(),
                          st.dictionaries(st.text(), st.text(), max_size=3))))  # fmt: skip
def test_whatever_is_told_can_be_read(records: list[object]) -> None:
    told, _ = made()
    told.tell(json.loads(json.dumps(records)))
    assert len(told.read()) <= len(records)
