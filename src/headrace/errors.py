"""What can go wrong.

HeadraceError
├── RequestError        the caller can mend the request:  InvalidInput, TooLarge, TooSlow, ModelNotFound,
│                                                         AccessDenied
├── SetupError          the caller can mend the set-up:   InvalidOption, InvalidModel, InvalidArchive,
│                                                         CannotLoad, InvalidEnvironment,
│                                                         AlreadyRegistered, IsDefaultVersion,
│                                                         UnsafeArchive, ArchiveTooLarge, SourceNotFound,
│                                                         UrlNotAllowed, DownloadFailed,
│                                                         BackendNotInstalled, DeviceNotFound, NotEnoughCores
├── Unavailable         later or elsewhere:               Overloaded, ModelNotReady, DeadlineExceeded, Closed,
│                                                         WorkerDied, ResponseTimeout, StillBusy,
│                                                         SequenceRefused, SequenceLost, Unreachable, NoAnswer
├── BackendError        the model or its runtime failed; `__cause__` says how. OutOfMemory
├── PoisonedVar         an operation read a Var whose last writer failed; `origin` is that failure
├── WouldDeadlock       the wait could never end, so it was not begun
└── Cancelled           the work was cancelled; also a `concurrent.futures.CancelledError`

Messages are for people: what was expected, what came, what to do. What a program needs is in the attributes.
Nothing here knows of HTTP: `server.status` holds the one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import Any

from headrace.wording import are, count_of, were


class HeadraceError(Exception):
    """Everything Headrace raises on purpose."""


class RequestError(HeadraceError):
    """The request cannot be served as it is; the caller can mend it."""


class InvalidInput(RequestError, ValueError):
    """An input has the wrong name, count, dtype, shape or form. Nothing has reached the runtime."""


class TooLarge(RequestError):
    """A body or a tensor is over a limit. `limit` and `size` are in bytes; `size` is None where it is not known."""

    def __init__(self, what: str, *, limit: int, size: int | None = None) -> None:
        came = f"{size:,} bytes came" if size is not None else "more came"
        super().__init__(f"{what} may have at most {limit:,} bytes, {came}")
        self.limit, self.size = limit, size


class TooSlow(RequestError, TimeoutError):
    """A body did not come within `limit` seconds of its headers."""

    def __init__(self, limit: float) -> None:
        super().__init__(f"the body of a request must be here {limit:g} s after its headers; it was not")
        self.limit = limit


class ModelNotFound(RequestError, LookupError):
    def __init__(self, name: str, version: str | None = None) -> None:
        which = f"{name}:{version}" if version is not None else name
        super().__init__(f"model not found: {which}")
        self.name, self.version = name, version


class AccessDenied(RequestError, PermissionError):
    """A server wants a token: none was given, or another than it wants, or one that has expired."""


class SetupError(HeadraceError):
    """A model, an option or the machine is not what was asked for; nothing was started."""


class InvalidOption(SetupError, ValueError):
    """An option has a value it cannot have."""


class InvalidModel(SetupError, ValueError):
    """The model is missing, corrupt or not of a kind its backend loads."""


class InvalidArchive(InvalidModel):
    """The archive is missing something, or something in it is not as its format says. `fault`: NO_JSON, NO_MANIFEST,
    where it is one of these."""

    def __init__(self, message: str, fault: str | None = None) -> None:
        super().__init__(message)
        self.fault = fault


NO_JSON, NO_MANIFEST = "no JSON", "no manifest"


class CannotLoad(InvalidModel):
    """A registered model was to have workers, and could not be loaded; `__cause__` says why. `out_of_memory`: for want
    of memory."""

    def __init__(self, name: str, version: str, reason: str, *, out_of_memory: bool = False) -> None:
        super().__init__(f"model {name}:{version} cannot be loaded: {reason}")
        self.name, self.version, self.reason, self.out_of_memory = name, version, reason, out_of_memory


class InvalidEnvironment(SetupError):
    """An environment of a model's own is missing, cannot run a worker, or could not be built. `path`: where it is."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


