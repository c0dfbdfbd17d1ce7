"""The model repository of the v2 protocol, as Triton has it under explicit model control: index, load, unload.

A model that was registered is loaded as it was; another one is looked for in the model store by its name. Unloading
lets go of its workers; it stays known, and can be loaded again. Files and settings that come with the request are
refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from headrace.errors import InvalidInput
from headrace.server.reply import Reply
from headrace.serving import describe
from headrace.serving.management import Management


def wants_only_ready(body: bytes) -> bool:
    """What an index is to have. InvalidInput."""
    ready = _object(body).get("ready", False)
    if not isinstance(ready, bool):
        raise InvalidInput(f"ready is true or false, not {ready!r:.60}")
    return ready


def check_load(body: bytes) -> None:
    """InvalidInput for what would be ignored."""
    parameters = _object(body).get("parameters")
    if parameters is None:
        return
    if not isinstance(parameters, dict):
        raise InvalidInput(f"parameters is an object, not {type(parameters).__name__}")
    for name in parameters:
        raise InvalidInput(
            f"the parameter {name!r:.60} is not taken: a model is loaded as it was registered, or as it is in the store"
        )


def index(management: Management, only_ready: bool, say: Callable[[str], str] = str) -> Reply:
    """Reads the model store: not on an event loop. `say`: how reasons are told."""
    lifecycle = management.lifecycle
    known = [
        (each.name, each.version, str(each.state), None if each.reason is None else say(each.reason))
        for each in management.registry
    ]
    failed = [(each.name, each.version, say(each.reason)) for each in list(lifecycle.failures)]
    stored = [] if only_ready else lifecycle.sources.names()
    told = describe.index(known, failed, stored, only_ready=only_ready)
    return Reply(orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE))


def _object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"the body is a JSON object, not {type(value).__name__}")
    return value
