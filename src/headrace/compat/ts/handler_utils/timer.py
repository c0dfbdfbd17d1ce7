"""How long the steps of a handler take, where its model's YAML asks for it: `handler: {profile: true}`."""

from __future__ import annotations

import functools
import time
from typing import Any


def timed(func: Any) -> Any:
    """Of a method of a handler. Its time is the gauge `ts_handler_NAME`, in milliseconds."""

    @functools.wraps(func)
    def step(self: Any, *args: Any, **named: Any) -> Any:
        context = getattr(self, "context", None)
        config = getattr(context, "model_yaml_config", None) or {}
        section = config.get("handler") if isinstance(config, dict) else None
        if context is None or not isinstance(section, dict) or section.get("profile") is not True:
            return func(self, *args, **named)
        began = time.perf_counter()
        result = func(self, *args, **named)
        spent = (time.perf_counter() - began) * 1000
        context.metrics.add_time(f"ts_handler_{func.__name__}", spent, None, "ms")
        return result

    return step
