"""What of its owner's surroundings a worker is given, and what it is told to load.

Rule 1: a worker that is started later, in place of another, finds what the first one found: the folder, the Python path
        and the environment variables are those of when its model was made.
Rule 2: another environment's Python is given neither our path nor the flags this interpreter was started with.
"""

from __future__ import annotations

import json
import os
import sys

from headrace.errors import InvalidOption
from headrace.workers.flags import interpreter_flags
from headrace.workers.loadable import Loadable
from headrace.workers.sharing import Share, environment


class Surroundings:
    def __init__(self, python: str | None) -> None:
        """As they are now. `python`: the interpreter of another environment; None: ours. InvalidOption where we are in
        a folder that there is not any more."""
        self._folder, self._environment = _folder(), dict(os.environ)
        self.python = [python or sys.executable, *interpreter_flags(python)]
        """How a command line begins that its process is started with."""
        self._path = [*filter(_is_text, sys.path)] if python is None else None

    def environment(self, share: Share) -> dict[str, str]:
        return environment(self._environment, share.threads)

    def setup(
        self,
        model: Loadable,
        name: str,
        share: Share,
        *,
        max_batch_size: int,
        in_lists: bool,
        address_space: int | None,
    ) -> bytes:
        """The payload of SETUP. `address_space`: bytes it may have of that; None: any."""
        told = {
            "folder": self._folder,
            **model.told(),
            **model.told_of_batches(max_batch_size),
            "in_lists": in_lists,
            "path": self._path,
            "argv": [name],
            "threads": share.threads,
            "cpus": share.cpus,
            "address_space": address_space,
        }
        return json.dumps(told).encode()


def _folder() -> str:
    """InvalidOption where there is none."""
    try:
        return os.getcwd()
    except OSError as error:
        raise InvalidOption(
            f"workers start in the folder that this process is in, which there is not any more ({error.strerror}): "
            "os.chdir() to one that is there"
        ) from None


def _is_text(entry: object) -> bool:
    """Imports look past what is none, too."""
    return isinstance(entry, str)
