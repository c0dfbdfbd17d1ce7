"""What a handler measures: `context.metrics`, as either server has it. Loaded by its path in workers.

Rule 1: one object for both servers. Where they differ in the order of arguments (`add_metric`), their types decide.
Rule 2: what is added is told to the owner once a batch has ended, not one by one; nothing else is kept.
Rule 3: a list of dimensions is the handler's and is not changed: the servers appended to it, and it grew.
"""

from __future__ import annotations

import enum
import logging
from typing import Any, Dict, Tuple

MOST = 1000
"""Values that wait for the end of a batch; beyond that they are told at once."""
_log = logging.getLogger("headrace.metrics")

Value = Tuple[str, str, str, float, Dict[str, str]]
"""Its name, counter | gauge | histogram, its unit, the value, its dimensions."""
_told: list[Value] = []


def flush() -> None:
    """Tell the owner what was measured since."""
    global _told
    if _told:
        told, _told = _told, []
        try:
            import headrace_worker
        except ImportError:  # a handler that is tried outside a worker
            return
        tell = getattr(headrace_worker, "tell_metrics", None)
        if tell is not None:
            tell(told)


def _tell(name: Any, kind: str, unit: Any, value: Any, dimensions: dict[str, str]) -> None:
    try:
        number = float(value)
    except (TypeError, ValueError):  # Multi Model Server's errors may have a text for a value: they are counted
        _log.info("%s: %s", name, value)
        number = 1.0
    if kind == "counter" and not number >= 0:
        _log.error("the metric %s is a counter and cannot go down: %r was added; it is left out", name, value)
        return
    _told.append((str(name), kind, str(unit or ""), number, dimensions))
    if len(_told) > MOST:
        flush()


