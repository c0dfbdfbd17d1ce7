"""What a management API refuses, as our errors: the other way round of the server's table. Pure.

Rule 1: the status and the type decide, as they are the contract; the message only where one type says several things.
Rule 2: the message of the error is what the server said, word for word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeVar

from headrace.errors import (
    AccessDenied,
    AlreadyRegistered,
    BackendError,
    CannotLoad,
    Closed,
    DeadlineExceeded,
    DownloadFailed,
    HeadraceError,
    InvalidModel,
    InvalidOption,
    IsDefaultVersion,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    RequestError,
    SourceNotFound,
    StillBusy,
    TooLarge,
    Unavailable,
    UrlNotAllowed,
)

E = TypeVar("E", bound=HeadraceError)
_REGISTERED = re.compile(r"Model version (\S+) is already registered for model (.+)")
_FAILED = re.compile(r"Failed to start workers for model (.+?) version: (\S+?)(?:: (.*))?$", re.DOTALL)
_BUSY = re.compile(r"too busy: ([\d,]+) (.+?) are inside, the bound is ([\d,]+)")
_NOT_READY = re.compile(r"model (.+):(\S+) is ([A-Z]+), not READY(?:: (.*))?$", re.DOTALL)
_NO_SOURCE = ("Model not found at", "Model not found in", "Relative path", "empty url")
_COULD_NOT_LOAD = ("failed to start workers", "failed to load", "system out of memory")


@dataclass(frozen=True)
class Subject:
    """What was asked for, as far as whoever asked knows. `timeout`: seconds for what is inside."""

    name: str = ""
    version: str = ""
    url: str = ""
    timeout: float = 0.0


NOTHING = Subject()
"""Nothing in particular."""


def error_of(code: int, kind: str, message: str, subject: Subject) -> HeadraceError:
    """The error that `{"code", "type", "message"}` stands for."""
    name, version, url = subject.name, subject.version, subject.url
    match kind:
        case "ModelNotFoundException" if message.startswith("Given URL"):
            return _made(UrlNotAllowed, message, url=url or message.split()[2])
        case "ModelNotFoundException" if url or message.startswith(_NO_SOURCE):
            return _made(SourceNotFound, message, source=url)
        case "ModelNotFoundException":
            return _made(ModelNotFound, message, name=name, version=None)
        case "ModelVersionNotFoundException":
            return _made(ModelNotFound, message, name=name, version=version or None)
        case "ConflictStatusException":
            found = _REGISTERED.match(message)
            version, name = found.groups() if found else (version, name)
            return _made(AlreadyRegistered, message, name=name, version=version)
        case "InvalidModelVersionException":
            return _made(IsDefaultVersion, message, name=name, version=version)
        case "InvalidModelException":
            return _made(InvalidModel, message)
        case "DownloadArchiveException" | "DownloadModelException":
            why = message.partition("(")[2].removesuffix(")") or message
            return _made(DownloadFailed, message, url=url, why=why)
        case "InvalidKeyException":
            return _made(AccessDenied, message)
        case "RequestEntityTooLargeException":
            return _made(TooLarge, message, limit=0, size=None)
        case "RequestTimeoutException" if code == 408:
            return _made(StillBusy, message, name=name, version=version, timeout=subject.timeout)
        case "RequestTimeoutException":
            return _made(DeadlineExceeded, message)
        case "ServiceUnavailableException":
            return _unavailable(message)
        case "InternalServerException" if code == 507 or message.lower().startswith(_COULD_NOT_LOAD):
            return _cannot_load(code, message, subject)
        case "InternalServerException":
            return _made(BackendError, message)
        case "BadRequestException" if code == 400:
            return _made(InvalidOption, message)
    return _made(Unavailable if code == 503 else RequestError if 400 <= code < 500 else HeadraceError, message)


def _unavailable(message: str) -> HeadraceError:
    busy, waits = _BUSY.match(message), _NOT_READY.match(message)
    if busy:
        inside, unit, limit = busy.groups()
        return _made(Overloaded, message, inside=_number(inside), limit=_number(limit), unit=unit)
    if waits:
        name, version, state, reason = waits.groups()
        return _made(ModelNotReady, message, name=name, version=version, state=state, reason=reason, retry_after=None)
    return _made(Closed if "stop" in message else Unavailable, message)


def _cannot_load(code: int, message: str, subject: Subject) -> CannotLoad:
    found = _FAILED.match(message)
    name, version, reason = found.groups() if found else (subject.name, subject.version, None)
    reason = reason or message.removeprefix("System out of memory: ")
    return _made(
        CannotLoad, message, name=name, version=version, reason=reason, out_of_memory=code == 507
    )  # fmt: skip


def _made(kind: type[E], message: str, **attributes: Any) -> E:
    """With the server's words in place of those its constructor would make up again."""
    error = kind.__new__(kind, message)
    error.args = (message,)
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


def _number(text: str) -> int:
    return int(text.replace(",", ""))
