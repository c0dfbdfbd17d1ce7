"""What workers tell of themselves: counters, gauges and histograms of a model's own code. Knows no clocks or sockets.

Rule 1: what comes is somebody's code's: names become names that Prometheus takes, and there are at most SERIES of them;
        what is over that, or is of another kind than its name was before, is dropped, counted, and said once.
Rule 2: several workers' counts are one: they add up, and a worker's death takes nothing back. Of a gauge the last value
        counts.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headrace.counters import Buckets, Histogram

SERIES = 1000
"""Names with their dimensions, of one model."""
DIMENSIONS = 16
LONGEST = 200
"""Characters of a name or a value of a dimension."""
BOUNDS = tuple(round(digit * 10.0**power, 9) for power in range(-3, 5) for digit in (1, 2.5, 5))
"""Of histograms. In which unit is the code's own affair: TorchServe's are in milliseconds."""
KINDS = ("counter", "gauge", "histogram")
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_]")
_log = logging.getLogger("headrace.workers")


@dataclass(frozen=True)
class Series:
    name: str
    kind: str
    unit: str
    dimensions: tuple[tuple[str, str], ...]
    value: float | Buckets


class Told:
    """Of one model. From any thread."""

    def __init__(self, model: str, say: Callable[[str], object] | None = None) -> None:
        self._model = model
        self._say = say or self._warn
        self._lock = threading.Lock()
        self._kinds: dict[str, tuple[str, str]] = {}  # kind and unit of each name
        self._series: dict[tuple[str, tuple[tuple[str, str], ...]], Any] = {}
        self._said: set[str] = set()
        self.dropped = 0
        """Values that were none, were of another kind, or too many."""

    def tell(self, records: object) -> None:
        """[[name, kind, unit, value, {dimension: value}], …]. ValueError for what is not that."""
        if not isinstance(records, list):
            raise ValueError("not a list")
        said = []
        for record in records:
            try:
                name, kind, unit, value, dimensions = record
                if not isinstance(value, (int, float)) or not isinstance(dimensions, dict):
                    raise TypeError
            except (TypeError, ValueError):
                raise ValueError("not a name, a kind, a unit, a value and dimensions") from None
            with self._lock:
                why = self._add(named(str(name)), str(kind).lower(), str(unit), float(value), dimensions)
                self.dropped += why is not None
            if why is not None:
                said.append(why)
        for why in said:
            if why not in self._said and len(self._said) < 100:
                self._said.add(why)
                self._say(why)

    def _add(self, name: str, kind: str, unit: str, value: float, dimensions: dict[Any, Any]) -> str | None:
        """None, or why not."""
        if kind not in KINDS:
            return f"metric {name} is a {kind[:LONGEST]}, which is none of {', '.join(KINDS)}"
        before = self._kinds.get(name)
        if before is not None and before[0] != kind:
            return f"metric {name} was a {before[0]}, and is not counted as a {kind}"
        if kind != "gauge" and not (math.isfinite(value) and (value >= 0 or kind == "histogram")):
            return f"metric {name}, a {kind}, cannot take {value}"
        if len(dimensions) > DIMENSIONS:
            return f"metric {name} has {len(dimensions):,} dimensions; {DIMENSIONS} are the most"
        labels = {named(str(key)): str(said)[:LONGEST] for key, said in dimensions.items()}
        if len(labels) != len(dimensions):
            alike = ", ".join(sorted(map(str, dimensions)))[:LONGEST]
            return f"metric {name} has dimensions that are one as Prometheus writes them: {alike}"
        key = name, tuple(sorted(labels.items()))
        kept: Any = self._series.get(key)
        if kept is None:
            if len(self._series) >= SERIES:
                return f"a model may have {SERIES:,} series of metrics of its own; {name} is one too many"
            self._kinds.setdefault(name, (kind, unit[:LONGEST]))
            kept = self._series[key] = Histogram(BOUNDS) if kind == "histogram" else 0.0
        if kind == "histogram":
            kept.observe(value)
        else:
            self._series[key] = kept + value if kind == "counter" else value
        return None

    def read(self) -> list[Series]:
        with self._lock:
            return [
                Series(name, *self._kinds[name], labels, value.read() if isinstance(value, Histogram) else value)
                for (name, labels), value in self._series.items()
            ]

    def _warn(self, why: str) -> None:
        _log.warning("model %s: %s", self._model, why, extra={"model": self._model, "request_id": None})


def named(text: str) -> str:
    """As Prometheus takes it."""
    name = _NOT_IN_NAMES.sub("_", text[:LONGEST])
    return name if name and not name[0].isdigit() and not name.startswith("__") else f"_{name.lstrip('_')}"
