"""Runs docs/quickstart.md: every command in it, in order, on free ports, and shows what it answers. `make quickstart`.

    python examples/quickstart/run.py

What the document shows after each command is compared with what came by tests/examples/test_quickstart.py.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from headrace.testing import RunningServer, run_server

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "quickstart.md"
_BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """`kind`: of its block, console or python. `shown`: what the document says comes of it."""

    kind: str
    command: str
    shown: str


def steps_of(text: str) -> list[Step]:
    """A line with `$` is a command; one that ends with a backslash goes on; what follows is what it shows. Of Python,
    comments at the ends of lines show what they print."""
    steps = []
    for kind, block in _BLOCK.findall(text):
        if kind == "python":
            shown = "".join(f"{said}\n" for said in re.findall(r"^print\(.*?  # (.*)$", block, re.MULTILINE))
            steps.append(Step(kind, block, shown))
            continue
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines(keepends=True)
            last = next(place for place, line in enumerate(lines) if not line.endswith("\\\n"))
            steps.append(Step(kind, "".join(lines[: last + 1]).strip(), "".join(lines[last + 1 :])))
    return steps


def play(steps: list[Step], folder: Path, *, say: bool = False) -> Iterator[tuple[Step, str]]:
    """Each step, and what came of it. Runs in `folder`, on free ports; the server ends with the last one.
    RuntimeError for a command that fails."""
    (folder / "examples").symlink_to(ROOT / "examples")
    shims = folder / "bin"
    shims.mkdir()
    for name, command in (("headrace", f"{shlex.quote(sys.executable)} -m headrace"), ("python", sys.executable)):
        (shims / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (shims / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{shims}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100"}
    server: RunningServer | None = None
    with ExitStack() as stack:
        for step in steps:
            command = step.command if server is None else _here(step.command, server)
            if say:
                print(f"$ {command}" if step.kind == "console" else command.rstrip(), flush=True)
            if command.startswith("headrace serve "):
                arguments = shlex.split(command)[2:]
                server = stack.enter_context(
                    run_server(*arguments, "--management-address=127.0.0.1:0", env=environment, cwd=folder)
                )
                environment["HEADRACE_MANAGEMENT"] = server.management
                came = "Model server started.\n"  # it is: the ready file was there
            else:
                words = ["bash", "-c", command] if step.kind == "console" else [sys.executable, "-c", command]
                done = subprocess.run(
                    words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
                )
                if done.returncode:
                    raise RuntimeError(f"{command}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
                came = done.stdout
            if say:
                print(came, flush=True)
            yield step, came


def _here(command: str, server: RunningServer) -> str:
    """With the ports there are in place of those of the document."""
    near = server.management.removeprefix("http://")
    return command.replace("127.0.0.1:8081", near).replace("127.0.0.1:8080", server.url.removeprefix("http://"))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        for _ in play(steps_of(DOCUMENT.read_text()), Path(folder), say=True):
            pass


if __name__ == "__main__":
    main()
