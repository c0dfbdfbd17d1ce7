"""`context.metrics`: what a handler measures is told to its worker's owner."""

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from headrace.archives.measures import (
    CachingMetric,
    Dimension,
    Metrics,
    MetricsCacheKeyError,
    MetricsCacheTypeError,
    MetricTypes,
    flush,
)

MODEL = {"ModelName": "m", "Level": "Model"}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What was told since it was last asked."""
    values: list[Any] = []
    module = types.ModuleType("headrace_worker")
    module.tell_metrics = values.extend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "headrace_worker", module)

    def ask() -> list[Any]:
        flush()
        said = values.copy()
        values.clear()
        return said

    ask()
    yield ask
    ask()


def test_each_kind_of_value_is_told_with_its_unit(told: Any) -> None:
    metrics = Metrics({0: "a"}, "m")
    metrics.add_counter("c", 2)
    metrics.add_time("t", 1.5, 0)
    metrics.add_time("t", 1, None, "s")
    metrics.add_size("z", 3)
    metrics.add_size("z", 3, None, "B")
    metrics.add_percent("p", 50)
    metrics.add_time("h", 1, metric_type=MetricTypes.HISTOGRAM)
    assert told() == [
        ("c", "counter", "count", 2.0, MODEL),
        ("t", "gauge", "ms", 1.5, MODEL),
        ("t", "gauge", "s", 1.0, MODEL),
        ("z", "gauge", "MB", 3.0, MODEL),
        ("z", "gauge", "B", 3.0, MODEL),
        ("p", "gauge", "percent", 50.0, MODEL),
        ("h", "histogram", "ms", 1.0, MODEL),
    ]


def test_units_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="'ms' or 's', not 'h'"):
        Metrics().add_time("t", 1, None, "h")
    with pytest.raises(ValueError, match="not 'TB'"):
        Metrics().add_size("t", 1, None, "TB")
    with pytest.raises(ValueError, match="list of Dimension"):
        Metrics().add_counter("c", 1, dimensions="x")


def test_a_handlers_list_of_dimensions_is_left_as_it_is(told: Any) -> None:
    mine = [Dimension("Kind", "cat")]
    metrics = Metrics({}, "m")
    for _ in range(2):
        metrics.add_counter("c", 1, None, mine)
    assert len(mine) == 1
    assert told() == [("c", "counter", "count", 1.0, {"Kind": "cat", **MODEL})] * 2


def test_errors_are_counted_also_those_whose_value_is_text(told: Any) -> None:
    metrics = Metrics({}, "m")
    metrics.add_error("e", "it broke")
    metrics.add_error("e", 2)
    assert told() == [("e", "counter", "", 1.0, {"Level": "Error"}), ("e", "counter", "", 2.0, {"Level": "Error"})]


def test_add_metric_is_both_servers(told: Any) -> None:
    metrics = Metrics({}, "m")
    metrics.add_metric("a", 1, 0, "widgets")  # Multi Model Server's
    metrics.add_metric("b", 2, "widgets")  # TorchServe's
    metrics.add_metric("c", 3, "widgets", None, [Dimension("k", "v")], MetricTypes.GAUGE)
    metrics.add_metric(name="d", value=4, unit="widgets", metric_type=MetricTypes.HISTOGRAM)
    cached = metrics.add_metric("e", "ms", ["Level"], MetricTypes.GAUGE)  # TorchServe's before 0.8
    cached.add_or_update(5, ["Model"])
    assert metrics.add_metric(metric_name="f", unit="ms", dimension_names=[], metric_type=MetricTypes.GAUGE)
    assert [(name, kind, unit, value) for name, kind, unit, value, _ in told()] == [
        ("a", "gauge", "widgets", 1.0),
        ("b", "counter", "widgets", 2.0),
        ("c", "gauge", "widgets", 3.0),
        ("d", "histogram", "widgets", 4.0),
        ("e", "gauge", "ms", 5.0),
    ]


def test_metrics_by_themselves(told: Any, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics({}, "m")
    made = metrics.add_metric_to_cache("loads", "count", ["Kind"])
    assert metrics.get_metric("loads") is made
    assert metrics.get_metric("loads", MetricTypes.COUNTER) is made
    with pytest.raises(MetricsCacheKeyError, match="no metric 'loads' of type"):
        metrics.get_metric("loads", MetricTypes.GAUGE)
    with pytest.raises(MetricsCacheTypeError):
        metrics.add_metric_to_cache("x", "count", [], "counter")  # type: ignore[arg-type]
    made.add_or_update(1, ["cat"])
    made.add_or_update(1, [])  # what does not fit, and counters that go down, are logged and left out
    made.add_or_update(-1, ["cat"])
    made.update(2, "id", [Dimension("Other", "dog")])
    assert told() == [
        ("loads", "counter", "count", 1.0, {"Kind": "cat"}),
        ("loads", "counter", "count", 2.0, {"Other": "dog"}),
    ]
    assert "are left out" in caplog.text or "left out" in caplog.text
    assert isinstance(made, CachingMetric)
    assert metrics.cache_keys() == ["counter:loads"]


def test_nothing_grows_without_bound(told: Any) -> None:
    metrics = Metrics({}, "m")
    for value in range(2500):
        metrics.add_counter("c", value)
    assert len(metrics.store) <= 1001
    metrics.begin({0: "b"})
    assert not metrics.store
    assert len(told()) == 2500
