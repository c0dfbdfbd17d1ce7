"""What Multi Model Server, TorchServe and Triton say of the same thing where they differ. Pure.

Rule 1: which one is spoken is one option (`--compat`). Headrace speaks TorchServe, adds the reason where TorchServe
        has none, and says 400 of what the caller can mend and 429 of what is too busy.
"""

from __future__ import annotations

import enum
import re

from headrace.archives.demands import HANDLER, RUNTIME, SIGNATURE, VERSION
from headrace.errors import (
    NO_JSON,
    NO_MANIFEST,
    AlreadyRegistered,
    BackendError,
    CannotLoad,
    Closed,
    DeadlineExceeded,
    DownloadFailed,
    InvalidArchive,
    InvalidInput,
    InvalidOption,
    IsDefaultVersion,
    ModelNotFound,
    OutOfMemory,
    Overloaded,
    ResponseTimeout,
    SourceNotFound,
    StillBusy,
    Unavailable,
    WorkerDied,
)
from headrace.server.status import ConnectionEnds, MethodNotAllowed, NotFound, NoWorkerToAsk, Status, status_of_managing

PROCESSING = "Processing worker updates..."
SCALING = "Workers scaling in progress..."
_FAILED = "InternalServerException"
_PLEASE_SCALE = "Please use scale workers API to add workers."
_NO_NAME = "Parameter model_name is required"
_OLD_NOT_FOUND = "Requested resource is not found, please refer to API document."
_OLD_NOT_ALLOWED = "Requested method is not allowed, please refer to API document."


class Compat(enum.StrEnum):
    headrace = "headrace"
    torchserve = "torchserve"
    mms = "mms"
    triton = "triton"

    @property
    def is_old(self) -> bool:
        """Word for word as the server of that name."""
        return self in (Compat.torchserve, Compat.mms)

    @property
    def closes_from(self) -> int:
        """The least status with which the connection ends. The old servers let nobody go on after an error."""
        return 400 if self.is_old else 1000


DEMANDS = {Compat.torchserve: frozenset((VERSION, RUNTIME, SIGNATURE)), Compat.mms: frozenset((HANDLER, SIGNATURE))}
"""What archives that managers register have to say."""
_PATH = re.compile(r"(?<![\w:/.~-])/(?:[^\s/'\"`,:;()]+/)*([^\s/'\"`,:;()]+)")


def registered(compat: Compat, name: str, version: str, workers: int) -> str:
    if compat is Compat.mms:
        return "Workers scaled" if workers else f'Model "{name}" registered'
    if workers:
        return f'Model "{name}" Version: {version} registered with {workers} initial workers'
    return (
        f'Model "{name}" Version: {version} registered with 0 initial workers. Use scale workers API to add workers '
        "for the model."
    )


def scaled(compat: Compat, name: str, version: str | None, workers: int) -> str:
    """`version`: where one was asked for."""
    if compat is Compat.mms:
        return "Workers scaled"
    return f"Workers scaled to {workers} for model: {name}" + (f", version: {version}" if version else "")


def unregistered(name: str) -> str:
    return f'Model "{name}" unregistered'


def default_set(name: str, version: str) -> str:
    return f'Default version successfully updated for model "{name}" to "{version}"'


def changed(name: str, version: str) -> str:
    return f'Settings of model "{name}" Version: {version} changed'


def partly_up(compat: Compat) -> tuple[int, bytes]:
    """(status, reason phrase) where the time was up before all workers were."""
    return (210, b"Partial Success") if compat is Compat.mms else (206, b"Partial Content")


def no_worker(compat: Compat, name: str, version: str | None) -> str:
    """Too many requests, or no worker: they do not tell these apart."""
    if compat is Compat.mms:
        return f"No worker is available to serve request for model: {name}. Consider increasing job queue size."
    which = f'Model "{name}' + (f'" Version {version}' if version else "")  # the second quote is theirs
    return (
        f'{which}" has no worker to serve inference request. {_PLEASE_SCALE} If this is a sequence inference, please '
        "check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
    )


def unanswered(
    compat: Compat, error: BaseException, status: Status, message: str, name: str, version: str | None
) -> tuple[Status, str]:
    """(status and type, message) of a request to a model that was not answered as it wished. `status`, `message`: our
    own; `name`: of the model, as far as it is known; `version`: that was asked for."""
    if not compat.is_old:
        if isinstance(error, Overloaded) and compat is Compat.triton:
            return Status(503, status.type, status.retry_after), "Exceeds maximum queue size"
        return status, message
    if isinstance(error, ModelNotFound):
        return _not_found(compat, error, status, False)
    if isinstance(error, NotFound):
        return status, _OLD_NOT_FOUND
    if isinstance(error, MethodNotAllowed):
        return status, _OLD_NOT_ALLOWED
    if isinstance(error, OutOfMemory):
        return Status(507, _FAILED), "Out of resources"
    if isinstance(error, BackendError):
        return Status(503, _FAILED), "Prediction failed"
    if isinstance(error, WorkerDied | ResponseTimeout):
        killed = isinstance(error, WorkerDied) and "SIGKILL" in error.how
        return Status(507 if killed else 500, _FAILED), "Worker died."
    if isinstance(error, Closed | DeadlineExceeded):
        return status, message
    if isinstance(error, ConnectionEnds) and status.code == 400:
        return status, "Invalid HTTP message."
    if isinstance(error, InvalidInput) and message.startswith(_NO_NAME):
        return status, f"{_NO_NAME}."
    if isinstance(error, Unavailable):
        return Status(503, "ServiceUnavailableException", status.retry_after), no_worker(compat, name, version)
    return status, message


