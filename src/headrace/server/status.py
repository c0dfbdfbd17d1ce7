"""The one table from our errors to what a client is told. Nothing else in the project knows a status code.

`type` is the exception's simple name in TorchServe's and MMS's error bodies. What the model itself raised is for the
operator: the client hears that it failed and under which request id, the log has the traceback.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from headrace.errors import (
    AlreadyRegistered,
    BackendError,
    BackendNotInstalled,
    CannotLoad,
    Closed,
    DeadlineExceeded,
    DownloadFailed,
    HeadraceError,
    InvalidEnvironment,
    InvalidInput,
    InvalidModel,
    InvalidOption,
    IsDefaultVersion,
    ModelNotFound,
    ModelNotReady,
    NotEnoughCores,
    OutOfMemory,
    Overloaded,
    RequestError,
    ResponseTimeout,
    SequenceLost,
    SequenceRefused,
    SourceNotFound,
    StillBusy,
    TooLarge,
    TooSlow,
    Unavailable,
    UrlNotAllowed,
    WorkerDied,
)


@dataclass(frozen=True, slots=True)
class Status:
    code: int
    type: str
    retry_after: int | None = None
    """Seconds after which trying again may help."""


TABLE: dict[type[BaseException], Status] = {
    RequestError: Status(400, "BadRequestException"),
    InvalidInput: Status(400, "BadRequestException"),
    TooLarge: Status(413, "RequestEntityTooLargeException"),
    TooSlow: Status(408, "RequestTimeoutException"),
    ModelNotFound: Status(404, "ModelNotFoundException"),
    Overloaded: Status(429, "ServiceUnavailableException", retry_after=1),
    ModelNotReady: Status(503, "ServiceUnavailableException", retry_after=1),
    Closed: Status(503, "ServiceUnavailableException", retry_after=1),
    DeadlineExceeded: Status(504, "RequestTimeoutException"),
    ResponseTimeout: Status(504, "RequestTimeoutException"),
    WorkerDied: Status(503, "ServiceUnavailableException", retry_after=1),
    SequenceRefused: Status(503, "ServiceUnavailableException", retry_after=1),
    SequenceLost: Status(503, "ServiceUnavailableException", retry_after=1),
    Unavailable: Status(503, "ServiceUnavailableException", retry_after=1),
    OutOfMemory: Status(507, "InternalServerException"),
    BackendError: Status(500, "InternalServerException"),
    HeadraceError: Status(500, "InternalServerException"),
}
MANAGING: dict[type[BaseException], Status] = {
    InvalidOption: Status(400, "BadRequestException"),
    NotEnoughCores: Status(400, "BadRequestException"),
    BackendNotInstalled: Status(400, "InvalidModelException"),
    InvalidModel: Status(400, "InvalidModelException"),
    InvalidEnvironment: Status(400, "InvalidModelException"),
    SourceNotFound: Status(404, "ModelNotFoundException"),
    UrlNotAllowed: Status(404, "ModelNotFoundException"),
    DownloadFailed: Status(400, "DownloadArchiveException"),
    CannotLoad: Status(500, "InternalServerException"),
    StillBusy: Status(408, "RequestTimeoutException"),
    AlreadyRegistered: Status(409, "ConflictStatusException"),
    IsDefaultVersion: Status(403, "InvalidModelVersionException"),
}
"""Where a manager is told; elsewhere these are nobody's fault but ours. `compat` has what the old servers say of
some."""
UNEXPECTED = Status(500, "InternalServerException")


class NotFound(Exception):
    """No such route."""


class MethodNotAllowed(Exception):
    """The route has other methods. `allowed` lists them."""

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(f"{path} takes {allowed}, not {method}")
        self.allowed = allowed


class InvalidToken(Exception):
    """The request has no token, or not the one that is wanted, or one that has expired."""

    def __init__(self) -> None:
        super().__init__("Token Authorization failed. Token either incorrect, expired, or not provided correctly")


class NoWorkerToAsk(ModelNotReady):
    """Nobody could be asked what the handler says of itself."""


class ConnectionEnds(Exception):
    """What came is not HTTP as we take it; what comes after it cannot be read. `code` is the status that says why."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


