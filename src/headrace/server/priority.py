"""Which level a request says it has. Pure. Looked for only where a model has priorities."""

from __future__ import annotations

from typing import Any

from headrace.codecs.v2_json import InferRequest
from headrace.server.head import Head
from headrace.serving.priorities import level_of

HEADER = b"x-headrace-priority"


def level_said(head: Head, context: Any) -> int:
    """0: none. What a v2 request says in its parameters counts more than its header. `context`: what its door made of
    it. InvalidInput for what is no level."""
    if isinstance(context, InferRequest) and "priority" in context.parameters:
        return level_of(context.parameters["priority"], "parameters.priority")
    said = head.said(HEADER)
    return 0 if said is None else level_of(said.strip(), "the header x-headrace-priority")
