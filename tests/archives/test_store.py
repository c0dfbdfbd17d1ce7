"""The model store, and what URLs bring: real servers, real files."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from headrace.archives.cache import Cache
from headrace.archives.download import DownloadLimits
from headrace.archives.store import Store
from headrace.errors import DownloadFailed, InvalidOption, SourceNotFound, UrlNotAllowed
from headrace.serving.sources import Sources
from headrace.testing import make_archive

BODY = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()


class Site:
    """A web server on loopback: `pages` are functions of the request's handler, by path."""

    def __init__(self) -> None:
        site = self
        self.pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.seen: list[tuple[str, str | None]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.seen.append((self.path, self.headers.get("Authorization")))
                self.close_connection = True
                site.pages.get(self.path, lambda it: answer(it, b"no", code=404))(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


def answer(it: BaseHTTPRequestHandler, body: bytes, *, code: int = 200, **headers: str) -> None:
    it.send_response(code)
    for name, value in ({"Content_Length": str(len(body))} | headers).items():
        if value:
            it.send_header(name.replace("_", "-"), value)
    it.end_headers()
    it.wfile.write(body)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    site.pages["/m.mar"] = lambda it: answer(it, BODY)
    yield site
    site.close()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def store_for(site: Site, cache: Cache, **limits: float) -> Store:
    return Store(allowed=[f"{site.url}/.*"], cache=cache, limits=DownloadLimits(**limits))  # type: ignore[arg-type]


def nothing_left(cache: Cache) -> bool:
    return list(cache.root.iterdir()) == []


def test_a_url_is_fetched_and_gone_once_it_is_closed(site: Site, cache: Cache) -> None:
    place = store_for(site, cache).find(f"{site.url}/m.mar")
    assert (place.path.name, place.path.read_bytes()) == ("m.mar", BODY)
    place.close()
    assert nothing_left(cache)


def test_by_default_nothing_is_fetched(site: Site, cache: Cache, tmp_path: Path) -> None:
    for url in (f"{site.url}/m.mar", f"file://{tmp_path}/m.mar", "memory://x/m.mar"):
        with pytest.raises(UrlNotAllowed, match=r"does not match any allowed URL\(s\)"):
            Store(tmp_path, cache=cache).find(url)
    assert site.seen == []


def test_a_checksum_is_checked(site: Site, cache: Cache) -> None:
    store = store_for(site, cache)
    store.find(f"{site.url}/m.mar#sha256={DIGEST}").close()
    with pytest.raises(DownloadFailed, match=f"its sha256 is {DIGEST}, not {'0' * 64}"):
        store.find(f"{site.url}/m.mar#sha256={'0' * 64}")
    assert nothing_left(cache)


@pytest.mark.parametrize("announced", [True, False])
def test_more_than_is_allowed_is_not_fetched(site: Site, cache: Cache, announced: bool) -> None:
    site.pages["/m.mar"] = lambda it: answer(it, BODY, Content_Length=str(len(BODY)) if announced else "")
    store_for(site, cache, max_bytes=len(BODY)).find(f"{site.url}/m.mar").close()
    with pytest.raises(DownloadFailed, match=r"more than 255,999 bytes; --max-download-size") as raised:
        store_for(site, cache, max_bytes=len(BODY) - 1).find(f"{site.url}/m.mar")
    assert raised.value.url == f"{site.url}/m.mar"
    assert nothing_left(cache)


@pytest.mark.parametrize("where", ["before the headers", "in the headers", "in the body"])
def test_an_answer_that_never_ends_is_given_up(site: Site, cache: Cache, where: str) -> None:
    given_up = threading.Event()

    def trickle(it: BaseHTTPRequestHandler) -> None:
        if where != "before the headers":
            it.wfile.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n" + (b"X: " if "in the h" in where else b"\r\n")
            )
        # A byte now and then: no single read takes long.
        while where != "before the headers" and not given_up.wait(0.02):
            try:
                it.wfile.write(b"x")
            except OSError:
                return
        given_up.wait()

    site.pages["/m.mar"] = trickle
    try:
        with pytest.raises(DownloadFailed, match=r"longer than 0\.3 s; --download-timeout"):
            store_for(site, cache, timeout=0.3).find(f"{site.url}/m.mar")
    finally:
        given_up.set()
    assert nothing_left(cache)


def test_a_download_that_is_cut_short_is_none(site: Site, cache: Cache) -> None:
    site.pages["/m.mar"] = lambda it: answer(it, BODY, Content_Length=str(len(BODY) + 1))
    with pytest.raises(DownloadFailed, match="cut short: 256,000 of 256,001 bytes"):
        store_for(site, cache).find(f"{site.url}/m.mar")
    assert nothing_left(cache)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (lambda it: answer(it, b"gone", code=404), "code: 404"),
        (lambda it: answer(it, b"", code=204), "code: 204"),
        (lambda it: answer(it, BODY, Content_Encoding="gzip"), "came as gzip"),
        (lambda it: it.wfile.write(b"not http\r\n\r\n"), "BadStatusLine"),
        (lambda it: None, "RemoteDisconnected"),
    ],
)
def test_an_answer_that_is_none_is_said(
    site: Site, cache: Cache, page: Callable[[BaseHTTPRequestHandler], None], said: str
) -> None:
    site.pages["/m.mar"] = page
    with pytest.raises(DownloadFailed, match=rf"^Failed to download archive from: {site.url}/m\.mar .*{said}"):
        store_for(site, cache).find(f"{site.url}/m.mar")
    assert nothing_left(cache)


