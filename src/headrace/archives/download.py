"""Fetching a file, or a folder of files: http and https by ourselves, all other places by fsspec.

Rule 1: no more than `max_bytes`, no longer than `timeout`, whatever is announced. What is cut off is not kept.
Rule 2: each redirect is judged as the first URL was; what was said to the first host is not said to the second.
Rule 3: a checksum that was asked for is checked before anybody sees the file.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from headrace.archives.entries import GIB, parts_of
from headrace.archives.location import AllowList, Location, redirected
from headrace.errors import DownloadFailed, HeadraceError, SourceNotFound
from headrace.version import __version__

CHUNK = 1 << 18
MAX_REDIRECTS = 5
MAX_FILES = 10_000
_SAFE = "/%:=&?~+!$,;'@()*[]-._"


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """Of one download: bytes, and seconds for all of it."""

    max_bytes: int = 16 * GIB
    timeout: float = 600.0


class _Budget:
    """What is left of the limits of one download."""

    def __init__(self, location: Location, limits: DownloadLimits) -> None:
        self._location, self._limits = location, limits
        self._until = time.monotonic() + limits.timeout
        self._nbytes = 0

    def seconds_left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise self.too_slow()
        return left

    def too_slow(self) -> DownloadFailed:
        return self.failed(f"it took longer than {self._limits.timeout:g} s; --download-timeout allows more")

    def came(self, nbytes: int) -> None:
        self._nbytes += nbytes
        self.announced(self._nbytes)
        self.seconds_left()

    def announced(self, nbytes: int) -> None:
        if nbytes > self._limits.max_bytes:
            raise self.failed(f"it has more than {self._limits.max_bytes:,} bytes; --max-download-size allows more")

    def failed(self, why: str) -> DownloadFailed:
        return DownloadFailed(self._location.shown, why)


def fetch(location: Location, folder: Path, allowed: AllowList | None, limits: DownloadLimits) -> None:
    """What is at `location`, into `folder`, under its own name. `allowed`: None for what the operator has chosen.

    Raises UrlNotAllowed, SourceNotFound, DownloadFailed; what was written then is the caller's to remove.
    """
    if allowed is not None:
        allowed.check(location)
    budget = _Budget(location, limits)
    target = folder / location.name
    if location.scheme in ("http", "https"):
        _fetch_http(location, target, allowed, budget)
    else:
        _fetch_by_fsspec(location, target, budget)
    if location.sha256 is not None:
        check_sha256(target, location)


def check_sha256(path: Path, location: Location) -> None:
    """Raises DownloadFailed unless the file has the checksum that `location` names."""
    if not path.is_file():
        raise DownloadFailed(location.shown, "a checksum was given, and there is a folder, which has none")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != location.sha256:
        raise DownloadFailed(location.shown, f"its sha256 is {found}, not {location.sha256}")


def _fetch_http(location: Location, target: Path, allowed: AllowList | None, budget: _Budget) -> None:
    for _ in range(MAX_REDIRECTS + 1):
        try:
            with _answer(location, budget) as answer:
                if answer.status not in (301, 302, 303, 307, 308):
                    _take(answer, target, budget)
                    return
                location = redirected(location, answer.getheader("Location") or "")
        except HeadraceError:
            raise
        except TimeoutError as error:
            raise budget.too_slow() from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            budget.seconds_left()  # a connection that was cut because its time was up
            raise budget.failed(f"{type(error).__name__}: {error}") from error
        if allowed is not None:
            allowed.check(location)
    raise budget.failed(f"it redirects more than {MAX_REDIRECTS} times")


@contextlib.contextmanager
def _answer(location: Location, budget: _Budget) -> Iterator[http.client.HTTPResponse]:
    parts = urlsplit(location.url)
    assert parts.hostname is not None
    left = budget.seconds_left()
    connection = (
        http.client.HTTPSConnection(parts.hostname, parts.port, timeout=left, context=ssl.create_default_context())
        if location.scheme == "https"
        else http.client.HTTPConnection(parts.hostname, parts.port, timeout=left)
    )
    try:
        connection.connect()
        # The timeout is of each read, and a byte now and then would stretch it for ever: the clock ends it.
        with _ended_after(budget.seconds_left(), connection):
            headers = {"User-Agent": f"headrace/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
            if parts.username is not None:  # of this host: a redirect has its own or none
                said = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
                headers["Authorization"] = "Basic " + base64.b64encode(said).decode()
            path = quote(parts.path or "/", safe=_SAFE) + (f"?{quote(parts.query, safe=_SAFE)}" if parts.query else "")
            connection.request("GET", path, headers=headers)
            with contextlib.closing(connection.getresponse()) as answer:
                yield answer
    finally:
        connection.close()


@contextlib.contextmanager
def _ended_after(seconds: float, connection: http.client.HTTPConnection) -> Iterator[None]:
    kept = connection.sock

    def end() -> None:
        with contextlib.suppress(OSError):
            kept.shutdown(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _take(answer: http.client.HTTPResponse, target: Path, budget: _Budget) -> None:
    if answer.status != 200:
        raise budget.failed(f"code: {answer.status}")
    if answer.getheader("Content-Encoding", "identity").lower() != "identity":
        raise budget.failed(f"it came as {answer.getheader('Content-Encoding')}, which was not asked for")
    expected = answer.length
    budget.announced(expected or 0)
    nbytes = 0
    with target.open("xb") as out:
        # One read of the socket at a time: to fill a buffer it would wait as long as something trickles in.
        while chunk := answer.read1(CHUNK):
            nbytes += len(chunk)
            budget.came(len(chunk))
            out.write(chunk)
    budget.seconds_left()
    if expected is not None and nbytes != expected:
        raise budget.failed(f"it was cut short: {nbytes:,} of {expected:,} bytes came")


def open_place(url: str, failed: Callable[[str], Exception]) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. `failed(why)` is raised where there is none."""
    import fsspec

    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
        return found
    except ImportError as error:
        scheme = url.partition(":")[0]
        raise failed(f"{scheme}:// needs a package that is not installed: {error}") from error
    except Exception as error:  # each implementation has errors of its own
        raise failed(f"{type(error).__name__}: {error}") from error


def _fetch_by_fsspec(location: Location, target: Path, budget: _Budget) -> None:
    """The clock is looked at between two reads: how long one may take is a setting of the implementation."""
    system, path = open_place(location.url, budget.failed)
    try:
        if not system.exists(path):
            raise SourceNotFound(f"Model not found in model store: {location.shown}", location.url)
        if not system.isdir(path):
            _copy(system, path, target, budget)
            return
        target.mkdir()
        files = sorted(system.find(path))
        if len(files) > MAX_FILES:
            raise budget.failed(f"the folder has more than {MAX_FILES:,} files")
        top = system._strip_protocol(path).rstrip("/")
        for file in files:
            into = target.joinpath(*parts_of(file.removeprefix(top).lstrip("/"), location.shown))
            into.parent.mkdir(parents=True, exist_ok=True)
            _copy(system, file, into, budget)
    except HeadraceError:
        raise
    except Exception as error:  # as above
        raise budget.failed(f"{type(error).__name__}: {error}") from error


def _copy(system: Any, path: str, target: Path, budget: _Budget) -> None:
    budget.announced(system.size(path) or 0)
    with system.open(path, "rb") as source, target.open("xb") as out:
        while chunk := source.read(CHUNK):
            budget.came(len(chunk))
            out.write(chunk)
