"""What the three examples share: environments made once, commands shown before they are run, and a server with curl."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from headrace.testing import run_server

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "examples"
"""Environments and what is made for the examples; `make clean` removes it."""
PICTURES = ROOT / "examples" / "digits" / "held_out"


def environment(name: str, *packages: str, python: str = sys.executable) -> Path:
    """The interpreter of a virtual environment with these packages. Made anew when they, or its Python, are others."""
    folder = CACHE / name
    made_of = hashlib.sha256(" ".join((os.path.realpath(python), *packages)).encode()).hexdigest()
    stamp, interpreter = folder / "made-of", folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != made_of:
        shutil.rmtree(folder, ignore_errors=True)
        run(python, "-m", "venv", folder)
        run(interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
        stamp.write_text(made_of)
    return interpreter


def archiver(name: str, version: str) -> Path:
    """The real `model-archiver` or `torch-model-archiver`. Each by itself: they are packages of one name."""
    return environment(name, f"{name}=={version}").with_name(name)


def python_up_to(minor: int) -> str:
    """A Python 3.8 to 3.`minor`. SystemExit if there is none."""
    if sys.version_info[:2] <= (3, minor):
        return sys.executable
    for candidate in range(minor, 7, -1):
        found = shutil.which(f"python3.{candidate}")
        if found and subprocess.run([found, "-c", ""], check=False, capture_output=True).returncode == 0:
            return found
    sys.exit(f"this example needs a Python from 3.8 to 3.{minor} on the PATH, for an environment of its own")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Show it, run it, and give what it wrote to stdout. SystemExit with its status if it fails."""
    words = [str(word) for word in command]
    print("$", shlex.join(os.path.relpath(word) if word.startswith(str(ROOT)) else word for word in words), flush=True)
    done = subprocess.run(words, cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(done.stdout)
        sys.exit(f"{words[0]} ended with status {done.returncode}")
    return done.stdout


@contextlib.contextmanager
def served(*arguments: str | Path) -> Iterator[str]:
    """`headrace serve ARGUMENTS` on a free port; its URL. Stopped at the end."""
    words = [str(word) for word in arguments]
    print("$ headrace serve", shlex.join(words), flush=True)
    with run_server(*words) as server:
        yield server.url
        status = server.stop()
    print(f"# stopped, exit status {status}")


def curl(*arguments: str | Path) -> str:
    answer = run("curl", "--silent", "--show-error", "--fail-with-body", *arguments)
    print(answer, flush=True)
    return answer
