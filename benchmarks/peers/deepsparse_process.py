"""DeepSparse beside us: in a process of its own, that stands still while others are measured.

It pins its threads and they spin while they wait for work. So it is stopped (SIGSTOP) but for its own turns.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from servers import VENVS

PYTHON = VENVS / "venv-deepsparse" / "bin" / "python"
CHILD = Path(__file__).with_name("deepsparse_child.py")


def missing() -> str | None:
    """Why it cannot be measured here."""
    return None if PYTHON.exists() else "not installed (benchmarks/peers/install.sh deepsparse)"


class DeepSparse:
    """`close()` it, or use it in a `with`."""

    def __init__(self, path: Path, size: int, scheduler: str, streams: int = 0) -> None:
        """`streams` 0: its own default."""
        self.process = subprocess.Popen(
            [str(PYTHON), str(CHILD), str(path), str(size), scheduler, str(streams)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        self.pid = self.process.pid
        try:
            self.about = self._read()
        except BaseException:
            self.close()
            raise
        self.process.send_signal(signal.SIGSTOP)

    def closed_loop(self, callers: int, secs: float) -> dict[str, float]:
        self.process.send_signal(signal.SIGCONT)
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps({"callers": callers, "secs": secs}) + "\n")
            self.process.stdin.flush()
            return self._read()
        finally:
            self.process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
            self.process.communicate(timeout=10)  # it ends with its stdin
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> DeepSparse:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"DeepSparse ended with {self.process.wait()}: run {CHILD} by hand to see why")
        answer: dict[str, Any] = json.loads(line)
        return answer
