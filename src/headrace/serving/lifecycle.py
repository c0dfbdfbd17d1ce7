"""How a model comes to be served, and goes: the one place that changes its state.

Rule 1: whoever changes one model waits for who changes it already, in the order in which they came (`Turns`).
Rule 2: a model that cannot be loaded leaves everything as it was. One that is replaced serves until the other is READY.
Rule 3: what goes takes no more requests, finishes those it has, and only then lets its model go (`leaving`).
Rule 4: `/ping` and every other `ready` are read off the states here; nobody sets them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headrace.errors import (
    AlreadyRegistered,
    BackendError,
    BackendNotInstalled,
    CannotLoad,
    HeadraceError,
    InvalidArchive,
    InvalidEnvironment,
    InvalidModel,
    InvalidOption,
    NotEnoughCores,
    WorkerDied,
)
from headrace.model.model import Model
from headrace.serving import changing, counting
from headrace.serving.building import Building, looked_for_again
from headrace.serving.compile_options import CompileOptions
from headrace.serving.counting import workers_of
from headrace.serving.failures import Failures
from headrace.serving.leaving import Leaving
from headrace.serving.loading import wants_memory
from headrace.serving.registration import Registration
from headrace.serving.registry import Entry, State
from headrace.serving.served import Served
from headrace.serving.service import Service
from headrace.serving.settings import Settings
from headrace.serving.sources import Sources, stem_of
from headrace.serving.states import States
from headrace.serving.turns import Turns
from headrace.serving.wanted import NAME, NAMES, Wanted

UNLOAD_TIMEOUT = 120.0
"""Seconds: TorchServe's `unregister_model_timeout`."""
_log = logging.getLogger("headrace.serving")
NO_SETTINGS = Settings()
_NO_MODEL = (InvalidModel, InvalidEnvironment, AlreadyRegistered, BackendError, BackendNotInstalled, WorkerDied)
"""What is wrong with a model; what is wrong with an option or the machine is wrong for all."""


@dataclass(frozen=True)
class Changed:
    """A version, and what became another of its `Settings`: from what, to what."""

    entry: Entry[Served]
    settings: dict[str, tuple[Any, Any]]


