"""From an error to the reply that tells it."""

from __future__ import annotations

import logging

import orjson

from headrace.codecs import torchserve
from headrace.errors import TooSlow
from headrace.log import of_request
from headrace.server.compat import Compat, unanswered
from headrace.server.door import Route
from headrace.server.head import BadFraming
from headrace.server.reply import Reply
from headrace.server.status import ConnectionEnds, MethodNotAllowed, Status, message_of, status_of
from headrace.serving.served import Served

_log = logging.getLogger("headrace.server")


def refusal(
    error: BaseException,
    path: str,
    request_id: str,
    served: Served | None = None,
    *,
    compat: Compat = Compat.headrace,
    route: Route | None = None,
) -> Reply:
    """In the form of the API that `path` belongs to, and the words of `compat`. What is our failure, or the model's, is
    logged.

    `served`: the model it was for, where that is known; `route`: what was asked for.
    """
    status = status_of(error)
    about = of_request(request_id, None if served is None else f"{served.name}:{served.version}")
    if status.code in (500, 507):  # %r: the path is the client's, and may have a line break in it
        _log.error("%r failed", path, exc_info=error, extra=about)
    else:
        _log.debug("%r was answered with %d: %r", path, status.code, str(error), extra=about)
    message, allow = message_of(error, request_id), error.allowed if isinstance(error, MethodNotAllowed) else None
    if compat is not Compat.headrace:
        name = served.name if served is not None else route.name if route is not None else ""
        version = None if route is None else route.version
        status, message = unanswered(compat, error, status, message, name, version)
        if compat.is_old and status.code == 413:
            return Reply(b"", None, status.code)  # their HTTP layer says no more
    return error_reply(path, status, message, allow=allow, v2=not compat.is_old)


def error_reply(path: str, status: Status, message: str, *, allow: str | None = None, v2: bool = True) -> Reply:
    """In the form of the API that `path` belongs to. `allow`: the verbs it takes. `v2`: that protocol has a form of its
    own."""
    if v2 and (path == "/v2" or path.startswith("/v2/")):
        body = orjson.dumps({"error": message.encode(errors="replace").decode()})
    else:
        body = torchserve.error_body(status.code, status.type, message)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if status.retry_after is not None:
        headers = ((b"retry-after", str(status.retry_after).encode()),)
    if allow is not None:
        headers = ((b"allow", allow.encode()),)
    return Reply(body, status=status.code, headers=headers)


def ends_the_connection(error: BaseException) -> bool:
    """Whether what still comes must not be read as the next request."""
    return isinstance(error, BadFraming | TooSlow | ConnectionEnds)
