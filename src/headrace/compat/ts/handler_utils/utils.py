"""Answers in parts."""

from __future__ import annotations

import os
from typing import Any

from _headrace_shared import load


def send_intermediate_predict_response(ret: Any, req_id_map: Any, message: Any, code: Any, context: Any = None) -> None:
    """Send one more part of the answer of each request of the batch. What the handler returns is the last part.

    `ret`: a part for each request in `req_id_map`, which is the context's `request_ids`. The clients of those that ask
    for the whole are given the parts together. `ret` None: an error with this message and status ends the answer.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":  # of the processes of one model the first speaks for all
        return
    import headrace_worker

    indices = list(req_id_map) if isinstance(req_id_map, dict) else list(range(len(ret)))
    if ret is None:
        for index in indices:
            headrace_worker.send_part(index, (int(code), "InternalServerException", str(message)))
        return
    wire = load("wire")
    processors = getattr(context, "request_processor", None)
    if not processors:
        kind = load("context").RequestProcessor
        processors = {index: kind({}) for index in indices}
    for index in indices:
        headrace_worker.send_part(index, wire.answers([ret[index]], [processors[index]])[0])
