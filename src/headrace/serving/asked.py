"""Where a manager may have a model from. What the command line says is whoever started the server's; this came by
network.

Rule 1: a relative url is of the model store, where there is one, and no url leads out of it by `..`.
Rule 2: `module:function` is any code that can be imported: it is refused, unless whoever started the server allows it.
Rule 3: what is fetched is the store's business, and its allow-list's.
"""

from __future__ import annotations

from pathlib import Path

from headrace.archives.store import Store
from headrace.errors import SourceNotFound
from headrace.serving.sources import CALLABLE


def source_of(url: str, store: Store, *, callables: bool = False) -> str:
    """What `Sources.locate` is to look for. SourceNotFound for what is no file, folder, URL or callable, or may not be
    asked for."""
    if not url:
        raise SourceNotFound("empty url", url)
    if ".." in url:
        raise SourceNotFound(f"Relative path is not allowed in url: {url:.200}", url)
    if "://" in url or "::" in url:
        return url
    folder, absolute = store.folder, Path(url).is_absolute()
    if not absolute and store.is_configured and folder is None:  # the store is a URL itself
        return url
    path = Path(url) if absolute or folder is None else folder / url
    if _exists(path):
        return str(path.absolute())
    bare, mark, checksum = url.rpartition("#sha256=")
    if mark and bare and _exists(path := Path(bare) if absolute or folder is None else folder / bare):
        return f"{path.absolute()}{mark}{checksum}"
    if CALLABLE.match(url):
        if callables:
            return url
        raise SourceNotFound(
            f"{url:.200} names code to import, which managers may not do; start the server with --manage-callables yes "
            "to allow it",
            url,
        )
    looked = Path.cwd() if absolute or folder is None else folder
    raise SourceNotFound(f"Model not found at: {url:.200} (looked in {looked})", url)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, a folder that may not be entered, a NUL
        return False
