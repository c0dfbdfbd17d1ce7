"""Environments without Headrace, for tests of what other packages bring: `.venv-NAME` beside the sources.

    python tests/other_environments.py

makes those that are not there, which takes two minutes and more disk than processor: `make test` has it done while the
tests begin that need none.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"torch": ["torch==2.13.0", "numpy", "pillow"], "mxnet": ["mxnet==1.9.1", "numpy<1.24", "pillow"]}


def python_of(name: str) -> str:
    """Its Python. Made once; a stamp says of what. Who comes while it is being made waits."""
    home, wanted = ROOT / f".venv-{name}", " ".join(PACKAGES[name])
    python, stamp = home / "bin" / "python", home / "installed"
    with one_at_a_time():
        if not (stamp.is_file() and stamp.read_text() == wanted):
            venv.create(home, clear=True, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES[name]], check=True)
            stamp.write_text(wanted)
    return str(python)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    root = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(root, fcntl.LOCK_EX)
        yield
    finally:
        os.close(root)


if __name__ == "__main__":
    os.nice(10)
    for each in PACKAGES:
        python_of(each)
    sys.exit(0)