def test_nobody_there_is_said(cache: Cache) -> None:
    with pytest.raises(DownloadFailed, match="ConnectionRefusedError"):
        Store(allowed=[".*"], cache=cache).find("http://127.0.0.1:1/m.mar")


def sent_to(where: str) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda it: answer(it, b"", code=302, Location=where)


def test_a_redirect_is_followed_to_where_it_is_allowed(site: Site, cache: Cache) -> None:
    site.pages["/here.mar"] = sent_to("/m.mar")
    place = store_for(site, cache).find(f"{site.url}/here.mar#sha256={DIGEST}")
    assert (place.path.name, place.path.read_bytes()) == ("here.mar", BODY)
    place.close()


def test_a_redirect_is_judged_as_the_first_url_was(site: Site, cache: Cache, tmp_path: Path) -> None:
    other = Site()
    try:
        other.pages["/m.mar"] = lambda it: answer(it, BODY)
        for where in (f"{other.url}/m.mar", f"file://{tmp_path}/x", "memory://x", "/", ""):
            site.pages["/here.mar"] = sent_to(where)
            with pytest.raises((UrlNotAllowed, SourceNotFound, DownloadFailed)):
                store_for(site, cache).find(f"{site.url}/here.mar")
        assert other.seen == []
    finally:
        other.close()
    assert nothing_left(cache)


def test_a_circle_of_redirects_ends(site: Site, cache: Cache) -> None:
    site.pages["/m.mar"] = sent_to("/m.mar")
    with pytest.raises(DownloadFailed, match="redirects more than 5 times"):
        store_for(site, cache).find(f"{site.url}/m.mar")


def test_a_password_is_for_the_host_it_was_given_for(site: Site, cache: Cache) -> None:
    other = Site()
    try:
        other.pages["/m.mar"] = lambda it: answer(it, BODY)
        site.pages["/here.mar"] = sent_to(f"{other.url}/m.mar")
        store = Store(allowed=[r"http://127\.0\.0\.1:\d+/.*"], cache=cache)
        store.find(f"{site.url}/here.mar".replace("http://", "http://user:secret@")).close()
        basic = "Basic " + base64.b64encode(b"user:secret").decode()
        assert site.seen == [("/here.mar", basic)]
        assert other.seen == [("/m.mar", None)]
    finally:
        other.close()
    with pytest.raises(DownloadFailed) as raised:
        store.find(f"{site.url}/gone.mar".replace("http://", "http://user:secret@"))
    assert "secret" not in str(raised.value)


