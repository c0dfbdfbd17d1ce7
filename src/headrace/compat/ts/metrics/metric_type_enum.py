"""Counter, gauge, histogram."""

from _headrace_shared import load

_ours = load("measures")

MetricTypes = _ours.MetricTypes
