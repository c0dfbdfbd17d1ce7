"""Where a manager may have a model from. What the command line says is whoever started the server's; this came by
network.

Rule 1: a relative url is of the model store, where there is one, and no url leads out of it by `..`.
Rule 2: `module:function` is any code that can be imported: it is refused, unless whoever started the server allows it.
Rule 3: what is fetched is the store's business, and its allow-list's.
"""

from __future__ import annotations

from pathlib import Path

from headrace.archives.archive import is_archive
from headrace.archives.packed import PACKED
from headrace.archives.store import MODEL_FILES, Store
from headrace.errors import NO_MANIFEST, InvalidArchive, InvalidModel, SourceNotFound
from headrace.serving.wanted import CALLABLE, TORCH_FILES

_KINDS = (*PACKED, *MODEL_FILES, *TORCH_FILES, ".zip")


def _check_kind(path: Path, url: str, has_handler: bool) -> None:
    """InvalidModel for what nobody could load, whatever is in it."""
    if is_archive(path) or (has_handler and path.is_dir()) or (path.is_file() and path.name.endswith(_KINDS)):
        return
    wanted = f"an archive, or one of {', '.join(sorted(_KINDS))}, was expected"
    if path.is_dir():
        raise InvalidArchive(f"{url:.200} is a folder without a manifest: {wanted}", NO_MANIFEST)
    raise InvalidModel(f"{url:.200} is a file of no kind that is loaded: {wanted}")


def source_of(url: str, store: Store, *, callables: bool = False, has_handler: bool = False) -> str:
    """What `Sources.locate` is to look for. SourceNotFound for what is no file, folder, URL or callable, or may not be
    asked for; InvalidModel for what nobody could load. `has_handler`: the registration names one, which a folder
    without a manifest needs."""
    if not url:
        raise SourceNotFound("empty url", url)
    if ".." in url:
        raise SourceNotFound(f"Relative path is not allowed in url: {url:.200}", url)
    if "://" in url or "::" in url:
        return url
    folder, absolute = store.folder, Path(url).is_absolute()
    if not absolute and store.is_configured and folder is None:  # the store is a URL itself
        return url
    bare, mark, checksum = url.rpartition("#sha256=")
    for name, rest in ((url, ""), (bare, mark + checksum)) if bare else ((url, ""),):
        path = Path(name) if absolute or folder is None else folder / name
        try:
            there = path.exists()
            inside = absolute or folder is None or path.resolve().is_relative_to(folder.resolve())
        except (OSError, ValueError):  # a name that is too long, a folder that may not be entered, a NUL
            there, inside = False, True
        if not inside:
            raise SourceNotFound(f"Relative path is not allowed in url: {url:.200} leads out of the model store", url)
        if there:
            _check_kind(path, url, has_handler)
            return f"{path.absolute()}{rest}"
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