class AlreadyRegistered(InvalidOption):
    """There is a model of that name and version."""

    def __init__(self, name: str, version: str) -> None:
        super().__init__(f"Model version {version} is already registered for model {name}")
        self.name, self.version = name, version


class IsDefaultVersion(InvalidOption):
    """The default version goes last: requests that name none would go nowhere."""

    def __init__(self, name: str, version: str) -> None:
        super().__init__(
            f"Cannot remove default version for model {name}: {version} is the default, and there are others; set "
            "another default first"
        )
        self.name, self.version = name, version


class UnsafeArchive(InvalidArchive):
    """An entry of the archive would lead out of its folder, or is of a kind that has no place in one."""


class ArchiveTooLarge(InvalidArchive):
    """The archive holds more than it may. `limit` counts `unit`: files, bytes, times (its own size), or bytes of
    headers."""

    def __init__(self, archive: str, *, limit: int, unit: str, mend: str) -> None:
        super().__init__(f"{archive} holds more than {limit:,} {unit}; nothing of it was kept. {mend}")
        self.limit, self.unit = limit, unit


class SourceNotFound(InvalidModel, LookupError):
    """There is no such file or folder in the model store, or it may not be named so. `source` is what was asked for."""

    def __init__(self, message: str, source: str) -> None:
        super().__init__(message)
        self.source = source


class UrlNotAllowed(InvalidModel):
    """The URL, or one it redirects to, matches no pattern of the allow-list. `url` is the one that does not."""

    def __init__(self, url: str) -> None:
        super().__init__(f"Given URL {url} does not match any allowed URL(s)")
        self.url = url


class DownloadFailed(InvalidModel):
    """What is at `url` could not be had, or not whole: a refusal, a limit, another checksum. `why` says which."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"Failed to download archive from: {url} ({why})")
        self.url, self.why = url, why


class BackendNotInstalled(SetupError, ImportError):
    """The backend's package cannot be imported. `backend` names it."""

    def __init__(self, backend: str, install: str) -> None:
        super().__init__(f"backend {backend!r} needs a package that is not installed; install it with: {install}")
        self.backend = backend


class DeviceNotFound(SetupError, LookupError):
    """There is no such device here. `device` is what was asked for, `devices` are the names of those there are."""

    def __init__(self, device: str, devices: Sequence[str], listed: str) -> None:
        super().__init__(f"there is no device {device!r} here; choose from: {listed}")
        self.device, self.devices = device, tuple(devices)


class NotEnoughCores(SetupError):
    """More cores were asked for than are free. `wanted` and `free` are counts."""

    def __init__(self, wanted: int, free: int, why: str) -> None:
        super().__init__(f"{count_of(wanted, 'core')} {were(wanted)} asked for, {free:,} {are(free)} free: {why}")
        self.wanted, self.free = wanted, free


class Unavailable(HeadraceError):
    """Not now, or not here. The same request may succeed later or elsewhere."""


class Overloaded(Unavailable):
    """The bound on what may be inside is reached. `inside` and `limit` count `unit` (requests or bytes)."""

    def __init__(self, inside: int, limit: int, unit: str = "requests") -> None:
        super().__init__(f"too busy: {inside:,} {unit} are inside, the bound is {limit:,}; try again later")
        self.inside, self.limit, self.unit = inside, limit, unit


class ModelNotReady(Unavailable):
    """`version` None: it has none. `retry_after`: seconds until it may be, where that is known."""

    def __init__(
        self, name: str, version: str | None, state: str, reason: str | None = None, retry_after: float | None = None
    ) -> None:
        because = f": {reason}" if reason else ""
        super().__init__(f"model {name}{f':{version}' if version else ''} is {state}, not READY{because}")
        self.name, self.version, self.state, self.reason = name, version, state, reason
        self.retry_after = retry_after


class DeadlineExceeded(Unavailable, TimeoutError):
    """The deadline passed before the work was started; it was not run."""


class Closed(Unavailable):
    """The engine or the model was closed."""


