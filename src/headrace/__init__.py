"""Headrace: concurrent inference for Python.

    import headrace as hr
    model = hr.compile_model("resnet18.onnx", scheduler="multi_stream")
    y = model(x)

Importing this starts nothing and loads no runtime: each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from headrace.version import __version__ as __version__

if TYPE_CHECKING:
    from headrace.client.manage import manage as manage
    from headrace.engine.completion import as_completed as as_completed
    from headrace.engine.dependencies import Var as Var
    from headrace.engine.engine import Engine as Engine
    from headrace.engine.future import Future as Future
    from headrace.engine.naive import NaiveEngine as NaiveEngine
    from headrace.engine.ownership import default_engine as default_engine
    from headrace.engine.ownership import waitall as waitall
    from headrace.engine.scheduler import Scheduler as Scheduler
    from headrace.errors import AccessDenied as AccessDenied
    from headrace.errors import AlreadyRegistered as AlreadyRegistered
    from headrace.errors import ArchiveTooLarge as ArchiveTooLarge
    from headrace.errors import BackendError as BackendError
    from headrace.errors import BackendNotInstalled as BackendNotInstalled
    from headrace.errors import Cancelled as Cancelled
    from headrace.errors import CannotLoad as CannotLoad
    from headrace.errors import Closed as Closed
    from headrace.errors import DeadlineExceeded as DeadlineExceeded
    from headrace.errors import DeviceNotFound as DeviceNotFound
    from headrace.errors import DownloadFailed as DownloadFailed
    from headrace.errors import HeadraceError as HeadraceError
    from headrace.errors import InvalidArchive as InvalidArchive
    from headrace.errors import InvalidEnvironment as InvalidEnvironment
    from headrace.errors import InvalidInput as InvalidInput
    from headrace.errors import InvalidModel as InvalidModel
    from headrace.errors import InvalidOption as InvalidOption
    from headrace.errors import IsDefaultVersion as IsDefaultVersion
    from headrace.errors import ModelNotFound as ModelNotFound
    from headrace.errors import ModelNotReady as ModelNotReady
    from headrace.errors import NoAnswer as NoAnswer
    from headrace.errors import NotEnoughCores as NotEnoughCores
    from headrace.errors import OutOfMemory as OutOfMemory
    from headrace.errors import Overloaded as Overloaded
    from headrace.errors import PoisonedVar as PoisonedVar
    from headrace.errors import RequestError as RequestError
    from headrace.errors import ResponseTimeout as ResponseTimeout
    from headrace.errors import SequenceLost as SequenceLost
    from headrace.errors import SequenceRefused as SequenceRefused
    from headrace.errors import SetupError as SetupError
    from headrace.errors import SourceNotFound as SourceNotFound
    from headrace.errors import StillBusy as StillBusy
    from headrace.errors import TooLarge as TooLarge
    from headrace.errors import TooSlow as TooSlow
    from headrace.errors import Unavailable as Unavailable
    from headrace.errors import Unreachable as Unreachable
    from headrace.errors import UnsafeArchive as UnsafeArchive
    from headrace.errors import UrlNotAllowed as UrlNotAllowed
    from headrace.errors import WorkerDied as WorkerDied
    from headrace.errors import WouldDeadlock as WouldDeadlock
    from headrace.model.model import Model as Model
    from headrace.tensor import TensorSpec as TensorSpec
    from headrace.workers.compile import compile_model as compile_model

_WHERE = {
    "as_completed": "engine.completion",
    "compile_model": "workers.compile",
    "default_engine": "engine.ownership",
    "Engine": "engine.engine",
    "Future": "engine.future",
    "manage": "client.manage",
    "Model": "model.model",
    "NaiveEngine": "engine.naive",
    "Scheduler": "engine.scheduler",
    "TensorSpec": "tensor",
    "Var": "engine.dependencies",
    "waitall": "engine.ownership",
}
_ERRORS = (
    "HeadraceError",
    "RequestError",
    "InvalidInput",
    "TooLarge",
    "TooSlow",
    "ModelNotFound",
    "AccessDenied",
    "SetupError",
    "InvalidOption",
    "AlreadyRegistered",
    "IsDefaultVersion",
    "InvalidModel",
    "InvalidArchive",
    "InvalidEnvironment",
    "UnsafeArchive",
    "ArchiveTooLarge",
    "SourceNotFound",
    "UrlNotAllowed",
    "DownloadFailed",
    "CannotLoad",
    "BackendNotInstalled",
    "DeviceNotFound",
    "NotEnoughCores",
    "Unavailable",
    "Overloaded",
    "ModelNotReady",
    "DeadlineExceeded",
    "Closed",
    "WorkerDied",
    "ResponseTimeout",
    "StillBusy",
    "SequenceRefused",
    "SequenceLost",
    "Unreachable",
    "NoAnswer",
    "BackendError",
    "OutOfMemory",
    "PoisonedVar",
    "WouldDeadlock",
    "Cancelled",
)
_WHERE.update(dict.fromkeys(_ERRORS, "errors"))

__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"headrace.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
