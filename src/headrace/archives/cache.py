"""Folders that live as long as somebody uses them: what was unpacked or downloaded.

Rule 1: a folder is built beside its place and renamed into it; who sees it sees it whole.
Rule 2: while a process uses a folder it holds a shared lock on the folder's lock file. The kernel drops the lock with
        the process, however it ends; whoever gets it alone may remove the folder. Who lets go last does.
Rule 3: what killed processes have left is removed when a process first uses the cache. A lock file says with a byte
        that its folder is whole: a folder of that name that somebody has made beside us is not taken for it.
Rule 4: the folder of the cache is the user's alone: what is unpacked there is run.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import stat
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

from headrace.errors import InvalidOption

_LOCK, _BUILDING, _LEAVING = ".lock", ".building", ".leaving"
_DIGEST = re.compile(r"([0-9a-f]{64})(\.building|\.leaving)?\Z")
_log = logging.getLogger("headrace.archives")


class Lease:
    """The right to use `folder` until `close`, or the interpreter's end."""

    def __init__(self, folder: Path, let_go: Callable[[], None]) -> None:
        self.folder = folder
        owner = os.getpid()
        # A fork has a copy of this, and the same lock; it must not take the folder from its parent.
        self._let_go = weakref.finalize(self, lambda: let_go() if os.getpid() == owner else None)

    def close(self) -> None:
        """Once is enough. Of the last one, here and in other processes, the folder goes."""
        self._let_go()


class _Held:
    """One folder that this process uses: who wants it waits for `lock`, `count` do."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.descriptor = -1


class Cache:
    """`root` is made where it is not, also with its parents; None: a folder of the user's own below the temporary one.

    InvalidOption if it is somebody else's, or others may write to it.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self._link_is_fine = root is not None
        self._wanted = Path(root) if root is not None else Path(tempfile.gettempdir(), f"headrace-{os.getuid()}")
        self._root: Path | None = None
        self._guard = threading.Lock()
        self._held: dict[str, _Held] = {}

    @property
    def root(self) -> Path:
        """Absolute and without links. The first use makes it, and sweeps."""
        with self._guard:
            if self._root is None:
                self._root = _own_folder(self._wanted, self._link_is_fine)
                _sweep(self._root)
            return self._root

    def hold(self, key: str, build: Callable[[Path], None]) -> Lease:
        """The folder called `key`, which is made by `build(empty folder)` where nobody has it yet.

        `key`: letters, digits and dashes; the same key is the same content. Waits while it is being built, here or in
        another process. Raises what `build` raises, and then nothing of it is left.
        """
        root = self.root
        with self._guard:
            held = self._held.setdefault(key, _Held())
            held.count += 1
        try:
            with held.lock:
                if held.descriptor < 0:
                    held.descriptor = _take(root, key, build)
        except BaseException:
            self._release(root, key, held)
            raise
        return Lease(root / key, lambda: self._release(root, key, held))

    def _release(self, root: Path, key: str, held: _Held) -> None:
        # Who comes after the record has gone makes another one, and waits for the lock of the file.
        with held.lock:
            with self._guard:
                held.count -= 1
                if held.count:
                    return
                del self._held[key]
            if held.descriptor >= 0:
                _drop(root, key, held.descriptor)


def _take(root: Path, key: str, build: Callable[[Path], None]) -> int:
    """A descriptor that holds a shared lock on `key`, whose folder is there."""
    folder, building, lock = root / key, root / (key + _BUILDING), root / (key + _LOCK)
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # Shared: who uses the folder has it, and only builders and removers make others wait.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_at(descriptor, lock) and _is_whole(descriptor, folder):
                return descriptor
            # What was shared is let go of first, so that two who want to build do not wait for each other.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, lock) and not _is_whole(descriptor, folder):
                os.ftruncate(descriptor, 0)
                _remove(building)  # of one that was killed
                _remove(folder)
                building.mkdir(0o700)
                try:
                    build(building)
                    building.rename(folder)
                    os.pwrite(descriptor, b"1", 0)
                except BaseException:
                    _remove(building)
                    lock.unlink()
                    raise
                # Not one step: another one may come in between, and remove it all. So we look once more.
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if _is_at(descriptor, lock) and _is_whole(descriptor, folder):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _drop(root: Path, key: str, descriptor: int) -> None:
    """Let go of the lock; if nobody else has it, the folder goes first."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(descriptor, root / (key + _LOCK)):
            _clear(root, key)
    except BlockingIOError:
        pass  # another process uses it, and will remove it
    except OSError as error:
        _log.warning("%s was not removed: %s", root / key, error)
    finally:
        os.close(descriptor)


def _clear(root: Path, key: str) -> None:
    """Remove what is called `key`. The caller holds its lock alone."""
    folder, leaving = root / key, root / (key + _LEAVING)
    os.truncate(root / (key + _LOCK), 0)
    _remove(leaving)
    # It has another name first: a process that a handler has left behind may write to it, by the one it was told.
    with contextlib.suppress(FileNotFoundError):
        folder.rename(leaving)
    for each in (leaving, folder, root / (key + _BUILDING)):
        _remove(each)
        if each.exists():
            _log.warning("%s was not removed: something else writes to it", each)
    os.unlink(root / (key + _LOCK))


def _sweep(root: Path) -> None:
    names = sorted(os.listdir(root))
    keys = {name.removesuffix(_LOCK): 0 for name in names if name.endswith(_LOCK)}
    for found in filter(None, map(_DIGEST.match, names)):  # nobody's, where it has no lock
        keys.setdefault(found[1], os.O_CREAT)
    for key, make in keys.items():
        try:
            lock = root / (key + _LOCK)
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | make, 0o600)
        except OSError:
            continue  # gone meanwhile
        if (root / key).exists():
            _log.info("looking whether %s is left from a process that was killed", root / key)
        _drop(root, key, descriptor)


def _is_whole(descriptor: int, folder: Path) -> bool:
    return os.fstat(descriptor).st_size > 0 and folder.is_dir()


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`: whoever removed the folder removed its lock file as well."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _remove(folder: Path) -> None:
    """A folder and all in it, also what a handler has made unreadable. Nothing is followed out of it."""

    def open_up(function: Callable[..., object], path: str, info: object) -> None:
        os.chmod(os.path.dirname(path), 0o700)
        if os.path.isdir(path) and not os.path.islink(path):
            os.chmod(path, 0o700)
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)

    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder, onerror=open_up)


def _own_folder(path: Path, link_is_fine: bool) -> Path:
    try:
        path.mkdir(0o700, parents=True, exist_ok=True)
        found = os.lstat(path)
    except OSError as error:
        raise InvalidOption(f"--cache-dir {path} cannot be made: {error.strerror}") from error
    if link_is_fine and stat.S_ISLNK(found.st_mode):
        found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise InvalidOption(
            f"--cache-dir {path} must be a folder of your own that nobody else may write to (chmod 700 {path}): what "
            "is unpacked there is run"
        )
    return path.resolve()
