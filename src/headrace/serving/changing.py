"""Other settings of a version, in two steps: what it would be like (or why it cannot), then that.

Rule 1: everything that could be wrong is found before anything is changed.
Rule 2: what can only be seen on what is loaded is checked on that; of what is parked, when it is loaded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headrace.errors import InvalidOption
from headrace.model.compile import check_batching
from headrace.model.rebatching import check_rebatch, rebatch
from headrace.serving.compile_options import CompileOptions
from headrace.serving.priorities import Priorities, priorities_of
from headrace.serving.served import Served
from headrace.serving.settings import Settings

OVER_YAML = ("max_batch_delay", "response_timeout", "startup_timeout")
"""Of which an archive's YAML may say something, too."""


def priorities(options: CompileOptions) -> Priorities | None:
    return priorities_of(options.priority_levels, options.default_priority_level)


def checked(
    name: str, options: CompileOptions, served: Served | None, settings: Settings, usual: CompileOptions
) -> CompileOptions:
    """The options with those settings. InvalidOption for what cannot be. `usual`: what a model has that was never
    changed."""
    wanted = settings.of_options | {each: getattr(usual, each) for each in settings.reset}
    size, delay = settings.max_batch_size, settings.max_batch_delay
    if size is not None or delay is not None:
        check_batching(size, 0.0 if delay is None else delay)
        if served is not None:
            check_rebatch(served.model, size, delay)
    if settings.queue is not None and settings.queue < 1:
        raise InvalidOption(f"a model has room for at least one request, not for {settings.queue}")
    if settings.response_timeout is not None:
        if not 0 < settings.response_timeout <= 1e6:
            raise InvalidOption(f"response_timeout is in seconds, above 0, not {settings.response_timeout!r}")
        if served is not None and served.model.crew is None:
            raise InvalidOption(f"{name} runs in this process: nothing ends a run there, so it has no time limit")
    levels = wanted.get("priority_levels", options.priority_levels)
    default = wanted.get("default_priority_level")
    if not settings.says("default_priority_level") and (options.default_priority_level or 0) <= levels:
        default = options.default_priority_level
    priorities_of(levels, default)
    asked = {*options.asked, *(each for each in OVER_YAML if each in wanted)}
    wanted |= {"default_priority_level": default, "asked": tuple(sorted(asked))}
    return replace(options, **wanted)


def use(served: Served, options: CompileOptions, settings: Settings) -> None:
    """Have it so, without a pause. It was `checked`."""
    model = served.model
    if settings.max_batch_size is not None or settings.max_batch_delay is not None:
        rebatch(model, settings.max_batch_size, settings.max_batch_delay)
    if settings.says("queue"):
        served.group.limit = options.queue
    if settings.response_timeout is not None and model.crew is not None:
        model.crew.set_response_timeout(settings.response_timeout)
    served.use(priorities(options))


def seen(options: CompileOptions, bounds: tuple[int, int], served: Served | None) -> dict[str, Any]:
    """Its settings as they are, by their names in `Settings`: of what is loaded, what holds there. `bounds`: of its
    number of workers."""
    known = priorities(options)
    found = {
        "max_batch_size": options.max_batch_size,
        "max_batch_delay": options.max_batch_delay,
        "queue": options.queue,
        "response_timeout": options.response_timeout,
        "priority_levels": options.priority_levels,
        "default_priority_level": None if known is None else known.default,
        "min_workers": bounds[0],
        "max_workers": bounds[1],
    }
    if served is not None:
        model = served.model
        found["max_batch_size"], found["max_batch_delay"] = model.max_batch_size, model.max_batch_delay
        if model.crew is not None:
            found["response_timeout"] = model.crew.response_timeout
    return found