class Lifecycle:
    """Its methods wait for what they do. Any thread may call them, but not one that answers requests."""

    def __init__(self, service: Service, options: CompileOptions, sources: Sources | Path | None = None) -> None:
        self.service, self._registry, self._options = service, service.registry, options
        self.sources = sources if isinstance(sources, Sources) else Sources(sources)
        service.when_stopped(self._let_sources_go)
        self.failures = Failures()
        self._turns, self._states, self._building = Turns(), States(), Building()
        self._leaving = Leaving(service, self._states)
        self.on_change: Callable[[], object] = _nothing
        """Called after each change that was made, before whoever asked for it hears of it."""

    @property
    def options(self) -> CompileOptions:
        """What models are compiled with where nothing else is said."""
        return self._options

    # ---- comes

    def register(
        self,
        wanted: Wanted,
        *,
        options: CompileOptions | None = None,
        min_workers: int = 0,
        max_workers: int | None = None,
        at_startup: bool = False,
        by_options: bool = False,
        url: str | None = None,
        on_known: Callable[[Entry[Served]], object] | None = None,
    ) -> Entry[Served]:
        """Know it. With `min_workers` above 0 load it, too, and make it READY with so many; `by_options`: in this
        process with as many streams as its options say. `url`: what a manager calls where it is. `on_known` is called
        once it is registered, before it is loaded.

        A failed load leaves nothing registered. Raises what is wrong: AlreadyRegistered, InvalidModel, InvalidOption,
        and CannotLoad for a load that failed, but at the server's start.
        """
        options = options or self._options
        low, high = counting.bounds(min_workers, max_workers)
        try:
            located = self.sources.locate(wanted)
        except InvalidArchive as error:
            # A manager knows which it asked for; who starts a server with many does not.
            if at_startup and Path(wanted.source).name not in str(error):
                error.args = (f"{wanted.source}: {error}",)
            self._remember(wanted, error)
            raise
        except InvalidModel as error:
            self._remember(wanted, error)
            raise
        name, version = located.name, located.version
        with self._turns.of(name):
            try:
                if not NAME.match(name):
                    mend = f"give one: NAME={wanted.source}" if at_startup else "give another (model_name)"
                    raise InvalidOption(f"{name!r:.80} cannot be the name of a model: {NAMES}; {mend}")
                if not at_startup and not by_options:
                    try:
                        counting.check_count(name, located, options, low)
                    except InvalidOption as error:
                        self.failures.add(name, version, error)
                        raise
                url = self.sources.shown(wanted.source) if url is None else url
                about = Registration(wanted, located, options, low, high, at_startup, url, by_options=by_options)
                entry = self._registry.add(name, version, about)
            except BaseException:
                located.close()
                raise
            try:
                if on_known is not None:
                    on_known(entry)
                if low:
                    self._start(entry, low)
                if by_options and low == high:
                    low = high = max(low, workers_of(entry))
                elif at_startup:
                    low = min(low, workers_of(entry))
            except BaseException as error:
                self.failures.add(name, version, error)
                if not at_startup:
                    self._forget(entry)
                    _tell(entry, error)
                else:
                    entry.about = replace(about, is_complete=True)
                raise
            entry.about = replace(about, min_workers=low, max_workers=high, is_complete=True)
            self.failures.forget(name, version)
            self.on_change()
        return entry

    def load(self, wanted: Wanted) -> Entry[Served]:
        """At the server's start: READY, with as many workers as its options say. One that fails stays, as FAILED."""
        return self.register(wanted, min_workers=self._options.workers, at_startup=True, by_options=True)

    def remember(
        self, wanted: Wanted, options: CompileOptions, min_workers: int, max_workers: int, url: str | None, reason: str
    ) -> None:
        """One that was served before, and of which there is nothing now: FAILED, until it is scaled, and looked for
        again. `wanted` has its name and version."""
        name, version = wanted.name or "", wanted.version or ""
        with self._turns.of(name):
            if self._registry.knows(name, version):
                return
            located = looked_for_again(self.sources, wanted)
            url = self.sources.shown(wanted.source) if url is None else url
            about = Registration(wanted, located, options, min_workers, max_workers, True, url, is_complete=True)
            entry = self._registry.add(name, version, about)
            self._states.become(entry, State.LOADING)
            self._states.become(entry, State.FAILED, reason)

    def stop(self) -> None:
        """The server stops: loads that have not begun are given up (Closed)."""
        self._building.stopping = True

    def load_all(self, models: Iterable[Wanted], failed: Callable[[str, HeadraceError], object] | None = None) -> None:
        """`failed`: told of those that cannot be loaded, by source; without it, the first of them is raised."""
        for wanted in models:
            try:
                self.load(wanted)
            except _NO_MODEL as error:
                if failed is None:
                    raise
                failed(wanted.source, error)

    # ---- changes

    def scale(
        self,
        name: str,
        version: str | None = None,
        *,
        min_workers: int,
        max_workers: int | None = None,
        timeout: float | None = UNLOAD_TIMEOUT,
    ) -> Entry[Served]:
        """Have at least so many workers, and at most so many: from none it is loaded, and with 0 let go but known.

        Workers are processes, or the streams of a model in this process. StillBusy if what is inside did not end.
        """
        low, high = counting.bounds(min_workers, max_workers)
        with self._turns.of(name):
            entry = self._registry.find(name, version)
            self._scale(entry, low, high, timeout)
            self.on_change()
        return entry

    def check_count(self, name: str, version: str | None, workers: int) -> None:
        """InvalidOption for more than there could be, as far as that is known without loading it. ModelNotFound."""
        entry = self._registry.find(name, version)
        if entry.state is not State.FAILED or entry.served is not None:  # else it is not known what it is
            counting.check_count(entry.name, entry.about.located, entry.about.options, workers)

    def change(
        self,
        name: str,
        version: str | None = None,
        settings: Settings = NO_SETTINGS,
        *,
        timeout: float | None = UNLOAD_TIMEOUT,
    ) -> Changed:
        """Change how it serves, without a pause and without losing a request: all of it, or nothing.

        Workers come and go as by `scale`; `max_workers` is never left below `min_workers`. InvalidOption for what
        cannot be; StillBusy, CannotLoad where the number of workers could not be changed: then nothing else was.
        """
        with self._turns.of(name):
            entry = self._registry.find(name, version)
            about: Registration = entry.about
            served = entry.served
            before = changing.seen(about.effective, about.bounds, served)
            options = changing.checked(entry.name, about.options, served, settings, self._options)
            low = about.min_workers if settings.min_workers is None else settings.min_workers
            high = max(low, about.max_workers) if settings.max_workers is None else settings.max_workers
            counting.bounds(low, high)
            entry.about = replace(about, options=options)  # with which it is loaded, if it is to be
            if settings.scales:
                try:
                    self._scale(entry, low, high, timeout)
                except BaseException:
                    entry.about = about
                    self.on_change()  # somebody else's change may have had it written meanwhile
                    raise
            if served is not None and served is entry.served:
                changing.use(served, entry.about.effective, settings)
            after = changing.seen(entry.about.effective, entry.about.bounds, entry.served)
            self.on_change()
        return Changed(entry, {key: (before[key], after[key]) for key in before if before[key] != after[key]})

    def follow_load(self, entry: Entry[Served], workers: int, timeout: float | None = UNLOAD_TIMEOUT) -> bool:
        """Have so many workers, if that is still within its bounds when it is its turn. False if it is not. Those that
        stay go on as they are: steps are many, and a share of the cores that is a little off costs less than a restart.
        """
        with self._turns.of(entry.name):
            about: Registration = entry.about
            served = entry.served
            if self._building.stopping or served is None or entry.state is not State.READY:
                return False
            if not max(1, about.min_workers) <= workers <= about.max_workers:
                return False
            self._resize(entry, served.model, workers, timeout, replan=False)
        return True

    def reload(
        self,
        name: str,
        version: str | None = None,
        *,
        moved: str | None = None,
        timeout: float | None = UNLOAD_TIMEOUT,
    ) -> Entry[Served]:
        """Load it once more from where it came, or where it has `moved` to, beside what serves, which is let go once
        the new one is READY.

        Whatever is wrong with the new one is raised, and the old one serves on. InvalidModel if it is another version
        by now. The requests inside the old one are waited for `timeout` seconds; those that take longer end all the
        same.
        """
        with self._turns.of(name):
            entry = self._registry.find(name, version)
            about: Registration = entry.about
            wanted, url = about.wanted, about.url
            if moved is not None:
                wanted, url = replace(wanted, source=moved), self.sources.shown(moved)
            located = self.sources.locate(wanted)
            try:
                if located.version != entry.version:
                    raise InvalidModel(f"{wanted.source} is version {located.version} now, not {entry.version}")
                old = entry.served
                entry.about = replace(about, wanted=wanted, located=located, url=url)
                served = None
                try:
                    if old is not None:
                        served = self._building.build(entry, max(1, workers_of(entry)))
                    elif entry.state is State.FAILED:  # it was to be loaded, and could not be
                        self._start(entry, max(1, about.min_workers))
                except BaseException as error:
                    entry.about = about
                    self.on_change()
                    _tell(entry, error)
                    raise
            except BaseException:
                located.close()
                raise
            if old is not None and served is not None:
                self._states.exchange(entry, served)
                self._leaving.retire(old, about.located, timeout)
            else:
                about.located.close()
            self.on_change()
        _log.info("model %s:%s was loaded once more", entry.name, entry.version)
        return entry

    def set_default(self, name: str, version: str) -> Entry[Served]:
        """Requests that name no version go to this one from now on."""
        with self._turns.of(name):
            entry = self._registry.find(name, version)
            self._registry.set_default(entry)
            self.on_change()
        _log.info("model %s: version %s is the default now", name, version)
        return entry

    # ---- goes

    def unload(self, name: str, version: str | None = None, *, timeout: float | None = UNLOAD_TIMEOUT) -> Entry[Served]:
        """Take no more requests, finish those inside, let it go and forget it.

        `version` None: the default one. ModelNotFound; IsDefaultVersion where others are left; StillBusy where requests
        did not end within `timeout` seconds: then it serves on.
        """
        with self._turns.of(name):
            entry = self._registry.find(name, version)
            self._registry.check_removable(entry)
            if entry.served is not None:
                self._leaving.drain(entry, timeout)
            self._forget(entry)
            self.on_change()
        _log.info("model %s:%s is unloaded", entry.name, entry.version)
        return entry

    # ---- in the model's turn

    def _start(self, entry: Entry[Served], workers: int) -> None:
        was_parked = entry.state is State.REGISTERED and entry.about.is_complete
        self._states.become(entry, State.LOADING)
        try:
            entry.served = self._building.build(entry, workers)
        except BaseException as error:
            self._states.become(entry, State.FAILED, str(error))
            if was_parked:  # as it is to be: nobody has it wanting workers now
                self._states.become(entry, State.REGISTERED, str(error))
            raise
        self._states.become(entry, State.READY)
        self._states.follow(entry)

    def _scale(self, entry: Entry[Served], low: int, high: int, timeout: float | None) -> None:
        count = counting.within(workers_of(entry), low, high)
        if not count:
            if entry.served is not None:
                self._leaving.drain(entry, timeout)
                self._leaving.let_go(entry, State.REGISTERED)
            elif entry.state is State.FAILED:
                self._states.become(entry, State.REGISTERED)
        elif entry.served is None:
            try:
                self._start(entry, count)
            except BaseException as error:
                _tell(entry, error)
                raise
        else:
            self._resize(entry, entry.served.model, count, timeout)
        about: Registration = entry.about
        parked = None if count else about.parked or (about.bounds if about.max_workers else None)
        entry.about = replace(about, min_workers=low, max_workers=high, parked=parked)

    def _resize(
        self, entry: Entry[Served], model: Model, workers: int, timeout: float | None, *, replan: bool = True
    ) -> None:
        if model.crew is not None:
            if workers != len(model.crew):
                model.scale(workers, timeout=timeout, replan=replan)
        elif workers != workers_of(entry):
            counting.use_streams(model, workers, entry.about.options.num_cores, timeout)
            if entry.served is not None:
                entry.served.since = time.time()  # they are new ones

    def _forget(self, entry: Entry[Served]) -> None:
        self._registry.remove(entry)
        try:
            self._leaving.let_go(entry, State.UNLOADED)
        finally:
            entry.about.located.close()

    def _let_sources_go(self) -> None:
        """Everything has stopped: the folders of archives go, also of models that are known and not loaded."""
        for entry in self._registry:
            if entry.about is not None:
                entry.about.located.close()

    def _remember(self, wanted: Wanted, error: InvalidModel) -> None:
        """It was not even found out what it is: that is known by the name it was to have, or has in the store."""
        folder, path = self.sources.store.folder, Path(wanted.source)
        of_store = folder is not None and path.absolute().parent == folder.absolute()
        name = wanted.name or (stem_of(path.name) if of_store else None)
        if name is not None and NAME.match(name):
            self.failures.add(name, wanted.version or "", error)


def _nothing() -> None:
    pass


def _tell(entry: Entry[Served], error: BaseException) -> None:
    """Raise what a manager is told of a load that failed. What was asked for and cannot be had stays what it is."""
    if isinstance(error, Exception) and not isinstance(error, InvalidOption | NotEnoughCores):
        reason = str(error) or type(error).__name__
        raise CannotLoad(entry.name, entry.version, reason, out_of_memory=wants_memory(error)) from error
