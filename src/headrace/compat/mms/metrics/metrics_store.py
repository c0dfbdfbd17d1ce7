"""What `context.metrics` is."""

from _headrace_shared import load

_ours = load("measures")

MetricsStore = _ours.Metrics
Metric = _ours.Metric
Dimension = _ours.Dimension
