"""Which models are known, in which versions, and in which state. Pure.

Rule 1: the first version that is registered is the default, until another is set.
Rule 2: only READY takes requests. A name that is not known, a version that is not, and one that is not READY are three
        different answers.
Rule 3: states are changed by `lifecycle` alone, and only as NEXT says.
Rule 4: one thread changes it at a time; any may look meanwhile: what is there is never changed, it is replaced.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from headrace.errors import AlreadyRegistered, InvalidInput, IsDefaultVersion, ModelNotFound, ModelNotReady


class State(enum.StrEnum):
    REGISTERED = "REGISTERED"
    """Known, and without workers; with the `reason` where it was to have some, and could not be loaded."""
    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    """It takes no more requests, and finishes those it has."""
    UNLOADED = "UNLOADED"
    FAILED = "FAILED"
    """It could not be loaded, or its workers cannot be kept alive: `reason` says why."""


NEXT: Mapping[State, frozenset[State]] = {
    State.REGISTERED: frozenset((State.LOADING, State.UNLOADED)),
    State.LOADING: frozenset((State.READY, State.FAILED)),
    State.READY: frozenset((State.FAILED, State.DRAINING)),
    State.DRAINING: frozenset((State.READY, State.REGISTERED, State.UNLOADED)),
    State.FAILED: frozenset((State.READY, State.LOADING, State.DRAINING, State.REGISTERED, State.UNLOADED)),
    State.UNLOADED: frozenset(),
}
"""What may follow a state. DRAINING goes back to READY where what is inside did not end in time."""
S = TypeVar("S")


class Entry(Generic[S]):
    """One version of one model. `served` is what answers its requests, while it has workers."""

    __slots__ = ("about", "name", "reason", "retry_after", "served", "state", "version")

    def __init__(self, name: str, version: str, about: Any = None) -> None:
        self.name, self.version = name, version
        self.state = State.REGISTERED
        self.reason: str | None = None
        self.served: S | None = None
        self.retry_after: Callable[[], float | None] = lambda: None
        """Seconds until it may be READY again, where that is known."""
        self.about = about
        """How it was registered."""

    def become(self, state: State, reason: str | None = None) -> None:
        if state not in NEXT[self.state]:
            raise AssertionError(f"{self.name}:{self.version} cannot become {state}: it is {self.state}")
        self.state, self.reason = state, reason

    def __repr__(self) -> str:
        return f"<{self.name}:{self.version} {self.state}>"


class _Versions(Generic[S]):
    """Of one model. Never changed."""

    __slots__ = ("all", "default")

    def __init__(self, all: dict[str, Entry[S]], default: Entry[S]) -> None:
        self.all, self.default = all, default


class Registry(Generic[S]):
    def __init__(self) -> None:
        self._models: dict[str, _Versions[S]] = {}

    # ---- changes

    def add(self, name: str, version: str, about: Any = None) -> Entry[S]:
        """A new version, REGISTERED. AlreadyRegistered if there is one of that name and version."""
        found = self._models.get(name)
        if found is not None and version in found.all:
            raise AlreadyRegistered(name, version)
        entry: Entry[S] = Entry(name, version, about)
        versions = {**found.all, version: entry} if found is not None else {version: entry}
        self._put(name, _Versions(versions, found.default if found is not None else entry))
        return entry

    def remove(self, entry: Entry[S]) -> None:
        """IsDefaultVersion if it is the default one, and there are others."""
        self.check_removable(entry)
        found = self._models[entry.name]
        versions = {version: other for version, other in found.all.items() if other is not entry}
        if versions:
            self._put(entry.name, _Versions(versions, found.default))
        else:
            self._models = {name: other for name, other in self._models.items() if name != entry.name}

    def check_removable(self, entry: Entry[S]) -> None:
        found = self._models[entry.name]
        if found.default is entry and len(found.all) > 1:
            raise IsDefaultVersion(entry.name, entry.version)

    def set_default(self, entry: Entry[S]) -> None:
        self._put(entry.name, _Versions(self._models[entry.name].all, entry))

    def _put(self, name: str, versions: _Versions[S]) -> None:
        self._models = {**self._models, name: versions}

    # ---- looks

    def find(self, name: str, version: str | None = None) -> Entry[S]:
        """The version asked for, or the default one, in whatever state. ModelNotFound if there is none."""
        found = self._models.get(name)
        if found is None:
            raise ModelNotFound(name)
        if version is None:
            return found.default
        entry = found.all.get(version)
        if entry is None:
            raise ModelNotFound(name, version)
        return entry

    def knows(self, name: str, version: str | None = None) -> bool:
        """Whether there is one, in whatever state."""
        found = self._models.get(name)
        return found is not None and (version is None or version in found.all)

    def ready(self, name: str, version: str | None = None) -> S:
        """What serves it. ModelNotFound, or ModelNotReady with the state and the reason."""
        entry = self.find(name, version)
        served = entry.served
        if entry.state is not State.READY or served is None:
            raise ModelNotReady(name, entry.version, entry.state, entry.reason, entry.retry_after())
        return served

    def is_default(self, entry: Entry[S]) -> bool:
        found = self._models.get(entry.name)
        return found is not None and found.default is entry

    @property
    def has_one(self) -> bool:
        """Whether models of just one name are known."""
        return len(self._models) == 1

    def only(self) -> str:
        """The name of the one model there is. InvalidInput if a name has to be given."""
        models = self._models
        if len(models) != 1:
            there = f"{len(models):,} models are served" if models else "no model is served"
            raise InvalidInput(f"Parameter model_name is required: {there}, and the request names none")
        return next(iter(models))

    def versions(self, name: str) -> list[str]:
        """In the order in which they were registered."""
        return [entry.version for entry in self.entries(name)]

    def entries(self, name: str) -> list[Entry[S]]:
        found = self._models.get(name)
        if found is None:
            raise ModelNotFound(name)
        return list(found.all.values())

    def defaults(self) -> list[Entry[S]]:
        """The default version of each model, by name."""
        models = self._models
        return [models[name].default for name in sorted(models)]

    def __len__(self) -> int:
        """How many models."""
        return len(self._models)

    def __iter__(self) -> Iterator[Entry[S]]:
        for found in self._models.values():
            yield from found.all.values()

    def is_healthy(self) -> bool:
        """Whether all is as it was asked for: what is loading, going, or has no workers is; what failed is not."""
        return all(entry.state is not State.FAILED for entry in self)
