"""Calls a handler as Multi Model Server and TorchServe did. Loaded by its path in workers.

Rule 1: data goes in as a list with a dict for each request, and a list of as many comes out.
Rule 2: a batch that fails is raised, and so is divided by whoever sent it: one bad request fails alone.
Rule 3: a request that fails alone is answered, where the contract has an answer for it; else it is raised.
"""

from __future__ import annotations

import logging
from typing import Any

_log = logging.getLogger("headrace.handler")


class NotAList(TypeError):
    """What a handler returned."""


class Handler:
    """Called with a list of requests, `(request_id, headers, body)` each; returns a list of as many answers."""

    def __init__(
        self,
        function: Any,
        owner: Any,
        context: Any,
        envelope: Any,
        decode: bool,
        neighbour: Any,
        printed: Any = None,
        divided: bool = True,
    ) -> None:
        """`divided`: a batch that fails is called again request by request, by whoever sent it."""
        self.divided = divided
        self.function, self.owner, self.context, self.envelope, self.decode = function, owner, context, envelope, decode
        self.wire, measures = neighbour("wire"), neighbour("measures")
        self.read, self.answers = self.wire.read, self.wire.answers
        self.metrics, self.flush = measures.Metrics, measures.flush
        contexts, envelopes = neighbour("context"), neighbour("envelopes")
        self.processor, self.processors = contexts.RequestProcessor, contexts.RequestProcessors
        self.misformed = envelopes.Misformed
        self.printed = printed
        self.describes = callable(getattr(owner, "describe_handle", None))
        self.is_plain = envelope is None and not self.describes

    def __call__(self, requests: list[Any]) -> list[Any]:
        context, read, decode, processor = self.context, self.read, self.decode, self.processor
        rows: list[Any] = []
        ids: dict[int, str] = {}
        processors = self.processors()
        for request_id, headers, body in requests:
            row, about = read(headers, body, decode)
            ids[len(rows)] = request_id
            rows.append(row)
            processors.append(processor(about))
        context.request_ids, context.request_processor = ids, processors
        printed = self.printed
        if printed is not None:
            printed.request_id = ids[0] if len(ids) == 1 else ""
        metrics = context.metrics
        if type(metrics) is self.metrics:  # a handler may have put metrics of its own there
            metrics.begin(ids)
        try:
            if self.is_plain:
                values = self.function(rows, context)
                if type(values) is not list:
                    values = self.in_a_list(values, len(rows))
            else:
                values = self.handled(rows, processors)
        except (Exception, SystemExit) as error:
            if len(requests) > 1 and self.divided:
                raise
            answer = self.told(error)
            if answer is None:
                raise
            return [answer] * len(requests)
        finally:
            self.flush()
        if len(values) == len(requests):
            return self.answers(values, processors)  # type: ignore[no-any-return]
        why = f"a list of {len(requests)} answers was expected, {len(values)} came"
        if len(requests) > 1 and self.divided:
            raise ValueError(f"number of batch response mismatched: {why}")
        return [self.refused("number of batch response mismatched", why)] * len(requests)

    def handled(self, rows: list[Any], processors: Any) -> Any:
        """What the handler returns, which is a list."""
        context, envelope = self.context, self.envelope
        if self.describes and len(rows) == 1 and processors[0]._request_header.get("describe") == "True":
            return [self.owner.describe_handle()]
        if envelope is not None:
            rows = envelope.open(rows, context)
        values = self.function(rows, context)
        if envelope is not None:
            values = envelope.close(values, context)
        return self.in_a_list(values, len(rows))

    @staticmethod
    def in_a_list(values: Any, count: int) -> Any:
        if not isinstance(values, (list, tuple)):
            raise NotAList(f"a list of {count} answers was expected, a {type(values).__name__} came")
        return values

    def told(self, error: BaseException) -> Any | None:
        """(status, type, message) of what a handler raised, where the contract has one."""
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if isinstance(error, MemoryError) or "CUDA" in str(error):
            _log.error("Out of resources", exc_info=error)
            return (507, self.wire.INTERNAL, "Out of resources")
        if "PredictionException" in kinds:  # ours, or that of a server that is really installed
            _log.error("%s", error, exc_info=error)
            try:
                code = int(getattr(error, "error_code", 500))
            except (TypeError, ValueError):
                code = 500
            return (code, self.wire.INTERNAL, str(getattr(error, "message", error)))
        if isinstance(error, self.misformed):
            return (400, "BadRequestException", str(error))
        if isinstance(error, NotAList):
            return self.refused("Invalid model predict output", str(error))
        return None

    def refused(self, message: str, why: str) -> Any:
        _log.error("%s: %s", message, why)
        return (503, self.wire.INTERNAL, f"{message}: {why}")
