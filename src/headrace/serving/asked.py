"""Where a manager may have a model from. What the command line says is whoever started the server's; this came by
network.

Rule 1: a relative url is of the model store, where there is one, and no url leads out of it by `..`.
Rule 2: `module:function` is any code that can be imported, so it is refused unless whoever started the server allows
        it.
"""

from __future__ import annotations

from pathlib import Path

from headrace.errors import SourceNotAllowed, SourceNotFound
from headrace.serving.sources import CALLABLE


def source_of(url: str, store: Path | None, *, callables: bool = False) -> str:
    """What `Sources.locate` is to look for. SourceNotAllowed; SourceNotFound for what is no file, folder or
    callable."""
    if not url:
        raise SourceNotFound("", "nothing: the url is empty")
    if ".." in url:
        raise SourceNotAllowed(url, f"Relative path is not allowed in url: {url:.200}")
    path = Path(url)
    if not path.is_absolute() and store is not None:
        path = store / url
    try:
        if path.exists():
            return str(path.absolute())
    except (OSError, ValueError):  # a name that is too long, a folder that may not be entered, a NUL
        pass
    if CALLABLE.match(url):
        if callables:
            return url
        raise SourceNotAllowed(
            url,
            f"{url:.200} names code to import, which managers may not do; start the server with --manage-callables yes "
            "to allow it",
        )
    looked = str(store) if store is not None and not Path(url).is_absolute() else str(Path.cwd())
    raise SourceNotFound(url, looked)
