"""Which interpreter runs the workers of an archive.

Rule 1: the operator's word first (`--python`), then the archive's own (`headrace: {python: PATH}` in its YAML), then
        its requirements, if the operator lets them be installed; else the server's own interpreter.
Rule 2: an archive is somebody's: what it names lies in the archive, or in the folder the operator has named for that.
Rule 3: nothing is installed into an environment that somebody has named.
"""

from __future__ import annotations

import logging
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.archives.archive import Archive
from headrace.archives.building import Builder, default_folder
from headrace.archives.interpreter import check, checked
from headrace.archives.requirements import digest, named_files
from headrace.errors import InvalidArchive, InvalidEnvironment

SECTION = "headrace"
"""Of a model's YAML: what only we read. All that is outside it is the handler's, whatever it is called."""
_log = logging.getLogger("headrace.archives")


@dataclass(frozen=True)
class EnvironmentOptions:
    install_requirements: bool = False
    allowed: Path | None = None
    """The folder of environments that archives may name."""
    built: Path | None = None
    """Where those built of requirements are kept; None: in the user's cache."""
    timeout: float = 600.0
    """Seconds for building one."""


class Environments:
    def __init__(self, options: EnvironmentOptions) -> None:
        self._options = options

    def python_of(self, archive: Archive, name: str, asked: str | None = None) -> str | None:
        """The interpreter for the workers of `archive`, which is served as `name`; None: the server's own.

        `asked`: what the operator wants. It may take minutes, and raises InvalidEnvironment or InvalidArchive.
        """
        what = f"model {name}"
        wanted = asked if asked is not None else self._in_yaml(archive)
        requirements = archive.manifest.requirements_file
        if wanted is not None:
            return checked(wanted, what)
        if requirements is None:
            return None
        if not self._options.install_requirements:
            _log.warning(
                "%s: its %s is not installed; --install-requirements yes has an environment built of it",
                what,
                requirements,
            )
            return None
        return check(self._built(archive, archive.folder / requirements, what), what).path

    def _in_yaml(self, archive: Archive) -> str | None:
        """The path its YAML names, absolute and allowed."""
        section = archive.config.get(SECTION)
        if section is None:
            return None
        if not isinstance(section, dict) or set(section) - {"python"}:
            raise InvalidArchive(
                f"{SECTION}: in {archive.manifest.config_file} has one key, python: the path of an environment"
            )
        path = section.get("python")
        if path is None:
            return None
        if not isinstance(path, str) or not path or "\0" in path:
            raise InvalidArchive(f"{SECTION}: python: in {archive.manifest.config_file} is a path, not {path!r:.60}")
        allowed = self._options.allowed
        inside = _joined(archive.folder, path)
        if inside is not None and os.path.lexists(inside):
            return inside
        found = None if allowed is None else _joined(allowed.absolute(), path)
        if found is not None and os.path.lexists(found):
            return found
        where = "the archive" if allowed is None else f"the archive or {allowed}"
        raise InvalidEnvironment(
            f"the YAML of {archive.manifest.name} names the environment {path!r:.200}, which is not in {where}; an "
            "archive may name what lies in it or in --allowed-environments DIR, and --python NAME=PATH names any",
            path,
        )

    def _built(self, archive: Archive, requirements: Path, what: str) -> str:
        try:
            text = requirements.read_text(encoding="utf-8", errors="surrogateescape")
            files = dict(_files(archive.folder, requirements, text))
        except OSError as error:
            raise InvalidArchive(f"{requirements} cannot be read: {error.strerror}") from error
        sees_server = archive.config.get("useVenv") is False
        python = f"{sys.implementation.cache_tag} {sys.version.split()[0]} {sys.base_prefix}"
        if sees_server:
            python += f" {sys.prefix}"
        name = digest(text, files, python, sysconfig.get_platform(), sees_server)
        options = self._options
        builder = Builder(options.built or default_folder(), options.timeout)
        return builder.get(name, requirements, text, sees_server=sees_server, what=what)


def _joined(folder: Path, path: str) -> str | None:
    """`path`, relative to `folder` or absolute, if it lies in there. Links are not followed: Python's are links."""
    whole = os.path.normpath(os.path.join(folder, path))
    return whole if whole.startswith(os.path.join(folder, "")) else None


def _files(folder: Path, requirements: Path, text: str) -> Iterator[tuple[str, bytes]]:
    """The files in the archive that requirements name, and those that these name."""
    seen, waiting = {requirements}, [(requirements, text)]
    while waiting:
        at, text = waiting.pop()
        for path in named_files(text):
            named = Path(os.path.normpath(at.parent / path))
            if not named.is_relative_to(folder) or named == folder or named in seen or not named.exists():
                continue
            seen.add(named)
            for file in sorted(named.rglob("*")) if named.is_dir() else [named]:
                if file.is_file():
                    yield str(file.relative_to(folder)), file.read_bytes()
            if named.is_file() and named.suffix in (".txt", ".in"):
                waiting.append((named, named.read_text(encoding="utf-8", errors="surrogateescape")))
