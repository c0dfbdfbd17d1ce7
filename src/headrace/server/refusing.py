"""From an error to the reply that tells it."""

from __future__ import annotations

import logging

import orjson

from headrace.codecs import torchserve
from headrace.errors import TooSlow
from headrace.server.head import BadFraming
from headrace.server.reply import Reply
from headrace.server.status import ConnectionEnds, MethodNotAllowed, message_of, status_of

_log = logging.getLogger("headrace.server")


def refusal(error: BaseException, path: str, request_id: str) -> Reply:
    """In the form of the API that `path` belongs to. What is our failure, or the model's, is logged."""
    status = status_of(error)
    if status.code == 500:  # %r: the path is the client's, and may have a line break in it
        _log.error("%r failed, request id %s", path, request_id, exc_info=error)
    message = message_of(error, request_id)
    if path == "/v2" or path.startswith("/v2/"):
        body = orjson.dumps({"error": message.encode(errors="replace").decode()})
    else:
        body = torchserve.error_body(status.code, status.type, message)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if status.retry_after is not None:
        headers = ((b"retry-after", str(status.retry_after).encode()),)
    if isinstance(error, MethodNotAllowed):
        headers = ((b"allow", error.allowed.encode()),)
    return Reply(body, status=status.code, headers=headers)


def ends_the_connection(error: BaseException) -> bool:
    """Whether what still comes must not be read as the next request."""
    return isinstance(error, BadFraming | TooSlow | ConnectionEnds)
