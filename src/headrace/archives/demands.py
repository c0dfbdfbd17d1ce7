"""What the old servers want an archive to say before they take it, in their words. We take more: nobody has to ask."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson

from headrace.archives.archive import Archive
from headrace.errors import NO_JSON, InvalidArchive

HANDLER, VERSION, RUNTIME, SIGNATURE = "handler", "version", "runtime", "signature"
SIGNATURE_FILE = "signature.json"


def check_demands(archive: Archive, demands: Collection[str]) -> None:
    """InvalidArchive for the first of `demands` that it does not meet. Of one without a manifest nothing is wanted: the
    registration says it all."""
    manifest = archive.manifest
    raw: dict[str, Any] | None = manifest.raw
    if raw is None:
        return
    if HANDLER in demands and manifest.handler is None:
        raise InvalidArchive("Model handler is not defined.")
    if VERSION in demands and not raw["model"].get("modelVersion"):
        raise InvalidArchive("Model version is not defined.")
    if RUNTIME in demands and not raw.get("runtime"):
        raise InvalidArchive("Runtime is not defined or invalid.")
    signature = archive.folder / SIGNATURE_FILE
    if SIGNATURE in demands and signature.is_file():
        try:
            orjson.loads(signature.read_bytes())
        except (orjson.JSONDecodeError, OSError) as error:
            raise InvalidArchive(f"{SIGNATURE_FILE} is not JSON: {error}", NO_JSON) from error
