"""From what is wanted to where it is. How it is built from there is in `kinds`.

A relative path is looked for in the model store first, where there is one, then from the current folder.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

from headrace.archives.archive import is_archive, open_archive
from headrace.archives.cache import Cache
from headrace.archives.demands import check_demands
from headrace.archives.download import check_sha256
from headrace.archives.entries import DEFAULT_BOUNDS, Bounds
from headrace.archives.location import locate
from headrace.archives.packed import PACKED
from headrace.archives.store import Place, Store
from headrace.errors import InvalidModel, InvalidOption, SourceNotFound
from headrace.serving.handlers import runs_in_process
from headrace.serving.kinds import as_archive, build_archive, build_callable, build_file, is_code
from headrace.serving.located import Located
from headrace.serving.model_yaml import own_options
from headrace.serving.wanted import CALLABLE, MODULE, TORCH_FILES, VERSION, VERSIONS, Wanted

_log = logging.getLogger("headrace.serving")


class Sources:
    """Finds what is wanted: fetches it where it has a URL, unpacks it where it is packed.

    `cache` and `bounds`: where packed archives are unpacked, and how large they may be.
    """

    def __init__(
        self, store: Store | Path | None = None, *, cache: Cache | None = None, bounds: Bounds = DEFAULT_BOUNDS
    ) -> None:
        self._store = store if isinstance(store, Store) else Store(store, cache=cache)
        self._cache, self._bounds = cache, bounds

    def in_store(self) -> list[Wanted]:
        """Everything in the model store that can be served, by name."""
        if not self._store.is_configured:
            raise InvalidOption("'all' means all models of the model store: give --model-store DIR")
        try:
            found = self._store.names()
        except OSError as error:
            raise InvalidOption(f"--model-store {self._store} cannot be listed: {error}") from error
        if not found:
            raise InvalidModel(f"there is no ONNX file and no archive in {self._store}")
        folder = self._store.folder  # of a folder absolute paths: they are not looked for in the store once more
        return [Wanted(None, name if folder is None else str(folder / name)) for name in found]

    @property
    def store(self) -> Store:
        return self._store

    def names(self) -> list[str]:
        """Of what is in the model store and can be served; `named` finds it."""
        return sorted({stem_of(name) for name in self._files()})

    def named(self, name: str) -> str:
        """Where in the model store the model is that is called so; as an archive, or a file. SourceNotFound."""
        for file in self._files():
            if name in (file, stem_of(file)):
                folder = self._store.folder
                return file if folder is None else str(folder / file)
        raise SourceNotFound(f"Model not found in model store: {name}", name)

    def _files(self) -> list[str]:
        if not self._store.is_configured:
            return []
        try:
            return self._store.names()
        except OSError as error:  # it has gone meanwhile
            _log.warning("the model store cannot be listed: %s", error)
            return []

    def locate(self, wanted: Wanted) -> Located:
        """Close it when nothing of it runs. InvalidModel, and its like: InvalidArchive, UrlNotAllowed; InvalidOption
        for a version that cannot be one, and where it takes no `handler`."""
        if wanted.version is not None and not VERSION.match(wanted.version):
            raise InvalidOption(f"{wanted.version!r:.80} cannot be a version: {VERSIONS}")
        found = self._locate(wanted)
        return found if wanted.version is None else replace(found, version=wanted.version)

    def _locate(self, wanted: Wanted) -> Located:
        if "://" in wanted.source or "::" in wanted.source:
            return self._at(self._store.find(wanted.source), wanted)
        path = self._path(wanted.source)
        if path is not None:
            return self._at(Place(path), wanted)
        if "#sha256=" in wanted.source:
            location = locate(wanted.source)
            path = self._path(location.url)
            if path is not None:
                check_sha256(path, location)
                return self._at(Place(path), wanted)
        if CALLABLE.match(wanted.source):
            name = wanted.name or wanted.source.rpartition(":")[2].rpartition(".")[2]
            return Located(name, "1", partial(build_callable, wanted.source), is_code=True)
        if self._store.is_configured and self._store.folder is None:
            return self._at(self._store.find(wanted.source), wanted)
        looked = f"{self._store} and {Path.cwd()}" if self._store.is_configured else str(Path.cwd())
        hint = "; a callable is served as module:function" if MODULE.match(wanted.source) else ""
        raise InvalidModel(f"{wanted.source} does not exist (looked in {looked}){hint}")

    def _at(self, place: Place, wanted: Wanted) -> Located:
        """The archive or model file there. `place` is let go of where it cannot be used."""
        path = place.path
        try:
            packed = path.suffix in (".mar", ".gz", ".tgz", ".zip")
            if is_archive(path) or packed or (wanted.handler is not None and path.is_dir()):
                archive = open_archive(path, handler=wanted.handler, cache=self._cache, bounds=self._bounds)
                try:
                    check_demands(archive, wanted.demands)
                    if runs_in_process(archive):
                        archive.labels()  # what is wrong with them is said before anything is loaded
                except BaseException:
                    archive.close()
                    raise
                name, version = wanted.name or archive.manifest.name or path.stem, archive.manifest.version

                if archive.lease is not None:
                    place.close()  # it has been unpacked elsewhere

                def close() -> None:
                    archive.close()
                    place.close()

                own = own_options(archive.config, name)
                return Located(name, version, partial(build_archive, archive), close, is_code(archive), own)
            if path.suffix in TORCH_FILES:
                archive = as_archive(path.resolve(), wanted.handler or "tensor")
                return Located(wanted.name or path.stem, "1", partial(build_archive, archive), place.close, True)
            if wanted.handler is not None:
                raise InvalidOption(f"handler {wanted.handler!r}: archives have handlers, {path.name} is none")
        except BaseException:
            place.close()
            raise
        return Located(wanted.name or path.stem, "1", partial(build_file, path), place.close)

    def shown(self, source: str) -> str:
        """What a source is called where clients read it: what lies in the model store, by its name there."""
        folder, path = self._store.folder, Path(source)
        if folder is not None and path.is_absolute() and path.parent == folder.absolute():
            return path.name
        return source

    def absolute(self, source: str) -> str:
        """The same, wherever it is said, if it is a path that exists."""
        bare, mark, checksum = source.rpartition("#sha256=")
        for name, rest in ((source, ""), (bare, mark + checksum)) if bare else ((source, ""),):
            if "://" in name or "::" in name:
                continue
            try:
                path = self._path(name)
            except InvalidModel:  # what it was found by cannot be entered now
                continue
            if path is not None:
                return f"{path.absolute()}{rest}"
        return source

    def _path(self, source: str) -> Path | None:
        candidates = [Path(source)]
        if self._store.folder is not None and not Path(source).is_absolute():
            candidates.insert(0, self._store.folder / source)
        try:
            return next((path for path in candidates if path.exists()), None)
        except OSError as error:  # a folder that may not be entered, a name that is too long
            raise InvalidModel(f"{source:.200} cannot be looked for: {error.strerror}") from error


def stem_of(file: str) -> str:
    """What a model is called by its file or folder in the store."""
    for ending in (*PACKED, ".onnx"):
        file = file.removesuffix(ending)
    return file
