"""What a model's YAML says to the server: TorchServe's keys, in its units. What is the handler's own is not looked at.

Rule 1: what cannot be is logged and ignored, as TorchServe does: an archive that served there serves here.
Rule 2: what says nothing here is logged, and not ignored in silence.
"""

from __future__ import annotations

import logging
from typing import Any

from headrace.engine.timeouts import is_number, shown
from headrace.model.compile import LONGEST_DELAY
from headrace.serving.settings import MOST_COUNT, MOST_SECONDS

SILENT = (
    *("jobTTL", "useJobTicket", "maxRetryTimeoutInSec", "clientTimeoutInMills"),
    *("deviceType", "deviceIds", "parallelLevel"),
)
"""TorchServe's keys that say nothing here."""
_MOST = {"maxBatchDelay": LONGEST_DELAY * 1000.0, "responseTimeout": MOST_SECONDS, "startupTimeout": MOST_SECONDS}
"""In the unit of the key; of others MOST_COUNT."""
_log = logging.getLogger("headrace.serving")


def number(
    config: dict[str, object], key: str, default: float, name: str, *, whole: bool = False, least: float | None = None
) -> float:
    """What the YAML of the model `name` says of `key`, or `default`."""
    value = config.get(key)
    if value is None:
        return default
    if least is None:
        least = 1 if whole else 0 if key == "maxBatchDelay" else 1e-3
    is_one = is_number(value) and not isinstance(value, bool)
    most = _MOST.get(key, MOST_COUNT)
    if is_one and isinstance(value, int | float) and least <= value <= most and (not whole or value == int(value)):
        return value
    what = "a whole number" if whole else "a number"
    text = shown(value)[:200]
    _log.warning(
        "model %s: %s: %s in its YAML is ignored: %s from %g to %d is expected", name, key, text, what, least, most
    )
    return default


def own_options(config: dict[str, object], name: str) -> dict[str, Any]:
    """What it says of options that hold wherever the model runs, by their names in CompileOptions."""
    queue, timeout = number(config, "jobQueueSize", 0, name, whole=True), number(config, "startupTimeout", 0, name)
    said = {"queue": int(queue), "startup_timeout": float(timeout)}
    return {option: value for option, value in said.items() if value}
