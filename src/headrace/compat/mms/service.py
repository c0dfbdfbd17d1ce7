"""Raised by handlers: a message, with a status."""

from _headrace_shared import load

_ours = load("context")

PredictionException = _ours.PredictionException
