"""The backend that does nothing: what comes in goes out. It measures our own machinery, and tests it alone."""

from __future__ import annotations

from typing import Any

from headrace.backends.base import Loaded, LoadOptions, Stop


class NullSession:
    def run(self, inputs: tuple[Any, ...], names: tuple[str, ...] | None = None, stop: Stop | None = None) -> list[Any]:
        return list(inputs)

    def close(self) -> None:
        pass


class NullBackend:
    name = "null"

    def load(self, model: Any, options: LoadOptions) -> Loaded:
        session = NullSession()
        sessions = tuple(session for _ in options.widths)
        return Loaded(self.name, "null", "null", sessions, inputs=None, outputs=None)


backend = NullBackend()
