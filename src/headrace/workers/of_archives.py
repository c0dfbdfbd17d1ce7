"""An archive's handler, as something that workers load."""

from __future__ import annotations

from typing import Any

from headrace.archives.served_handler import HandlerArchive
from headrace.workers.loadable import Loadable


class OfArchive(Loadable):
    in_lists = True

    def __init__(self, archive: HandlerArchive) -> None:
        self._archive = archive

    @property
    def name(self) -> str:
        return self._archive.name

    def told(self) -> dict[str, Any]:
        return self._archive.told()

    def __str__(self) -> str:
        return str(self._archive)