class WorkerDied(Unavailable):
    """The worker process that had begun the request ended before it answered. `model`: what it ran. `how`: it ended."""

    def __init__(self, model: str, how: str) -> None:
        super().__init__(f"a worker of model {model} {how}, while it ran this request")
        self.model, self.how = model, how


class ResponseTimeout(Unavailable, TimeoutError):
    """A run took longer than its model's `response_timeout`, in seconds, and was ended. `stack`: where it hung, where
    that could be found out."""

    def __init__(self, model: str, timeout: float, stack: str = "") -> None:
        super().__init__(f"model {model} did not answer within {timeout:g} s, and was ended")
        self.model, self.timeout, self.stack = model, timeout, stack


class SequenceRefused(Unavailable):
    """The request belongs to a sequence that is not open, or it is one sequence or one request too many. `why` says
    which. `model`, `sequence`: their names."""

    def __init__(self, model: str, sequence: str, why: str) -> None:
        # TorchServe's words, by which clients know it, and then what it was.
        super().__init__(
            f'Model "{model}" has no worker to serve inference request. Please use scale workers API to add workers. '
            "If this is a sequence inference, please check if it is closed, or expired; or exceeds "
            f"maxSequenceJobQueueSize. Sequence {sequence:.200}: {why}"
        )
        self.model, self.sequence, self.why = model, sequence, why


class SequenceLost(Unavailable):
    """The worker process that knew the sequence has ended, and its state is gone. Begin the sequence anew."""

    def __init__(self, model: str, sequence: str) -> None:
        super().__init__(
            f"sequence {sequence:.200} of model {model} is lost: the worker process that had its state has ended; "
            "begin it anew, with its first request"
        )
        self.model, self.sequence = model, sequence


class StillBusy(Unavailable, TimeoutError):
    """A model was to be unloaded, and what is inside did not end within `timeout` seconds. It serves on."""

    def __init__(self, name: str, version: str, timeout: float) -> None:
        super().__init__(
            f"Timed out while cleaning resources: {name}: requests to version {version} did not end within "
            f"{timeout:g} s; it serves on"
        )
        self.name, self.version, self.timeout = name, version, timeout


class Unreachable(Unavailable, ConnectionError):
    """Nothing answers at `url`, or nothing that speaks as a server of ours. `why` says which."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"no management API at {url}: {why}")
        self.url, self.why = url, why


class NoAnswer(Unavailable, TimeoutError):
    """A server did not answer, or end what it was asked for, within `timeout` seconds. It may still be at it."""

    def __init__(self, what: str, timeout: float) -> None:
        super().__init__(f"{what}: no answer within {timeout:g} s; the server may still be at it")
        self.what, self.timeout = what, timeout


class BackendError(HeadraceError):
    """The model or its runtime failed. `__cause__` is what it raised, where it raised anything."""


class OutOfMemory(BackendError):
    """A run needed more memory than its worker may have. `limit`: its `memory_limit`, in bytes."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"the model raised {what}: its worker may have {limit:,} bytes (memory_limit)")
        self.limit = limit


class PoisonedVar(HeadraceError):
    """An operation was not run, because the last writer of a Var it reads failed. `origin` is that failure."""

    def __init__(self, name: str, origin: BaseException) -> None:
        super().__init__(name, origin)
        self.name, self.origin = name, origin

    def __str__(self) -> str:
        # Not before somebody asks: what an error of the user's own says of itself is the user's code, and a lock is
        # held where this is made. It may also be of a kind that cannot be shown; that must not hide the rest.
        try:
            said = "; ".join([repr(self.origin), *map(str, getattr(self.origin, "__notes__", ()))])
        except Exception:
            said = type(self.origin).__name__
        return f"not run: its input {self.name} was to be written by an operation that failed ({said})"


class WouldDeadlock(HeadraceError, RuntimeError):
    """Waiting here could never end: the one who waits is the one who would have to do something first.

    `futures`: the results that fill the engine and that nobody but the caller can read, where that is why.
    """

    def __init__(self, message: str, futures: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.futures = tuple(futures)


class Cancelled(HeadraceError, CancelledError):
    """The work was cancelled before it had an outcome."""
