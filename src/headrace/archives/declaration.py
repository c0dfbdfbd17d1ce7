"""What an archive that we write says of itself, and which files have no place in it.

Rule 1: key by key what `torch-model-archiver` 0.12 and `model-archiver` 1.0 write, in their order, so that both servers
        read it. Files are named by their last part, because they lie at the top.
Rule 2: nothing is looked up on disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from headrace.archives.manifest import NAME, VERSION
from headrace.errors import InvalidOption
from headrace.version import __version__

FORMATS = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}
"""How an archive is packed, and what its name ends with."""
BUILT_IN = {
    *("base_handler", "image_classifier", "image_segmenter", "object_detector", "text_classifier"),
    *("dali_image_classifier", "vllm_handler", "trt_llm_handler"),
}
"""Handlers by name alone: nothing is packed for them."""
OURS = {"tensor"}
"""Those that the servers before us do not have: there, and where there is a file, it means a file."""
BUILT_IN_LSP = {"BaseHandler", "TorchScriptHandler"}
_LEFT_OUT_FOLDERS = {"__MACOSX", "__pycache__"}


def torchserve_manifest(
    *,
    name: str,
    version: str,
    handler: str,
    created: datetime,
    serialized_file: str | None = None,
    model_file: str | None = None,
    requirements_file: str | None = None,
    config_file: str | None = None,
    runtime: str = "python",
) -> dict[str, Any]:
    """As `torch-model-archiver` writes it. Raises InvalidOption."""
    _check_name(name)
    if not version:
        raise InvalidOption("--version is what the model's version is called, such as 1.0; it cannot be empty")
    if not VERSION.fullmatch(version):
        raise InvalidOption(f"--version {version!r}: it is part of URLs, and has no slashes, nor blanks at an end")
    model = {
        "modelName": name,
        "serializedFile": _last(serialized_file),
        "handler": _last(handler),
        "modelFile": _last(model_file),
        "modelVersion": version,
        "requirementsFile": _last(requirements_file),
        "configFile": _last(config_file),
    }
    return {
        "createdOn": created.strftime("%d/%m/%Y %H:%M:%S"),
        "runtime": runtime,
        "model": {key: value for key, value in model.items() if value},
        "archiverVersion": f"headrace {__version__}",
    }


def mms_manifest(*, name: str, handler: str, runtime: str = "python") -> dict[str, Any]:
    """As `model-archiver` writes it. Raises InvalidOption."""
    _check_name(name)
    return {
        "runtime": runtime,
        "model": {"modelName": name, "handler": handler},
        "modelServerVersion": "1.0",
        "implementationVersion": "1.0",
        "specificationVersion": "1.0",
    }


def text_of(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=2)


def is_left_out(parts: Iterable[str]) -> bool:
    """Whether a file found in a folder, at this relative path, is none of the model's: hidden, or made by tools."""
    *folders, file = parts
    return (
        any(folder.startswith(".") or folder in _LEFT_OUT_FOLDERS for folder in folders)
        or file.startswith(".")
        or file.endswith(".pyc")
    )


def handler_file(handler: str, runtime: str = "python") -> str | None:
    """The file that `handler` means: `svc:handle`, `svc.py`, `src/svc.py:handle`. None: a built-in one."""
    file = handler.partition(":")[0]
    if runtime == "LSP":
        return None if handler in BUILT_IN_LSP else file.removesuffix(".so") + ".so"
    return None if handler in BUILT_IN else file.removesuffix(".py") + ".py"


def _last(path: str | None) -> str | None:
    return path.rpartition("/")[2] if path else None


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise InvalidOption(
            f"--model-name {name!r}: letters, digits, '_', '.' and '-' can be in it, the first a letter or a digit"
        )
