"""What a manager says of how a model is to be served: the old servers' words and units, as options of ours. Pure."""

from __future__ import annotations

from dataclasses import replace

from headrace.archives.demands import RUNTIME, VERSION
from headrace.errors import InvalidOption
from headrace.model.compile import LONGEST_DELAY
from headrace.server import compat as says
from headrace.server.compat import Compat
from headrace.server.parameters import Parameters
from headrace.serving.compile_options import CompileOptions

BATCH_DELAY = 0.1
"""Seconds: what the old servers have a batch wait, where a size is given and no delay."""


def options_of(given: Parameters, usual: CompileOptions, compat: Compat) -> CompileOptions:
    """What the old servers call them, in their units. `usual`: where nothing is said.
    InvalidOption for what cannot be."""
    options = replace(usual, workers=1)
    size, delay = given.integer("batch_size"), given.integer("max_batch_delay")
    if size is not None:
        options = replace(options, max_batch_size=at_least(1, "batch_size", size), max_batch_delay=BATCH_DELAY)
    if delay is not None:
        seconds = at_least(0, "max_batch_delay", delay) / 1000
        options = replace(options, max_batch_delay=min(seconds, LONGEST_DELAY), asked=("max_batch_delay",))
    response = given.integer("response_timeout")
    if response is not None:
        minutes = compat is Compat.mms and not given.is_in_body("response_timeout")
        seconds = at_least(1, "response_timeout", response) * (60 if minutes else 1)
        options = replace(options, response_timeout=float(min(seconds, 1_000_000)))
        options = replace(options, asked=(*options.asked, "response_timeout"))
    startup = given.integer("startup_timeout")
    if startup is None:
        return replace(options, startup_timeout=options.start_timeout)
    limit = float(at_least(0, "startup_timeout", startup))
    return replace(options, startup_timeout=min(limit, 1_000_000.0), asked=(*options.asked, "startup_timeout"))


def demands_of(given: Parameters, compat: Compat) -> frozenset[str]:
    """Of its archive: what is wanted, and not said here."""
    said = {VERSION: "model_version", RUNTIME: "runtime"}
    return frozenset(each for each in says.DEMANDS.get(compat, ()) if said.get(each, "") not in given)


def count(name: str, value: int | None) -> int | None:
    if value is not None and value < 0:
        raise InvalidOption(f"{name} is counted from 0 up, not {value}")
    return value


def at_least(low: int, name: str, value: int) -> int:
    if value < low:
        raise InvalidOption(f"{name} is at least {low}, not {value}")
    return value
