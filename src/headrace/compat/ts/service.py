"""Raised by handlers: a message, with a status. Called by them: what they have measured is told at once."""

from typing import Any

from _headrace_shared import load

PredictionException = load("context").PredictionException


def emit_metrics(metrics: Any = None) -> None:
    """`metrics`, which is the context's `metrics.store` or `metrics.cache`, and whatever else has been measured."""
    load("measures").flush()
