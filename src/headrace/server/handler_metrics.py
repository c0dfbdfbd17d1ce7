"""What handlers of models measure of their own, as it stands on the page of metrics. Pure.

Rule 1: names and labels of the server's are the server's. A metric of a handler's that is called like one gets
        `handler_` in front; so does a dimension that is called like a label of ours and says something else. `Level` is
        no label of ours but a handler's, as in TorchServe; where it says none, it is `Model`.
Rule 2: no sample is there twice, which whoever scrapes would refuse: what comes to the same labels is one series.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace

from headrace.counters import Buckets
from headrace.server.declared import COUNTER
from headrace.workers.told import Series

Value = float | Buckets


@dataclass(frozen=True, slots=True)
class Told:
    """A metric of a handler's own. A counter's name is without `_total`."""

    name: str
    kind: str
    unit: str
    labels: dict[str, str]
    value: Value


def told_of(
    models: Iterable[tuple[str, str, Iterable[Series]]], hostname: str, declared: Container[str]
) -> Iterator[Told]:
    """`models`: the name, the version and what it tells of each. `declared`: names of the server's own metrics."""
    owners: dict[str, tuple[str, str]] = {}
    """Of the names that are on the page: whose they are, the metric's name and its kind."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], Told] = {}
    for model, version, told in models:
        about = {"ModelName": model, "ModelVersion": version, "Hostname": hostname}
        for series in told:
            name = _name(series, declared)
            # Of another kind by the same name: another model's, or a gauge called as a counter is on the page.
            while any(owners.get(each, (name, series.kind)) != (name, series.kind) for each in _shown(name, series)):
                name = f"{name}_{series.kind}"
            owners.update(dict.fromkeys(_shown(name, series), (name, series.kind)))
            one = Told(name, series.kind, series.unit, _labels(series.dimensions, about), series.value)
            key = name, frozenset(one.labels.items())
            found[key] = one if key not in found else replace(one, value=_both(found[key], one))
    yield from found.values()


def _name(series: Series, declared: Container[str]) -> str:
    ours = series.name in declared or f"{series.name}_total" in declared or series.name.startswith("headrace_")
    name = f"handler_{series.name}" if ours else series.name
    return name.removesuffix("_total") if series.kind == COUNTER else name


def _shown(name: str, series: Series) -> list[str]:
    """What is on the page of it: its name, and those of its samples."""
    ends = ("_bucket", "_count", "_sum") if isinstance(series.value, Buckets) else ()
    return [name, *(f"{name}{end}" for end in (("_total",) if series.kind == COUNTER else ends))]


def _labels(dimensions: Iterable[tuple[str, str]], about: dict[str, str]) -> dict[str, str]:
    labels = dict(about)
    for name, value in dimensions:
        if name == "le":  # a bucket's bound
            name = "handler_le"
        while labels.setdefault(name, value) != value:
            name = f"handler_{name}"
    labels.setdefault("Level", "Model")
    return labels


def _both(before: Told, after: Told) -> Value:
    """As several workers' counts are one: they add up, and of gauges the last counts."""
    one, other = before.value, after.value
    if isinstance(one, Buckets) and isinstance(other, Buckets):
        counts = tuple(map(sum, zip(one.counts, other.counts)))
        return Buckets(one.bounds, counts, one.total + other.total)
    assert not isinstance(one, Buckets)
    assert not isinstance(other, Buckets)
    return one + other if after.kind == COUNTER else other
