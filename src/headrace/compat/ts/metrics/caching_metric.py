"""A metric by itself."""

from _headrace_shared import load

_ours = load("measures")

CachingMetric = _ours.CachingMetric