class MetricTypes(enum.Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Dimension:
    def __init__(self, name: Any, value: Any) -> None:
        self.name, self.value = name, value

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"

    def to_dict(self) -> dict[str, Any]:
        return {"Name": self.name, "Value": self.value}


class Metric:
    """One value, as Multi Model Server keeps it."""

    def __init__(
        self,
        name: str,
        value: Any,
        unit: str,
        dimensions: Any,
        request_id: str | None = None,
        metric_method: str | None = None,
    ) -> None:
        self.name, self.value, self.unit, self.dimensions = name, value, unit, dimensions
        self.request_id, self.metric_method = request_id, metric_method

    def update(self, value: Any) -> None:
        self.value = self.value + value if self.metric_method == "counter" else value

    def __str__(self) -> str:
        return "{}.{}:{}|#{}".format(self.name, self.unit, self.value, ",".join(map(str, self.dimensions)))


class CachingMetric:
    """A metric by itself, with the names of its dimensions: TorchServe's."""

    def __init__(
        self,
        metric_name: str,
        unit: str,
        dimension_names: list[str] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        self.metric_name, self.unit, self.metric_type = metric_name, unit, metric_type
        self.dimension_names = list(dimension_names or [])

    def add_or_update(self, value: Any, dimension_values: Any = (), request_id: str = "") -> None:
        """What does not fit is logged and left out."""
        values = [] if dimension_values is None else list(dimension_values)
        if len(values) != len(self.dimension_names):
            _log.error(
                "the metric %s has the dimensions %s, the values %s were given; it is left out",
                self.metric_name, self.dimension_names, values,
            )  # fmt: skip
            return
        _tell(
            self.metric_name,
            self.metric_type.value,
            self.unit,
            value,
            dict(zip(self.dimension_names, map(str, values))),
        )

    def update(self, value: Any, request_id: str = "", dimensions: Any = ()) -> None:
        self.dimension_names = [str(each.name) for each in dimensions]
        self.add_or_update(value, [each.value for each in dimensions], request_id)


class MetricsCacheKeyError(Exception):
    """No such metric."""


class MetricsCacheTypeError(Exception):
    pass


class MetricsCacheValueError(ValueError):
    pass


class Metrics:
    """`MetricsStore` and `MetricsCacheYamlImpl` in one."""

    def __init__(self, request_ids: dict[int, str] | None = None, model_name: str | None = None) -> None:
        self.request_ids, self.model_name = request_ids, model_name
        self.store: list[Metric] = []
        """Of the batch that runs."""
        self.cache: dict[MetricTypes, dict[str, CachingMetric]] = {}

    def begin(self, request_ids: dict[int, str]) -> None:
        self.request_ids = request_ids
        if self.store:
            self.store.clear()

    def set_request_ids(self, request_ids: dict[int, str]) -> None:
        self.request_ids = request_ids

    # ---- values

    def add_counter(self, name: str, value: Any, idx: Any = None, dimensions: Any = None) -> None:
        self._add(name, value, "count", idx, dimensions, MetricTypes.COUNTER)

    def add_time(
        self,
        name: str,
        value: Any,
        idx: Any = None,
        unit: str = "ms",
        dimensions: Any = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        if unit not in ("ms", "s"):
            raise MetricsCacheValueError(f"the unit of a time is 'ms' or 's', not {unit!r}")
        self._add(name, value, unit, idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: Any,
        idx: Any = None,
        unit: str = "MB",
        dimensions: Any = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        if unit not in ("MB", "kB", "GB", "B"):
            raise MetricsCacheValueError(f"the unit of a size is 'B', 'kB', 'MB' or 'GB', not {unit!r}")
        self._add(name, value, unit, idx, dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: Any,
        idx: Any = None,
        dimensions: Any = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        self._add(name, value, "percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: Any, dimensions: Any = None) -> None:
        self._add(name, value, "", None, dimensions, MetricTypes.COUNTER, level="Error")

    def add_metric(self, *args: Any, **named: Any) -> Any:
        """A value: `(name, value, idx=None, unit=None, dimensions=None)`, Multi Model Server's, or `(name, value, unit,
        idx=None, dimensions=[], metric_type=COUNTER)`, TorchServe's. Or, as TorchServe 0.6 to 0.8 had it, a new
        metric: `(metric_name, unit, dimension_names, metric_type)`."""
        if "metric_name" in named or (
            len(args) > 2 and isinstance(args[1], str) and isinstance(args[2], (list, tuple))
        ):
            return self.add_metric_to_cache(*args, **named)
        if (len(args) > 2 and isinstance(args[2], str)) or "metric_type" in named:
            return self._add_generic(*args, **named)
        return self._add_of_mms(*args, **named)

    def _add_of_mms(
        self, name: str, value: Any, idx: Any = None, unit: str | None = None, dimensions: Any = None
    ) -> None:
        self._add(name, value, unit, idx, dimensions, MetricTypes.GAUGE if unit != "count" else MetricTypes.COUNTER)

    def _add_generic(
        self,
        name: str,
        value: Any,
        unit: str | None = None,
        idx: Any = None,
        dimensions: Any = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        self._add(name, value, unit, idx, dimensions, metric_type)

    def _add(
        self, name: str, value: Any, unit: Any, idx: Any, dimensions: Any, kind: MetricTypes, level: str = "Model"
    ) -> None:
        if dimensions is None:
            dimensions = ()
        elif not isinstance(dimensions, (list, tuple)):
            raise ValueError(f"dimensions is a list of Dimension, not {type(dimensions).__name__}")
        named = {str(each.name): str(each.value) for each in dimensions}
        if level == "Model":
            named.setdefault("ModelName", str(self.model_name))
        named.setdefault("Level", level)
        ids = self.request_ids or {}
        shown = [*dimensions, *(Dimension(key, named[key]) for key in ("ModelName", "Level") if key in named)]
        self.store.append(Metric(name, value, unit, shown, ids.get(idx) if isinstance(ids, dict) else None, kind.value))
        if len(self.store) > MOST:
            self.store.clear()
        _tell(name, kind.value, unit, value, named)

    # ---- metrics by themselves

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Any = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
        **_: Any,
    ) -> CachingMetric:
        """MetricsCacheTypeError for what is none."""
        if not isinstance(metric_name, str) or not isinstance(unit, str):
            raise MetricsCacheTypeError(f"metric_name and unit are text, not {metric_name!r} and {unit!r}")
        if not isinstance(metric_type, MetricTypes):
            raise MetricsCacheTypeError(f"metric_type is one of MetricTypes, not {metric_type!r}")
        metric = CachingMetric(metric_name, unit, dimension_names, metric_type)
        self.cache.setdefault(metric_type, {})[metric_name] = metric
        return metric

    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> CachingMetric:
        """MetricsCacheKeyError if it was not added."""
        try:
            return self.cache[metric_type][metric_name]
        except KeyError:
            raise MetricsCacheKeyError(
                f"no metric {metric_name!r} of type {metric_type!r}; add_metric_to_cache adds one"
            ) from None

    def cache_keys(self) -> list[str]:
        return [f"{kind.value}:{name}" for kind, metrics in self.cache.items() for name in metrics]