def test_a_folder_as_a_store_has_files_and_folders_by_name(tmp_path: Path, cache: Cache) -> None:
    root = tmp_path / "store"
    packed = make_archive(root, "a", files={"service.py": ""})
    unpacked = make_archive(root, "b", files={"service.py": ""}, archive_format="no-archive")
    make_archive(root, "c", files={"service.py": ""}, archive_format="tgz")
    for name in ("m.onnx", ".hidden.mar", "notes.txt", "m.pt"):
        (root / name).touch()
    (root / "empty").mkdir()
    store = Store(root, cache=cache)
    assert store.names() == ["a.mar", "b", "c.tar.gz", "m.onnx"]
    assert store.find("a.mar").path == packed
    assert store.find("b").path == store.find("b/").path == unpacked
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    assert store.find(f"a.mar#sha256={digest}").path == packed
    with pytest.raises(DownloadFailed, match="not 0000"):
        store.find(f"a.mar#sha256={'0' * 64}")
    with pytest.raises(DownloadFailed, match="a folder, which has none"):
        store.find(f"b#sha256={digest}")
    with pytest.raises(SourceNotFound, match=r"^Model not found in model store: z\.mar$"):
        store.find("z.mar")
    with pytest.raises(SourceNotFound, match=r"^Model not found in model store: x"):
        store.find("x" * 5000)
    with pytest.raises(SourceNotFound, match=r"^Relative path is not allowed in url: b/service\.py$"):
        store.find("b/service.py")
    assert (str(store), store.is_configured) == (str(root), True)
    assert nothing_left(cache)


def test_without_a_store_a_name_is_not_found(cache: Cache) -> None:
    store = Store(cache=cache)
    for look in (lambda: store.find("m.mar"), store.names):
        with pytest.raises(SourceNotFound, match=r"^Model store has not been configured\.$"):
            look()


def test_a_file_url_is_used_in_place_where_it_is_allowed(tmp_path: Path, cache: Cache) -> None:
    path = make_archive(tmp_path, "a", files={"s.py": ""})
    store = Store(allowed=[f"file://{tmp_path}/.*"], cache=cache)
    assert store.find(f"file://{path}").path == path
    for url in (f"file://{tmp_path}/gone.mar", f"file://host{path}"):
        with pytest.raises((SourceNotFound, UrlNotAllowed)):
            store.find(url)


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    """fsspec's own store in memory, with an archive and an archive folder in it."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_any_fsspec_url_may_be_the_store(tmp_path: Path, cache: Cache, memory: fsspec.AbstractFileSystem) -> None:
    packed = make_archive(tmp_path, "a", files={"service.py": "packed"})
    unpacked = make_archive(tmp_path, "b", files={"sub/service.py": "unpacked"}, archive_format="no-archive")
    memory.put(str(packed), "/models/a.mar")
    memory.put(str(unpacked), "/models/b", recursive=True)
    memory.pipe("/models/notes.txt", b"x")
    memory.pipe("/models/folder/x", b"x")
    store = Store("memory://models", cache=cache, limits=DownloadLimits(max_bytes=10_000))
    assert store.names() == ["a.mar", "b"]
    place = store.find("a.mar")
    assert place.path.read_bytes() == packed.read_bytes()
    place.close()
    place = store.find("b")
    assert (place.path / "sub" / "service.py").read_text() == "unpacked"
    assert (place.path / "MAR-INF" / "MANIFEST.json").exists()
    place.close()
    with pytest.raises(SourceNotFound, match=r"^Model not found in model store: "):
        store.find("z.mar")
    for source in ("../a.mar", "folder/x"):
        with pytest.raises(SourceNotFound, match=r"^Relative path is not allowed"):
            store.find(source)
    memory.pipe("/models/large.mar", bytes(10_001))
    with pytest.raises(DownloadFailed, match="more than 10,000 bytes"):
        store.find("large.mar")
    assert nothing_left(cache)


def test_any_fsspec_url_may_be_fetched_where_it_is_allowed(cache: Cache, memory: fsspec.AbstractFileSystem) -> None:
    store = Store(allowed=["memory://.*"], cache=cache)
    memory.pipe("/x/m.mar", BODY)
    place = store.find(f"memory://x/m.mar#sha256={DIGEST}")
    assert place.path.read_bytes() == BODY
    place.close()
    with pytest.raises(DownloadFailed, match="nosuch"):
        Store(allowed=["nosuch://.*"], cache=cache).find("nosuch://x/m.mar")
    assert nothing_left(cache)


def test_a_store_that_cannot_be_one_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"--model-store \S+ is not a folder"):
        Store(tmp_path / "gone")
    with pytest.raises(InvalidOption, match="http cannot list"):
        Store("https://h/models")
    with pytest.raises(InvalidOption, match=r"--model-store nosuch://x"):
        Store("nosuch://x").names()


def test_a_store_that_cannot_be_listed_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        Store(f"file://{tmp_path}/gone").names()
    with pytest.raises(InvalidOption, match=r"--model-store file://\S+/gone cannot be listed: "):
        Sources(Store(f"file://{tmp_path}/gone")).in_store()
