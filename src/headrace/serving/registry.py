"""Which models are known, in which versions, and in which state. Pure.

Rule 1: the first version that is registered is the default, until another is set.
Rule 2: only READY takes requests. A name that is not known, a version that is not, and one that is not READY are three
        different answers.
Rule 3: states are changed by `lifecycle` alone.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Generic, TypeVar

from headrace.errors import InvalidInput, InvalidOption, ModelNotFound, ModelNotReady


class State(enum.StrEnum):
    REGISTERED = "REGISTERED"
    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    UNLOADED = "UNLOADED"
    FAILED = "FAILED"


S = TypeVar("S")


class Entry(Generic[S]):
    """One version of one model. `served` is what answers its requests, from READY on."""

    __slots__ = ("name", "reason", "served", "state", "version")

    def __init__(self, name: str, version: str) -> None:
        self.name, self.version = name, version
        self.state = State.REGISTERED
        self.reason: str | None = None
        self.served: S | None = None


class Registry(Generic[S]):
    def __init__(self) -> None:
        self._models: dict[str, dict[str, Entry[S]]] = {}
        self._default: dict[str, str] = {}

    def add(self, name: str, version: str) -> Entry[S]:
        """A new version, REGISTERED. InvalidOption if there is one of that name and version."""
        versions = self._models.setdefault(name, {})
        if version in versions:
            raise InvalidOption(f"model {name}:{version} is registered already; give the other one a name: NAME=PATH")
        entry = versions[version] = Entry(name, version)
        self._default.setdefault(name, version)
        return entry

    def find(self, name: str, version: str | None = None) -> Entry[S]:
        """The version asked for, or the default one, in whatever state. ModelNotFound if there is none."""
        versions = self._models.get(name)
        if versions is None:
            raise ModelNotFound(name)
        entry = versions.get(version if version is not None else self._default[name])
        if entry is None:
            raise ModelNotFound(name, version)
        return entry

    def ready(self, name: str, version: str | None = None) -> S:
        """What serves it. ModelNotFound, or ModelNotReady with the state and the reason."""
        entry = self.find(name, version)
        if entry.state is not State.READY or entry.served is None:
            raise ModelNotReady(name, entry.version, entry.state, entry.reason)
        return entry.served

    @property
    def has_one(self) -> bool:
        """Whether models of just one name are known."""
        return len(self._models) == 1

    def only(self) -> str:
        """The name of the one model there is. InvalidInput if a name has to be given."""
        if len(self._models) != 1:
            there = f"{len(self._models):,} models are served" if self._models else "no model is served"
            raise InvalidInput(f"Parameter model_name is required: {there}, and the request names none")
        return next(iter(self._models))

    def versions(self, name: str) -> list[str]:
        if name not in self._models:
            raise ModelNotFound(name)
        return list(self._models[name])

    def __iter__(self) -> Iterator[Entry[S]]:
        for versions in self._models.values():
            yield from versions.values()

    def all_ready(self) -> bool:
        return all(entry.state is State.READY for entry in self)
