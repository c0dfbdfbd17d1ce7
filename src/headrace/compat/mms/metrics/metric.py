"""One value."""

from _headrace_shared import load

_ours = load("measures")

Metric = _ours.Metric
