"""Answers in parts; classes by their names."""

from __future__ import annotations

import importlib
import os
from typing import Any

from _headrace_shared import load


def send_intermediate_predict_response(ret: Any, req_id_map: Any, message: Any, code: Any, context: Any = None) -> None:
    """Send one more part of the answer of each request of the batch. What the handler returns is the last part.

    `ret`: a part for each request in `req_id_map`, which is the context's `request_ids`. The clients of those that ask
    for the whole are given the parts together. `ret` None, and a part that cannot be sent, end the answer:
    PredictionException is raised.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":  # of the processes of one model the first speaks for all
        return
    import headrace_worker

    wire, contexts = load("wire"), load("context")
    if ret is None:
        raise contexts.PredictionException(message, code)
    indices = list(req_id_map) if isinstance(req_id_map, dict) else list(range(len(ret)))
    processors = getattr(context, "request_processor", None)
    if not processors:
        processors = {index: contexts.RequestProcessor({}) for index in indices}
    for index in indices:
        part = wire.answers([ret[index]], [processors[index]])[0]
        if isinstance(part, tuple) and len(part) == 3:
            raise contexts.PredictionException(part[2], part[0])
        headrace_worker.send_part(index, part)


def import_class(class_name: str, module_prefix: Any = None) -> Any:
    """The class `module.Class`, below the module or package `module_prefix` if that is given. ImportError."""
    module, _, name = f"{module_prefix}.{class_name}".rpartition(".") if module_prefix else class_name.rpartition(".")
    if not module or not name:
        raise ImportError(f"a class is named as MODULE.CLASS, not {class_name!r}")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        raise ImportError(f"{module} has no {name!r}") from None