def without_folders(message: str, url: str = "") -> str:
    """Where things lie here is nobody's business: of a path its last part is left. What was asked for, `url`, stays."""
    return _PATH.sub(lambda found: found[0] if url and found[0] in url else found[1], message)


def refused(
    compat: Compat, error: BaseException, *, setting_default: bool = False, url: str = ""
) -> tuple[Status, str]:
    """(status and type, message) of what a manager asked for and did not get. `setting_default`: that was asked for;
    `url`: of the model that was to be registered. The old servers name no folder of ours."""
    status, message = _refused(compat, error, setting_default, url)
    return status, without_folders(message, url) if compat.is_old else message


def _refused(compat: Compat, error: BaseException, setting_default: bool, url: str) -> tuple[Status, str]:
    status = status_of_managing(error)
    old = compat.is_old
    if isinstance(error, ModelNotFound):
        return _not_found(compat, error, status, setting_default)
    if isinstance(error, NoWorkerToAsk):
        said = f'Model "{error.name}" has no worker to serve describe request. {_PLEASE_SCALE}'
        return status, said if old else f"{said} It is {error.state}."
    if isinstance(error, BackendError) and old:
        return Status(503, _FAILED), "Prediction failed"
    if isinstance(error, CannotLoad):
        return _cannot_load(compat, error, status)
    if isinstance(error, SourceNotFound) and old and str(error).startswith("Invalid model url"):
        if compat is Compat.mms:
            return status, f"Invalid model url: {url or error.source:.200}"
        return status_of_managing(
            DownloadFailed("", "")
        ), f"Failed to download archive from: {url or error.source:.200}"
    if isinstance(error, SourceNotFound):
        if not old or not str(error).startswith("Model not found"):
            return status, str(error)
        where = "Model not found in model store" if compat is Compat.mms else "Model not found at"
        return status, f"{where}: {url or error.source:.200}"
    if isinstance(error, DownloadFailed) and old:
        mms = compat is Compat.mms
        kind = Status(status.code, "DownloadModelException") if mms else status
        code = f", {error.why}" if mms and error.why.startswith("code: ") else ""
        return kind, f"Failed to download {'model' if mms else 'archive'} from: {error.url}{code}"
    if isinstance(error, InvalidArchive) and old and error.fault == NO_JSON:
        return status, "Failed to parse signature.json."  # whatever file it is
    if isinstance(error, InvalidArchive) and old and error.fault == NO_MANIFEST:
        mms = compat is Compat.mms
        return status, "Model handler is not defined." if mms else "Missing Model entry in manifest file."
    if isinstance(error, AlreadyRegistered) and compat is Compat.mms:
        return status, f"Model {error.name} is already registered."
    if isinstance(error, IsDefaultVersion) and old:
        return status, f"Cannot remove default version for model {error.name}"
    if isinstance(error, StillBusy) and old:
        return status, f"Timed out while cleaning resources: {error.name}"
    if isinstance(error, Overloaded) and old:
        return Status(503, status.type, status.retry_after), str(error)
    if isinstance(error, NotFound) and old:
        return status, _OLD_NOT_FOUND
    if isinstance(error, MethodNotAllowed) and old:
        return status, _OLD_NOT_ALLOWED
    if isinstance(error, InvalidOption) and old and "is counted from 0 up" in str(error):
        return Status(500, "InternalServerException"), str(error)  # as their own tests want it
    return status, str(error)


def _not_found(compat: Compat, error: ModelNotFound, status: Status, setting_default: bool) -> tuple[Status, str]:
    if error.version is None or compat is Compat.mms:
        return status, f"Model not found: {error.name}"
    kind = Status(status.code, "ModelVersionNotFoundException")
    if setting_default:
        return kind, f"Model version {error.version} does not exist for model {error.name}"
    return kind, f"Model version: {error.version} does not exist for model: {error.name}"


def _cannot_load(compat: Compat, error: CannotLoad, status: Status) -> tuple[Status, str]:
    if error.out_of_memory:
        return Status(507, "InternalServerException"), _because(compat, "System out of memory", error.reason)
    if compat is Compat.triton:
        return Status(400, status.type), f"failed to load '{error.name}': {error.reason}"
    if compat is Compat.mms:
        return status, "Failed to start workers"
    return status, _because(
        compat, f"Failed to start workers for model {error.name} version: {error.version}", error.reason
    )


def _because(compat: Compat, message: str, reason: str) -> str:
    return message if compat.is_old else f"{message}: {reason}"
