"""A real server in a process of its own, on free ports, for tests and demos."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

START_SECONDS = 60.0


class RunningServer:
    """`url` of its inference API; `stop()` drains it and gives its exit status."""

    def __init__(self, process: subprocess.Popen[bytes], ready: dict[str, object], log: IO[bytes]) -> None:
        self.process, self.ready, self._log = process, ready, log
        self.url = str(ready["inference"])
        self.management = str(ready.get("management") or "")
        """The URL of its management API; empty: it has none."""
        self.port = int(self.url.rpartition(":")[2])

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, timeout: float = 60.0) -> int:
        """SIGTERM, wait, exit status."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def log(self) -> str:
        """What it has written to stdout and stderr so far."""
        self._log.flush()
        return Path(self._log.name).read_text(errors="replace")


@contextlib.contextmanager
def run_server(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: str | os.PathLike[str] | None = None
) -> Iterator[RunningServer]:
    """`headrace serve ARGUMENTS` on a free port, ready when it is yielded, stopped (or killed) at the end.

    RuntimeError with the server's own words if it does not get ready.
    """
    closed = [f"--{door}-address=off" for door in ("management", "metrics", "grpc")]
    serve = [sys.executable, "-m", "headrace", "serve", "--inference-address=127.0.0.1:0", *closed, *arguments]
    with run_command(serve, env=env, cwd=cwd) as server:
        yield server


@contextlib.contextmanager
def run_command(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | os.PathLike[str] | None = None
) -> Iterator[RunningServer]:
    """As `run_server`, for any command that takes `--ready-file=PATH`."""
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        ready_file = Path(folder, "ready.json")
        command = [*command, f"--ready-file={ready_file}"]
        with open(Path(folder, "log"), "wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd, env={**os.environ, **(env or {})}
            )
            try:
                yield RunningServer(process, _wait_ready(process, ready_file, Path(log.name)), log)
            finally:
                if process.poll() is None:
                    process.terminate()
                    try:
                        process.wait(30)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.wait()


def _wait_ready(process: subprocess.Popen[bytes], ready_file: Path, log: Path) -> dict[str, object]:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if ready_file.exists():
            ready: dict[str, object] = json.loads(ready_file.read_text())
            return ready
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}:\n{log.read_text(errors='replace')}")
        time.sleep(0.01)  # another process, nothing to wait on: its file appears when it is ready
    raise RuntimeError(f"the server was not ready within {START_SECONDS} s:\n{log.read_text(errors='replace')}")
