"""What this interpreter was started with, for workers that run the same one.

`python -O -W error -X dev main.py` is said of the whole program, and its workers are part of that. Passed on are -O and
-OO, -b, -B, -d, -S, -v, -W and -X with whatever they say, and what says what is looked past: -I, or -E, -s and -P.
Not passed on are those that are of a terminal (-i, -q) and -u, which Python does not tell.

Rule 1: another environment's Python is given nothing: it may be a release that does not know what this one does.
Rule 2: environment variables that say the same (PYTHONOPTIMIZE, PYTHONWARNINGS, PYTHONDEVMODE) are in the environment
        of workers as they are; said twice they say the same.
"""

from __future__ import annotations

import os
import sys

_COUNTED = (("optimize", "O"), ("bytes_warning", "b"), ("dont_write_bytecode", "B"), ("debug", "d"), ("verbose", "v"))


def interpreter_flags(python: str | None) -> list[str]:
    """For the command line of `python`, the path of an interpreter; None: this one."""
    if python is not None and not _is_this_one(python):
        return []
    flags = sys.flags
    given = ["-" + letter * getattr(flags, name) for name, letter in _COUNTED if getattr(flags, name)]
    if flags.no_site:
        given.append("-S")
    if flags.isolated:
        given.append("-I")
    else:
        looked_past = (("ignore_environment", "-E"), ("no_user_site", "-s"), ("safe_path", "-P"))
        given += [flag for name, flag in looked_past if getattr(flags, name)]
    for what in sys.warnoptions:
        given += ["-W", what]
    for name, value in sys._xoptions.items():
        given += ["-X", name if value is True else f"{name}={value}"]
    return given


def _is_this_one(python: str) -> bool:
    """Also by another name in its folder. What a link elsewhere leads to is another environment's."""
    here, there = os.path.abspath(sys.executable), os.path.abspath(python)
    try:
        return os.path.dirname(here) == os.path.dirname(there) and os.path.samefile(here, there)
    except OSError:
        return False
