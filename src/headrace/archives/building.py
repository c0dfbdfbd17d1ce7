"""Environments built of requirements: each once, in a folder of all of them, named by the digest of what was asked.

Rule 1: what has its final name is whole: an environment is built beside it, and renamed.
Rule 2: one builds, others wait. The lock is a file that stays, held by the builder and by the pip it has started, so
        that nobody builds where somebody still writes.
Rule 3: what a builder that is gone has left is removed by the next one.
Rule 4: pip is given a time, and ends when we do; what it said is in the error.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from headrace.archives.requirements import NUMPY, has_hashes
from headrace.errors import InvalidEnvironment

LOOK = 0.1
"""Seconds between two looks at a lock that somebody else has."""
LAST_WORDS = 5.0
"""Seconds for reading what a process that has ended had said."""
KEPT = 40
"""Lines of what pip said last, for the error."""
_TELLING = ("Collecting ", "Downloading ", "Building ", "Installing ", "Successfully ")
_log = logging.getLogger("headrace.archives")


def default_folder() -> Path:
    """Where the user's caches are."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace" / "environments"


class Builder:
    """`folder`: of all environments; made when it is needed. `timeout`: seconds for one, with waiting for others."""

    def __init__(self, folder: Path, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._timeout, self._clock = folder.absolute(), timeout, clock

    def get(self, name: str, requirements: Path, text: str, *, sees_server: bool, what: str) -> str:
        """The interpreter of the environment `name`, built if it is not there. InvalidEnvironment says why it is not.

        `requirements`: a file, whose folder relative paths in it are relative to. `what`: whose they are, for messages.
        """
        whole = self._folder / name
        python = whole / "bin" / "python"
        if python.exists():
            return str(python)
        until = self._clock() + self._timeout
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._lock(name, until, what) as lock:
                self._sweep(name)
                if not python.exists():  # nobody has built it while we waited
                    self._build(whole, requirements, text, lock, until, sees_server, what)
        except OSError as error:
            raise InvalidEnvironment(
                f"{what}: an environment cannot be built in {self._folder}: {error.strerror or error}", str(whole)
            ) from error
        return str(python)

    @contextlib.contextmanager
    def _lock(self, name: str, until: float, what: str) -> Iterator[int]:
        """The descriptor that holds it."""
        waiting = False
        descriptor = os.open(self._folder / f".{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not _try(descriptor):
                if not waiting:
                    waiting = True
                    _log.info("%s: its environment is being built by somebody else; waiting", what)
                if self._clock() > until:
                    raise InvalidEnvironment(
                        f"{what}: its environment {self._folder / name} is still being built by another process after "
                        f"{self._timeout:g} s",
                        str(self._folder / name),
                    )
                time.sleep(LOOK)
            yield descriptor
        finally:
            os.close(descriptor)

    def _sweep(self, mine: str) -> None:
        """Remove what is half built and has no builder. With the lock of `mine` held."""
        for half in self._folder.glob(".*.building-*"):
            name = half.name[1:].partition(".building-")[0]
            if name == mine:
                shutil.rmtree(half, ignore_errors=True)
                continue
            with contextlib.suppress(OSError):
                descriptor = os.open(self._folder / f".{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    if _try(descriptor):
                        shutil.rmtree(half, ignore_errors=True)
                finally:
                    os.close(descriptor)

    def _build(
        self, whole: Path, requirements: Path, text: str, lock: int, until: float, sees_server: bool, what: str
    ) -> None:
        half = whole.with_name(f".{whole.name}.building-{os.getpid()}-{secrets.token_hex(4)}")
        began = self._clock()
        _log.info("%s: building its environment %s from %s", what, whole, requirements.name)
        try:
            has_pip = find_spec("pip") is not None
            self._run(
                [sys.executable, "-I", "-m", "venv", *(["--without-pip"] if has_pip else []), str(half)],
                requirements, lock, until, what,
            )  # fmt: skip
            python = str(half / "bin" / "python")
            if sees_server:
                _see(half)
            pip = [sys.executable, "-m", "pip", "--python", python] if has_pip else [python, "-m", "pip"]
            wanted = ["-r", str(requirements), *([] if has_hashes(text) else [NUMPY])]
            quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
            self._run([*pip, "install", *quiet, *wanted], requirements, lock, until, what)
            _rename_inside(half, whole)
            half.rename(whole)
        finally:
            shutil.rmtree(half, ignore_errors=True)  # nothing, where it has its name
        _log.info("%s: its environment was built in %.1f s", what, self._clock() - began)

    def _run(self, command: list[str], requirements: Path, lock: int, until: float, what: str) -> None:
        """Run it in the folder of the requirements, and log what it is at."""
        last: deque[str] = deque(maxlen=KEPT)
        process = subprocess.Popen(
            command,
            cwd=requirements.parent,
            env={
                k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PIP_REQUIRE_VIRTUALENV")
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),  # it is held for as long as this one writes, whatever becomes of us
            start_new_session=True,
        )

        def read() -> None:
            assert process.stdout is not None
            for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip()
                if line:
                    last.append(line)
                    _log.log(
                        logging.INFO if line.lstrip().startswith(_TELLING) else logging.DEBUG, "%s: %s", what, line
                    )

        reader = threading.Thread(target=read, name="headrace-pip", daemon=True)
        reader.start()
        try:
            code = process.wait(max(0.0, until - self._clock()))
        except subprocess.TimeoutExpired:
            raise InvalidEnvironment(
                f"{what}: its environment was not built within {self._timeout:g} s; the last that was said: "
                f"{last[-1] if last else 'nothing'}",
                str(self._folder),
            ) from None
        finally:
            with contextlib.suppress(OSError):  # it and what it has started, however we leave
                os.killpg(process.pid, 9)
            process.wait()
            reader.join(LAST_WORDS)
            assert process.stdout is not None
            if not reader.is_alive():
                process.stdout.close()
        if code:
            raise InvalidEnvironment(
                f"{what}: installing what {requirements.name} asks for failed: {_reason(last)}", str(self._folder)
            )


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _reason(said: deque[str]) -> str:
    """The lines that say errors, or the last ones."""
    errors = [line for line in said if line.lstrip().lower().startswith("error")]
    return "; ".join(errors[-4:] or list(said)[-8:]) or "nothing was said"


def _see(half: Path) -> None:
    """What is installed beside the server is found as well, behind what the environment has itself."""
    for site in half.glob("lib/python*/site-packages"):
        ours = [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
        (site / "headrace_server.pth").write_text("".join(f"{path}\n" for path in ours))


def _rename_inside(half: Path, whole: Path) -> None:
    """Its scripts begin with the path of its interpreter, which is about to change."""
    old, new = os.fsencode(half), os.fsencode(whole)
    for file in [half / "pyvenv.cfg", *(half / "bin").iterdir()]:
        if file.is_symlink() or not file.is_file():
            continue
        content = file.read_bytes()
        if old in content and b"\0" not in content:
            file.write_bytes(content.replace(old, new))  # its mode stays
