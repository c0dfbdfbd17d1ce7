"""Archives for tests, made without any tool."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from headrace.archives.declaration import FORMATS, mms_manifest, torchserve_manifest
from headrace.archives.packing import Contents, write_archive


def make_archive(
    folder: str | os.PathLike[str],
    name: str = "m",
    *,
    files: Mapping[str, str | bytes | Path] | None = None,
    handler: str = "service:handle",
    archive_format: str = "default",
    mms: bool = False,
    version: str = "1.0",
    serialized_file: str | None = None,
    model_file: str | None = None,
    requirements_file: str | None = None,
    config_file: str | None = None,
    runtime: str = "python",
) -> Path:
    """An archive of `name` in `folder`, as `torch-model-archiver` would make it (`mms`: as `model-archiver` would).

    `files`: names in it, and the text or bytes of each, or the file it is a copy of. Whether it makes sense is not
    looked at, and what was there is overwritten.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    target = Path(folder).absolute() / (name + FORMATS[archive_format])
    if mms:
        manifest = mms_manifest(name=name, handler=handler, runtime=runtime)
    else:
        manifest = torchserve_manifest(
            name=name,
            version=version,
            handler=handler,
            created=datetime.now(),
            serialized_file=serialized_file,
            model_file=model_file,
            requirements_file=requirements_file,
            config_file=config_file,
            runtime=runtime,
        )
    with tempfile.TemporaryDirectory(prefix="headrace-") as made:
        contents = Contents()
        for index, (inside, content) in enumerate((files or {}).items()):
            source = content if isinstance(content, Path) else Path(made, str(index))
            if not isinstance(content, Path):
                source.write_bytes(content if isinstance(content, bytes) else content.encode())
            contents.files[inside] = source
        write_archive(target, name, contents, manifest, archive_format, force=True)
    return target
