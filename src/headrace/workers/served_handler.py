"""An archive whose handler runs in worker processes, as `workers/start` wants it."""

from __future__ import annotations

import base64
import pickle
from dataclasses import astuple, dataclass
from typing import Any

from headrace.archives.archive import Archive
from headrace.archives.envelopes import NAMES
from headrace.errors import InvalidArchive, InvalidOption
from headrace.version import __version__
from headrace.workers.loadable import Loadable
from headrace.workers.sequenced import Sequencing


@dataclass(frozen=True)
class HandlerArchive(Loadable):
    """`handler`: another than the manifest's. `batch_size`: what the handler is told is the most it will be given.

    `envelope`: TorchServe's `service_envelope`, for all models of a server. `decode_input_request`: False gives the
    handler bodies as they came. `limit_max_image_pixels`: False has the picture handlers take pictures of any size.
    """

    in_lists = True  # no field: it is so of all

    archive: Archive
    handler: str | None = None
    model_name: str | None = None
    batch_size: int = 1
    gpu_id: int | None = None
    envelope: str | None = None
    decode_input_request: bool = True
    limit_max_image_pixels: bool = True
    sequences: Sequencing | None = None

    def __post_init__(self) -> None:
        if not (self.handler or self.archive.manifest.handler):
            raise InvalidArchive(
                f"the archive in {self.archive.folder} names no handler, and none was given: name one, as "
                "MODULE[.py][:FUNCTION] or a built-in one"
            )
        if self.envelope is not None and self.envelope not in NAMES:
            raise InvalidOption(f"service_envelope is one of {', '.join(NAMES)}, not {self.envelope!r}")

    @property
    def name(self) -> str:
        return self.model_name or self.archive.manifest.name or self.archive.folder.name

    def told(self) -> dict[str, Any]:
        """What a worker is told of it (`archives/handler`)."""
        archive = self.archive
        return {
            "loader": "handler",
            "folder": str(archive.folder),
            "handler": self.handler or archive.manifest.handler,
            "manifest": archive.manifest.raw,
            "config": base64.b64encode(pickle.dumps(archive.config, 4)).decode(),
            "model_name": self.name,
            "model_version": archive.manifest.version,
            "batch_size": self.batch_size,
            "gpu_id": self.gpu_id,
            "envelope": self.envelope,
            "decode_input_request": self.decode_input_request,
            "limit_max_image_pixels": self.limit_max_image_pixels,
            "server_version": __version__,
            "sequence_headers": None if self.sequences is None else astuple(self.sequences.headers),
        }

    def told_of_batches(self, max_batch_size: int) -> dict[str, Any]:
        return {"batch_size": max_batch_size}

    def __str__(self) -> str:
        return f"the handler {self.handler or self.archive.manifest.handler} of {self.name}"
