"""What every manager calls: REST, the v2 repository, and whoever else changes models while the server serves.

Rule 1: changes are made on threads of their own, never on an event loop (`operations`); each is an Operation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from headrace.serving.asked import source_of
from headrace.serving.compile_options import CompileOptions
from headrace.serving.lifecycle import UNLOAD_TIMEOUT, Lifecycle
from headrace.serving.operations import MOST_WAITING, THREADS, Operation, Operations, know
from headrace.serving.registry import Entry, State
from headrace.serving.served import Served
from headrace.serving.settings import Settings, line, told
from headrace.serving.wanted import Wanted


class Management:
    def __init__(
        self, lifecycle: Lifecycle, *, threads: int = THREADS, most_waiting: int = MOST_WAITING, callables: bool = False
    ) -> None:
        """`callables`: whether managers may register `module:function`."""
        self.lifecycle, self.service = lifecycle, lifecycle.service
        self.registry = lifecycle.service.registry
        self.callables = callables
        self.operations = Operations(threads, most_waiting)

    # ---- changes

    def register(
        self,
        url: str,
        *,
        name: str | None = None,
        version: str | None = None,
        handler: str | None = None,
        options: CompileOptions | None = None,
        workers: int = 0,
        max_workers: int | None = None,
        demands: frozenset[str] = frozenset(),
        by_options: bool = False,
        who: str = "",
    ) -> Operation:
        """Have the model at `url` registered, with so many workers, or as many as its load wants up to `max_workers`.
        `demands`: what its archive has to say (`archives.demands`). `by_options`: as `Lifecycle.register`. Overloaded.
        """
        key = name or PurePosixPath(url).name.partition(".")[0]

        def work() -> Entry[Served]:
            source = source_of(
                url, self.lifecycle.sources.store, callables=self.callables, has_handler=handler is not None
            )
            wanted = Wanted(name, source, version, handler, demands)
            return self.lifecycle.register(
                wanted,
                options=options,
                min_workers=workers,
                max_workers=max_workers,
                by_options=by_options,
                url=url,
                on_known=lambda entry: know(operation, entry),
            )

        operation = Operation("register", name, version, who, f"{url!r:.200}, {workers} workers")
        return self.operations.begin(operation, work, key)

    def scale(
        self,
        name: str,
        version: str | None = None,
        *,
        min_workers: int,
        max_workers: int | None = None,
        timeout: float | None = UNLOAD_TIMEOUT,
        who: str = "",
    ) -> Operation:
        def work() -> Entry[Served]:
            return self.lifecycle.scale(
                name, version, min_workers=min_workers, max_workers=max_workers, timeout=timeout
            )

        asked = f"{min_workers} to {min_workers if max_workers is None else max_workers} workers"
        return self.operations.begin(Operation("scale", name, version, who, asked), work, None)

    def change(
        self,
        name: str,
        version: str | None,
        settings: Settings,
        *,
        timeout: float | None = UNLOAD_TIMEOUT,
        who: str = "",
    ) -> Operation:
        """Have it serve by other settings; `Operation.changed` says which are others then."""

        def work() -> Entry[Served]:
            changed = self.lifecycle.change(name, version, settings, timeout=timeout)
            operation.changed, operation.detail = told(changed.settings), line(changed.settings)
            return changed.entry

        operation = Operation("change", name, version, who, settings.asked)
        return self.operations.begin(operation, work, None)

    def set_default(self, name: str, version: str, *, who: str = "") -> Operation:
        return self.begin("set-default", name, version, lambda: self.lifecycle.set_default(name, version), who=who)

    def unregister(
        self, name: str, version: str | None = None, *, timeout: float | None = UNLOAD_TIMEOUT, who: str = ""
    ) -> Operation:
        def work() -> Entry[Served]:
            return self.lifecycle.unload(name, version, timeout=timeout)

        return self.begin("unregister", name, version, work, who=who)

    def load(self, name: str, *, who: str = "") -> Operation:
        """Have every version of it READY that was registered; else what is called so in the model store."""

        def work() -> Entry[Served]:
            if not self.registry.knows(name):
                source, workers = self.lifecycle.sources.named(name), self.lifecycle.options.workers
                return self.lifecycle.register(Wanted(name, source), min_workers=workers, by_options=True)
            for entry in self.registry.entries(name):
                if entry.state is not State.READY:
                    low, high = entry.about.parked or entry.about.bounds
                    self.lifecycle.scale(name, entry.version, min_workers=max(1, low), max_workers=max(1, high))
            return self.registry.find(name)

        return self.begin("load", name, None, work, who=who)

    def unload(self, name: str, *, timeout: float | None = UNLOAD_TIMEOUT, who: str = "") -> Operation:
        """Have every version of it let go, but known."""

        def work() -> Entry[Served]:
            for entry in self.registry.entries(name):
                self.lifecycle.scale(name, entry.version, min_workers=0, timeout=timeout)
            return self.registry.find(name)

        return self.begin("unload", name, None, work, who=who)

    def begin(
        self,
        kind: str,
        model: str | None,
        version: str | None,
        work: Callable[[], Any],
        *,
        who: str = "",
        key: str | None = None,
    ) -> Operation:
        """Have `work` done on a thread, in the turn of `key` (None: of the model). Overloaded, Closed."""
        return self.operations.begin(Operation(kind, model, version, who), work, key)

    def close(self, timeout: float | None = None) -> bool:
        """No more changes: what has not begun is refused. False if one that has did not end within `timeout`
        seconds."""
        self.lifecycle.stop()
        return self.operations.close(timeout)
