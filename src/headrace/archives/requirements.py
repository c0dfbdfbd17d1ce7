"""What an archive's requirements are, as far as an environment is built of them.

Rule 1: text in, answers out; pip alone says what the lines mean.
Rule 2: two environments are the same if and only if the same was asked of the same interpreter: the lines, the files
        they name, the Python, the platform, and what we add ourselves.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

FORM = "1"
"""Of the environments that are built: another one when they are built otherwise."""
NUMPY = "numpy>=1.22"
"""What workers need, given to pip together with the rest, so that one is chosen that fits all of it."""
_HASH = re.compile(r"(?:^|\s)--hash[=\s]", re.MULTILINE)
_FILE = re.compile(r"^(?:-r|-c|-e|--requirement|--constraint|--editable|--find-links|-f)(?:\s+|=)?(?P<path>\S+)")


def digest(text: str, files: Mapping[str, bytes], python: str, platform: str, sees_server: bool) -> str:
    """The name of an environment. `files`: what the lines name inside the archive. `python`: version and build."""
    made = hashlib.sha256()
    for part in (FORM, NUMPY, python, platform, str(sees_server), _lines(text)):
        _add(made, part.encode(errors="surrogateescape"))
    for name in sorted(files):
        _add(made, name.encode(errors="surrogateescape"))
        _add(made, files[name])
    return made.hexdigest()[:32]


def _add(made: hashlib._Hash, part: bytes) -> None:
    made.update(b"%d:" % len(part))  # its length first, so that no two lists of parts read the same
    made.update(part)


def _lines(text: str) -> str:
    """Without what means nothing: comments, blank lines, blanks at both ends."""
    kept = (line.strip() for line in text.lstrip("\ufeff").splitlines())
    return "\n".join(line for line in kept if line and not line.startswith("#"))


def has_hashes(text: str) -> bool:
    """Whether pip will take only what has a hash: then nothing can be added to it."""
    return _HASH.search(_lines(text)) is not None


def named_files(text: str) -> list[str]:
    """What may be files or folders beside the requirements: other requirements, constraints, packages."""
    found = []
    for line in _lines(text).splitlines():
        line = line.partition(" #")[0].strip()
        option = _FILE.match(line)
        if option is not None:
            found.append(option["path"])
        elif not line.startswith("-"):
            place = line.partition(" @ ")[2].strip() or line.split(";")[0].split("[")[0].strip()
            found.append(place.removeprefix("file:"))
    return found
