"""Where a model is: a name in the model store, or a URL that is allowed.

Rule 1: nothing remote is allowed unless a pattern of the operator's matches the whole URL; `file://` is remote.
Rule 2: what is judged is what would be fetched: a redirect is judged again, a URL that means another one is refused.
Rule 3: text in, Location out; nothing is looked up. The messages are those of the servers before us.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urljoin, urlsplit

from headrace.errors import InvalidOption, SourceNotFound, UrlNotAllowed

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:(?://|:)")
_CHECKSUM = re.compile(r"#sha256=([0-9A-Fa-f]*)\Z")


@dataclass(frozen=True, slots=True)
class Location:
    """`url` is without its checksum; `name` is what the file or folder there is called. `scheme`: None in the store."""

    url: str
    name: str
    scheme: str | None
    sha256: str | None

    @property
    def shown(self) -> str:
        return shown(self.url)


def locate(text: str) -> Location:
    """What `text` means: `squeezenet.mar`, `https://host/squeezenet.mar#sha256=...`. Raises SourceNotFound."""
    url, sha256 = text, None
    found = _CHECKSUM.search(text)
    if found is not None:
        url, sha256 = text[: found.start()], found[1].lower()
        if len(sha256) != 64:
            raise SourceNotFound(
                f"Invalid model url: {shown(text)}: #sha256= is followed by 64 hexadecimal digits", text
            )
    if not url.strip():
        raise SourceNotFound("empty url", text)
    if any(character < " " or character == "\x7f" for character in url):
        raise SourceNotFound(f"Invalid model url: {shown(url)!r}: it has control characters", text)
    if not _REMOTE.match(url):
        return Location(url, url.rstrip("/").rpartition("/")[2], None, sha256)
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SourceNotFound(f"Invalid model url: {shown(url)}: {error}", text) from error
    if "::" in url:
        raise SourceNotFound(f"Invalid model url: {shown(url)}: one URL, not a chain of them", text)
    path = _decoded(parts.path)
    if ".." in re.split(r"[/\\]", path):
        raise SourceNotFound(f"Relative path is not allowed in url: {shown(url)}", text)
    if parts.scheme.lower() in ("http", "https") and not parts.hostname:
        raise SourceNotFound(f"Invalid model url: {shown(url)}: it names no host", text)
    name = path.rstrip("/").rpartition("/")[2]
    if not name or name.startswith(".") or "\0" in name or "\\" in name:
        raise SourceNotFound(f"Invalid model url: {shown(url)}: it names no file", text)
    return Location(url, name, parts.scheme.lower(), sha256)


def name_in_store(location: Location) -> str:
    """The name, which is directly inside the store. Raises SourceNotFound where it would be elsewhere."""
    url = location.url.rstrip("/")
    if ".." in re.split(r"[/\\]", url) or "/" in url or "\\" in url or url in ("", "."):
        raise SourceNotFound(f"Relative path is not allowed in url: {location.url}", location.url)
    if url.startswith("."):
        raise SourceNotFound(f"Model not found in model store: {location.url}", location.url)
    return url


class AllowList:
    """Regular expressions, of which one must match the whole URL, in any case. Without one, no URL is allowed."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        try:
            self._patterns = [re.compile(pattern, re.IGNORECASE) for pattern in patterns]
        except re.error as error:
            raise InvalidOption(f"--allowed-urls {error.pattern!r} is no regular expression: {error}") from error

    def check(self, location: Location) -> None:
        """Raises UrlNotAllowed. User names and passwords in the URL are no part of what is matched."""
        url = shown(location.url, hide="")
        if not any(pattern.fullmatch(url) for pattern in self._patterns):
            raise UrlNotAllowed(location.shown)


def redirected(location: Location, to: str) -> Location:
    """Where an answer sends us, with the checksum that was asked for. Raises SourceNotFound."""
    target = locate(urljoin(location.url, to).partition("#")[0])
    if target.scheme not in ("http", "https"):
        raise UrlNotAllowed(target.shown)
    return Location(target.url, location.name, target.scheme, location.sha256)


def shown(url: str, hide: str = "***@") -> str:
    """`url` for people and logs: user name and password are replaced."""
    return re.sub(r"(?<=://)[^/?#]*@", hide, url, count=1)


def _decoded(path: str) -> str:
    """However often it is encoded: what is behind us may decode once more than we do."""
    while (again := unquote(path)) != path:
        path = again
    return path
