"""What `context.metrics` raises."""

from _headrace_shared import load

_ours = load("measures")

MetricsCacheKeyError = _ours.MetricsCacheKeyError
MetricsCacheTypeError = _ours.MetricsCacheTypeError
MetricsCacheValueError = _ours.MetricsCacheValueError