_OF_CONNECTIONS = {
    400: Status(400, "BadRequestException"),
    408: Status(408, "RequestTimeoutException"),
    414: Status(414, "UriTooLongException"),
    417: Status(417, "ExpectationFailedException"),
    431: Status(431, "RequestHeaderFieldsTooLargeException"),
    503: Status(503, "ServiceUnavailableException", retry_after=1),
    505: Status(505, "HttpVersionNotSupportedException"),
}

TABLE[NotFound] = Status(404, "ResourceNotFoundException")
TABLE[InvalidToken] = Status(400, "InvalidKeyException")
TABLE[MethodNotAllowed] = Status(405, "MethodNotAllowedException")


_WHY = {
    202: "It has begun; `location` says where to look how it goes",
    400: "The request is not what is taken here; the message says what was expected and what came",
    403: "The default version goes last; or a page of another origin asked",
    404: "There is no such model, version or route",
    405: "Another verb is taken here",
    408: "The request did not come in time; or what was inside a model did not end in time",
    409: "It is registered already",
    413: "The body is too large",
    414: "The target is too long",
    417: "100-continue is all that can be expected",
    429: "Too busy: try again later",
    431: "The headers are too many or too large",
    500: "The model failed, or the server did",
    503: "Not ready, stopping, or too many connections: try again later",
    504: "The deadline has passed",
    505: "HTTP/1.1 and HTTP/1.0 are spoken here",
    507: "There is not enough memory to load it, or for what was asked of it",
}


def codes(*, model: bool, body: bool) -> dict[int, str]:
    """What a request can be refused with, and why: one that names a `model`, one whose `body` is wanted."""
    found = {*(status.code for status in _OF_CONNECTIONS.values()), TABLE[MethodNotAllowed].code, UNEXPECTED.code}
    if model:
        found |= {TABLE[ModelNotFound].code, TABLE[ModelNotReady].code}
    if body:
        found |= {status.code for status in TABLE.values()}
    return {code: _WHY[code] for code in sorted(found)}


def codes_of_managing(*, change: bool) -> dict[int, str]:
    """As `codes`, of what managers ask for: a `change`, or only a look."""
    found = {*codes(model=True, body=True)}
    if change:
        found |= {status.code for status in MANAGING.values()} | {507}
    return {code: _WHY[code] for code in sorted(found)}


def status_of(error: BaseException) -> Status:
    if isinstance(error, ConnectionEnds):
        return _OF_CONNECTIONS[error.code]
    if isinstance(error, ModelNotReady) and error.retry_after is not None:
        return replace(TABLE[ModelNotReady], retry_after=max(1, math.ceil(error.retry_after)))
    return next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), UNEXPECTED)


def status_of_managing(error: BaseException) -> Status:
    kinds = type(error).__mro__
    return next((found for kind in kinds if (found := MANAGING.get(kind) or TABLE.get(kind)) is not None), UNEXPECTED)


def reason_of(error: BaseException) -> str:
    """Its kind in the table: what refusals are counted by."""
    if isinstance(error, ConnectionEnds):
        return "ConnectionEnds"
    return next((kind.__name__ for kind in type(error).__mro__ if kind in TABLE), "Unexpected")


def message_of(error: BaseException, request_id: str) -> str:
    """What the client reads. Never a path, an address or a traceback of ours or of the model's."""
    code = status_of(error).code
    if isinstance(error, BackendError) and error.__cause__ is not None:
        kind = type(error.__cause__).__name__
        return f"the model failed with {kind}; the server's log says more under request id {request_id}"
    if code == 500 and not isinstance(error, BackendError):
        return f"internal error; the server's log says more under request id {request_id}"
    if isinstance(error, ModelNotReady):  # its reason is for the operator: it may name files
        return str(ModelNotReady(error.name, error.version, error.state))
    return str(error)
