"""The interpreter of an environment: where it is, and whether a worker can run in it.

Rule 1: a path is taken as it is written: the interpreter of a virtual environment is a link, and what it is a link to
        is another environment.
Rule 2: it is asked, not guessed, and asked in words that any Python since 2.7 understands.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import InvalidEnvironment

PYTHON, NUMPY = (3, 8), (1, 22)
"""The least that a worker needs."""
PATIENCE = 60.0
"""Seconds an interpreter has to say what it is."""
_ASK = """
import json, sys
said = {"python": list(sys.version_info[:3]), "numpy": None, "error": None}
try:
    import numpy
    said["numpy"] = numpy.__version__
except Exception as error:
    said["error"] = "%s: %s" % (type(error).__name__, error)
sys.stdout.write("\\n" + json.dumps(said) + "\\n")
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """One that a worker can run in. `python`, `numpy`: versions, as text."""

    path: str
    python: str
    numpy: str


def find(path: str | os.PathLike[str]) -> str:
    """The interpreter at `path`, which names it or its environment's folder; a name alone (`python3.12`) that is not
    here is looked for in PATH. InvalidEnvironment if there is none."""
    given = os.path.abspath(os.path.expanduser(path))
    if not os.path.exists(given) and not os.path.dirname(path):
        given = shutil.which(path) or given
    if os.path.isdir(given):
        inside = os.path.join(given, "bin", "python")
        if not os.path.exists(inside):
            raise InvalidEnvironment(
                f"{given} is no environment: it has no bin/python; name the folder of one, or an interpreter",
                given,
            )
        given = inside
    if not os.path.exists(given):
        raise InvalidEnvironment(
            f"there is no interpreter {given}; make the environment with: python3 -m venv FOLDER", given
        )
    if not os.path.isfile(given) or not os.access(given, os.X_OK):
        raise InvalidEnvironment(f"{given} is no interpreter: it cannot be executed", given)
    return given


def check(path: str, what: str) -> Interpreter:
    """The interpreter at `path`, if a worker can run in it. InvalidEnvironment says what it is instead.

    `what`: whose environment it is, for the message.
    """
    wanted = f"a worker needs Python {_shown(PYTHON)} or later with NumPy {_shown(NUMPY)} or later"
    try:
        # Not where we are: files there would be taken for its modules. What PYTHONPATH says is of our environment.
        done = subprocess.run(
            [path, "-E", "-c", _ASK],
            cwd=Path(path).anchor or "/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        said = json.loads(done.stdout.decode(errors="replace").strip().rpartition("\n")[2])
        python, numpy, why = tuple(said["python"]), said["numpy"], said["error"]
    except subprocess.TimeoutExpired:
        raise InvalidEnvironment(
            f"{what}: {path} did not say within {PATIENCE:g} s what it is; {wanted}", path
        ) from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InvalidEnvironment(
            f"{what}: {path} cannot be run as a Python interpreter ({error}); {wanted}", path
        ) from error
    if python < PYTHON:
        raise InvalidEnvironment(f"{what}: {path} is Python {_shown(python)}; {wanted}", path)
    if numpy is None:
        raise InvalidEnvironment(
            f"{what}: {path} (Python {_shown(python)}) has no NumPy that can be imported ({why}); {wanted}: "
            f"{path} -m pip install numpy",
            path,
        )
    if _version(numpy) < NUMPY:
        raise InvalidEnvironment(f"{what}: {path} has NumPy {numpy}; {wanted}: {path} -m pip install -U numpy", path)
    return Interpreter(path, _shown(python), numpy)


def checked(path: str | os.PathLike[str], what: str) -> str:
    """The interpreter at `path` (its own, or its environment's folder), if a worker can run in it."""
    return check(find(path), what).path


def _shown(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _version(text: str) -> tuple[int, ...]:
    """`1.26.4`, `2.0.0rc1` as numbers, as far as they go."""
    numbers = []
    for part in text.split(".")[:2]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
