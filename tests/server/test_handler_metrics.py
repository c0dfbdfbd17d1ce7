"""What handlers measure of their own: its labels on the page."""

import pytest

from headrace.counters import Buckets
from headrace.server.handler_metrics import Told, told_of
from headrace.workers.told import Series

OURS = {"ModelName": "m", "ModelVersion": "1", "Hostname": "h"}


def shown(*series: Series, model: str = "m", version: str = "1") -> list[Told]:
    return list(told_of([(model, version, series)], "h", {"CPUUtilization"}))


def counter(value: float = 1.0, name: str = "calls", **dimensions: str) -> Series:
    return Series(name, "counter", "", tuple(sorted(dimensions.items())), value)


@pytest.mark.parametrize(
    ("dimensions", "labels"),
    [
        ({}, {"Level": "Model"}),
        ({"Level": "Error", "ModelName": "m"}, {"Level": "Error"}),
        ({"ModelName": "other"}, {"Level": "Model", "handler_ModelName": "other"}),
        ({"ModelVersion": "7", "Hostname": "x"},
         {"Level": "Model", "handler_ModelVersion": "7", "handler_Hostname": "x"}),
        ({"le": "0.5"}, {"Level": "Model", "handler_le": "0.5"}),
        ({"ModelName": "a", "handler_ModelName": "b"},
         {"Level": "Model", "handler_ModelName": "a", "handler_handler_ModelName": "b"}),
        ({"model": "a", "version": "b"}, {"Level": "Model", "model": "a", "version": "b"}),
    ],
)  # fmt: skip
def test_a_dimension_that_is_called_like_a_label_of_ours_keeps_its_value(
    dimensions: dict[str, str], labels: dict[str, str]
) -> None:
    (told,) = shown(counter(**dimensions))
    assert told.labels == {**OURS, **labels}


def test_what_comes_to_the_same_labels_is_one_series() -> None:
    (told,) = shown(counter(1), counter(2, ModelName="m"), counter(4, Level="Model"))
    assert told.value == 7
    (gauge,) = shown(Series("g", "gauge", "", (), 1.0), Series("g", "gauge", "", (("Hostname", "h"),), 2.0))
    assert gauge.value == 2
    (histogram,) = shown(
        Series("h", "histogram", "", (), Buckets((1.0,), (1, 2), 5.0)),
        Series("h", "histogram", "", (("ModelVersion", "1"),), Buckets((1.0,), (3, 4), 6.0)),
    )
    assert histogram.value == Buckets((1.0,), (4, 6), 11.0)


def test_two_versions_that_name_the_same_model_are_two_series() -> None:
    series = counter(ModelName="same", ModelVersion="same")
    found = list(told_of([("m", "1", [series]), ("m", "2", [series])], "h", ()))
    assert [told.labels["ModelVersion"] for told in found] == ["1", "2"]
    assert len({tuple(sorted(told.labels.items())) for told in found}) == 2


def test_names_of_the_servers_own_are_the_servers() -> None:
    found = shown(counter(name="CPUUtilization"), counter(name="headrace_streams"), counter(name="mine_total"))
    assert [told.name for told in found] == ["handler_CPUUtilization", "handler_headrace_streams", "mine"]
    found = list(told_of([("a", "1", [counter()]), ("b", "1", [Series("calls", "gauge", "", (), 1.0)])], "h", ()))
    assert [told.name for told in found] == ["calls", "calls_gauge"]


def test_a_name_that_is_made_for_another_kind_may_be_taken_as_well() -> None:
    histogram = Series("calls", "histogram", "", (), Buckets((1.0,), (1, 2), 5.0))
    models = [("a", "1", [counter()]), ("b", "1", [counter(name="calls_histogram"), histogram])]
    found = list(told_of(models, "h", ()))
    assert [(told.name, told.kind) for told in found] == [
        ("calls", "counter"), ("calls_histogram", "counter"), ("calls_histogram_histogram", "histogram")
    ]  # fmt: skip


@pytest.mark.parametrize("gauge", ["calls_total", "times_count", "times_sum", "times_bucket"])
def test_a_gauge_that_is_called_like_a_sample_of_another_metric_is_not_it(gauge: str) -> None:
    histogram = Series("times", "histogram", "", (), Buckets((1.0,), (1, 2), 5.0))
    other = Series(gauge, "gauge", "", (), 1.0)
    assert [told.name for told in shown(counter(), histogram, other)] == ["calls", "times", f"{gauge}_gauge"]
    first, *others = shown(other, counter(), histogram)
    assert first.name == gauge
    assert {told.name for told in others} in ({"calls_counter", "times"}, {"calls", "times_histogram"})
