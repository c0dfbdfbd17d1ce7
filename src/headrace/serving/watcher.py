"""Serves what lies in the model store, as it comes, changes and goes (`watching`).

Rule 1: what has come and is a model whose file has gone (it was renamed, or is the next version) is loaded while that
        one serves, and takes its place.
Rule 2: what goes wrong with one file keeps no other from being served.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Hashable
from pathlib import Path

from headrace.archives.store import Store
from headrace.errors import AlreadyRegistered, HeadraceError, InvalidOption, IsDefaultVersion, ModelNotFound
from headrace.serving.located import Located
from headrace.serving.management import Management
from headrace.serving.registration import Registration
from headrace.serving.wanted import Wanted
from headrace.serving.watching import Watching

WHO = "the watched model store"
_log = logging.getLogger("headrace.serving")


class Watcher:
    """A thread, from `start` to `close`, that looks every so many seconds. Changes are made by `management`."""

    def __init__(self, management: Management, store: Store, every: float) -> None:
        """What is served from the store already is known to be. InvalidOption for a store that is no folder."""
        if store.folder is None:
            raise InvalidOption("--model-control poll watches a model store that is a folder: give --model-store DIR")
        self._management, self._store, self._every = management, store, every
        self._served = _served_from(store.folder, management)
        there = self.look()
        # What a snapshot has brought back may have gone, or be another version, since: that is seen, too.
        known = {file: None if self._is_another(file) else there.get(file) for file in self._served}
        self._watching = Watching(known)
        self._twice: set[str] = set()
        """Files of models that others are already: they are served once those have gone."""
        self._wrong: str | None = None
        """Why it could not be looked at the last time."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="headrace-watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._end.set()

    def look(self) -> dict[str, Hashable]:
        """What can be served, each with what tells one state of it from another."""
        folder = self._store.folder
        assert folder is not None, "only folders are watched"
        return {file: _state_of(folder / file) for file in self._store.names()}

    def turn(self) -> None:
        """Look once, and have done what that calls for."""
        seen = self._watching.look(self.look())
        twice = sorted(self._twice - {*seen.come, *seen.changed}) if seen.gone or seen.changed else []
        there = [file for file in (*seen.changed, *seen.come, *twice) if not self._takes_a_place(file, seen.gone)]
        for file in seen.gone:
            self._try(file, self._go)
        for file in there:
            self._try(file, self._change)

    def _run(self) -> None:
        while not self._end.wait(self._every):
            self.try_turn()

    def try_turn(self) -> None:
        """A store that cannot be read now may be read later; meanwhile what is served goes on."""
        try:
            self.turn()
            self._wrong = None
        except OSError as error:
            if str(error) != self._wrong:  # it is said once
                _log.warning("the model store %s cannot be looked at; what is served goes on: %s", self._store, error)
            self._wrong = str(error)
        except Exception:
            _log.exception("the model store %s could not be looked at", self._store)

    def _try(self, file: str, do: Callable[[str], None]) -> None:
        try:
            do(file)
        except HeadraceError as error:
            _log.warning("%s of the model store: %s; it is looked at again when it has changed", file, error)
        except Exception:  # the others have their turn all the same
            _log.exception("%s of the model store; it is looked at again when it has changed", file)

    def _is_another(self, file: str) -> bool:
        """Whether there is another version by now than the one it is served as."""
        name, version = self._served[file]
        if self._management.registry.find(name, version).about.wanted.version is None:
            return False
        try:
            located = self._locate(file)
        except HeadraceError:
            return False
        located.close()
        return (located.name, located.version) != (name, version)

    def _path(self, file: str) -> str:
        return str(Path(self._store.folder or "").absolute() / file)

    def _locate(self, file: str) -> Located:
        return self._management.lifecycle.sources.locate(Wanted(None, self._path(file)))

    def _come(self, file: str, like: Registration | None = None) -> None:
        """`like`: what it takes the place of, which may have been scaled and tuned."""
        if like is None:
            options = self._management.lifecycle.options
            operation = self._management.register(file, workers=options.workers, by_options=True, who=WHO)
        else:
            operation = self._management.register(
                file, options=like.options, workers=like.min_workers, max_workers=like.max_workers, who=WHO
            )
        try:
            entry = operation.future.result()
        except AlreadyRegistered:
            self._twice.add(file)
            raise
        self._twice.discard(file)
        self._served[file] = entry.name, entry.version

    def _takes_a_place(self, file: str, gone: tuple[str, ...]) -> bool:
        """False where nothing that serves has gone for it, or where it cannot be beside that: then its turn comes when
        that is unloaded."""
        going = {self._served[each]: each for each in gone if each in self._served}
        if not going:
            return False
        try:
            located = self._locate(file)
            located.close()
            name, version = located.name, located.version
            if self._served.get(file, ("",))[0] == name:
                return False  # it is what it was, or another version of it
            # Of several versions that have gone, the one it is, or else the one that answers who names none.
            versions = [each for each in going if each[0] == name]
            versions.sort(key=lambda each: (each[1] == version, self._is_default(*each)))
            if not versions:
                return False
            self._exchange(file, going[versions[-1]])
        except Exception:  # which it says when its turn comes
            return False
        return True

    def _is_default(self, name: str, version: str) -> bool:
        registry = self._management.registry
        return registry.knows(name, version) and registry.is_default(registry.find(name, version))

    def _change(self, file: str) -> None:
        if file in self._served:
            self._exchange(file, file)
        else:
            self._come(file)

    def _exchange(self, file: str, before: str) -> None:
        """Have `file` served in the place of `before`, which it may be itself: another version comes beside the old
        one; the same one is loaded once more. What no file is any more goes."""
        was, other = self._served[before], self._served.get(file)
        name, version = was
        lifecycle = self._management.lifecycle
        located = self._locate(file)
        located.close()
        if (located.name, located.version) == was:
            moved = None if file == before else self._path(file)
            reload = self._management.begin(
                "reload", name, version, lambda: lifecycle.reload(name, version, moved=moved), who=WHO
            )
            reload.future.result()
            self._served[file] = self._served.pop(before)
            self._twice.discard(file)
        else:
            self._come(file, self._management.registry.find(name, version).about)
            if located.name == name:
                self._management.set_default(name, located.version, who=WHO).future.result()
            if file != before:
                self._served.pop(before)
        for each in dict.fromkeys((was, other)):
            if each is not None and each not in self._served.values():
                self._unregister(*each)

    def _go(self, file: str) -> None:
        self._twice.discard(file)
        found = self._served.pop(file, None)
        if found is not None:
            self._unregister(*found)

    def _unregister(self, name: str, version: str) -> None:
        try:
            self._management.unregister(name, version, who=WHO).future.result()
        except IsDefaultVersion:
            # Others came by another way: the newest of them is the default from now on.
            others = [each for each in self._management.registry.versions(name) if each != version]
            self._management.set_default(name, others[-1], who=WHO).future.result()
            self._management.unregister(name, version, who=WHO).future.result()
        except ModelNotFound:  # a manager was quicker
            pass


def _served_from(folder: Path, management: Management) -> dict[str, tuple[str, str]]:
    """By file: the name and version."""
    found: dict[str, tuple[str, str]] = {}
    for entry in management.registry:
        source = Path(entry.about.wanted.source)
        path = source if source.is_absolute() else folder / source
        if path.absolute().parent == folder.absolute():
            found[path.name] = entry.name, entry.version
    return found


def _state_of(path: Path) -> Hashable:
    """Of a file; or of all files in a folder."""
    files = [path]
    if path.is_dir():
        files = sorted(Path(parent, name) for parent, _, names in os.walk(path) for name in names)
    states = []
    for file in files:
        try:
            found = file.stat()
        except OSError:  # it has gone meanwhile
            continue
        states.append((str(file), found.st_mtime_ns, found.st_size, found.st_ino))
    return tuple(states)
