"""A name and a value that a measurement is told apart by."""

from _headrace_shared import load

_ours = load("measures")

Dimension = _ours.Dimension
