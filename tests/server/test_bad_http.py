"""Bytes that are not HTTP as we take it: the right refusal, nothing leaked, nobody stuck, the next one is served."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.testing import RunningServer, run_command, run_server

MODULE = "def same(x):\n    return x\n"
GOOD = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
START = b"POST /predictions/same HTTP/1.1\r\nHost: x\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
V2 = b"POST /v2/models/same/infer HTTP/1.1\r\nHost: x\r\n"

# (what is sent, the status, a word of the message). The client sends no more, and waits.
BAD: dict[str, tuple[bytes, int, str]] = {
    "not HTTP at all": (b"hello\r\n\r\n", 400, "not HTTP/1.1"),
    "TLS to a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100, 400, "not HTTP/1.1"),
    "a method in lower case": (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", 400, "not HTTP/1.1"),
    "an unknown method": (b"FETCH / HTTP/1.1\r\nHost: x\r\n\r\n", 400, "not HTTP/1.1"),
    "HTTP/0.9": (b"GET /ping\r\n\r\n", 505, "HTTP/0.9"),
    "HTTP/2 in a request line": (b"GET /ping HTTP/2.0\r\nHost: x\r\n\r\n", 505, "HTTP/2.0"),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2"),
    "HTTP/9.9": (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505, "version"),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505, "HTTP/1.1"),
    "HTTP/3.0": (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505, "HTTP/1.1"),
    "ICE": (b"SOURCE /predictions/same ICE/1.0\r\nHost: x\r\n\r\n", 505, "SOURCE"),
    "RTSP": (b"SETUP /predictions/same RTSP/1.0\r\nHost: x\r\n\r\n", 505, "SETUP"),
    "a huge trailer": (CHUNKED + b"0\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431, "32,768 bytes"),
    "a huge trailer that does not end": (CHUNKED + b"0\r\nX: " + b"a" * 200_000, 431, "32,768 bytes"),
    "many trailers": (CHUNKED + b"0\r\n" + b"X: a\r\n" * 200 + b"\r\n", 431, "100 trailers"),
    "a huge extension of a chunk": (CHUNKED + b"1;" + b"a" * 200_000, 431, "32,768 bytes"),
    "both lengths": (START + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GOOD, 400, "Length"),
    "both lengths the other way": (
        START + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n" + GOOD, 400, "Length",
    ),
    "two lengths that differ": (START + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc" + GOOD, 400, "Length"),
    "two lengths that agree": (START + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc" + GOOD, 400, "Length"),
    "a list of lengths": (START + b"Content-Length: 3, 3\r\n\r\nabc", 400, "Content-Length"),
    "a negative length": (START + b"Content-Length: -1\r\n\r\n", 400, "Content-Length"),
    "a length with a sign": (START + b"Content-Length: +3\r\n\r\nabc", 400, "Content-Length"),
    "a length in hexadecimal": (START + b"Content-Length: 0x3\r\n\r\nabc", 400, "Content-Length"),
    "a length that overflows": (START + b"Content-Length: 18446744073709551616\r\n\r\n", 400, "overflow"),
    "a length of many digits": (START + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n", 400, "overflow"),
    "a length that is huge": (START + b"Content-Length: 18446744073709551615\r\n\r\n", 413, "bytes"),
    "an empty length": (START + b"Content-Length:\r\n\r\n", 400, "Content-Length"),
    "a coding that is not chunked": (START + b"Transfer-Encoding: gzip\r\n\r\n", 400, "Transfer-Encoding"),
    "another coding before chunked": (START + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 400, "Transfer-Encoding"),
    "chunked twice": (CHUNKED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "Transfer-Encoding"),
    "a coding with a tab before it": (START + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400, "header"),
    "chunks in HTTP/1.0": (
        b"POST /predictions/same HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "HTTP/1.0",
    ),
    "a chunk size that is none": (CHUNKED + b"Z\r\nhello\r\n0\r\n\r\n", 400, "chunk size"),
    "a negative chunk size": (CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", 400, "chunk size"),
    "a chunk size that overflows": (CHUNKED + b"fffffffffffffffff\r\nhello", 400, "overflow"),
    "a chunk that is longer than it says": (CHUNKED + b"2\r\nhello\r\n0\r\n\r\n", 400, "chunk"),
    "chunks that end in a bare LF": (CHUNKED + b"5\nhello\n0\n\n", 400, "CR"),
    "a length among the trailers": (CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n" + GOOD, 400, "Content-Length"),
    "a folded header": (START + b"X: a\r\n b\r\n\r\n", 400, "whitespace"),
    "a space before the colon": (START + b"Content-Length : 3\r\n\r\nabc", 400, "header"),
    "a space before the name": (START + b" Content-Length: 3\r\n\r\nabc", 400, "whitespace"),
    "a bare CR in a value": (START + b"X: a\rContent-Length: 3\r\n\r\nabc", 400, "LF"),
    "a bare LF": (START + b"X: a\nContent-Length: 3\r\n\r\nabc", 400, "CR"),
    "NUL in a value": (START + b"X: a\0b\r\n\r\n", 400, "header"),
    "NUL in a name": (START + b"X\0: a\r\n\r\n", 400, "header"),
    "NUL in the target": (b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "url"),
    "a header without a name": (START + b": a\r\n\r\n", 400, "header"),
    "a header without a colon": (START + b"abc\r\n\r\n", 400, "header"),
    "a control character": (START + b"X: \x01\r\n\r\n", 400, "header"),
    "bytes above ASCII in the target": (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", 400, "url"),
    "a space in the target": (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400, "HTTP"),
    "a target without a slash": (b"GET ping HTTP/1.1\r\nHost: x\r\n\r\n", 400, "url"),
    "no host": (b"GET /ping HTTP/1.1\r\n\r\n", 400, "Host"),
    "two hosts": (b"GET /ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "Host"),
    "a huge header": (START + b"X: " + b"a" * 40_000 + b"\r\n\r\n", 431, "32,768 bytes"),
    "a huge header that does not end": (START + b"X: " + b"a" * 200_000, 431, "32,768 bytes"),
    "many headers": (START + b"X: a\r\n" * 200 + b"\r\n", 431, "100 headers"),
    "a huge target": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "8,192 bytes"),
    "an expectation nobody knows": (START + b"Content-Length: 3\r\nExpect: tea\r\n\r\nabc", 417, "100-continue"),
}  # fmt: skip
ONES_OWN = {  # what uvicorn, or the parser below it, takes or answers otherwise
    *("HTTP/0.9", "HTTP/2 in a request line", "no host", "two hosts", "a huge header", "many headers", "a huge target"),
    *("a huge header that does not end", "an expectation nobody knows", "chunks in HTTP/1.0"),
    *("ICE", "RTSP", "a huge trailer", "a huge trailer that does not end", "many trailers"),
    *("a huge extension of a chunk", "a space before the name", "a chunk that is longer than it says"),
}
LEAKS = ("Traceback", "/work", "/home", "site-packages", ".py", "0x7f", "httptools", "llhttp")


def files(folder: Path) -> Path:
    (folder / "for_bad_http.py").write_text(MODULE)
    return folder


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = files(tmp_path_factory.mktemp("own"))
    with run_server("for_bad_http:same", "--max-body-size=1000000", "--body-timeout=300", cwd=folder) as server:
        yield server
        assert server.stop() == 0, server.log()
        assert "Traceback" not in server.log()


@pytest.fixture(scope="module")
def under_uvicorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = files(tmp_path_factory.mktemp("uvicorn"))
    command = [sys.executable, str(Path(__file__).parent / "uvicorn_server.py"), "for_bad_http:same"]
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    with run_command([*command, "--max-body-size=1000000"], cwd=folder, env={"PYTHONPATH": path}) as server:
        yield server


def converse(server: RunningServer, sent: bytes, *, end: bool = False) -> bytes:
    """Send this, and read until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        try:
            connection.sendall(sent)
            if end:
                connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has heard enough
        found = b""
        try:
            while data := connection.recv(65536):
                found += data
        except ConnectionResetError:
            pass
        return found


def serves(server: RunningServer) -> bool:
    body = START + b"Content-Length: 5\r\nConnection: close\r\n\r\nhello"
    return converse(server, body).endswith(b"\r\n\r\nhello")


def the_one_reply(found: bytes) -> tuple[int, bytes]:
    """(status, body): one reply alone, and it says that the connection ends."""
    assert len(re.findall(rb"HTTP/1\.1 \d{3} ", found)) == 1, found
    head, _, body = found.partition(b"\r\n\r\n")
    match = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
    assert match, found
    assert b"connection: close" in head.lower()
    return int(match[1]), body


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_http_is_refused_with_a_reason_and_ends_the_connection(own: RunningServer, what: str) -> None:
    sent, status, says = BAD[what]
    code, body = the_one_reply(converse(own, sent))
    assert code == status, body
    assert says in body.decode()
    assert b'"message"' in body
    for leak in LEAKS:
        assert leak not in body.decode()
    assert serves(own)


@pytest.mark.parametrize("what", [what for what in BAD if what not in ONES_OWN])
def test_what_is_not_http_is_never_answered_as_if_it_were_under_uvicorn_either(
    under_uvicorn: RunningServer, what: str
) -> None:
    sent, status, _ = BAD[what]
    found = converse(under_uvicorn, sent)
    assert b"HTTP/1.1 200" not in found
    assert found.startswith(b"HTTP/1.1 4") or status == 505, found
    assert serves(under_uvicorn)


@pytest.mark.parametrize(
    "smuggled",
    [
        START + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GOOD,
        START + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + GOOD,
        START + b"Content-Length: 4\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + GOOD,
        START + b"Content-Length: 4\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + GOOD,
        START + b"Content-Length: 4\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GOOD,
        START + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 44\r\n\r\n" + GOOD,
        START + b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n" + GOOD,
    ],
)
def test_no_request_can_be_smuggled_in_the_body_of_another(own: RunningServer, smuggled: bytes) -> None:
    status, _ = the_one_reply(converse(own, smuggled))
    assert status == 400


def test_errors_on_v2_have_its_form(own: RunningServer) -> None:
    """Once the headers have ended; before that how much of the target is known depends on how the bytes were cut."""
    wrong = b"Content-Encoding: br\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    _, body = the_one_reply(converse(own, V2 + wrong))
    assert body.startswith(b'{"error":')


@pytest.mark.parametrize("garbage", [b"hello\r\n\r\n", b"\0" * 100, b"POST / HTTP/1.1\r\nHost: x\r\n y: z\r\n\r\n"])
def test_what_came_before_garbage_is_answered_first(own: RunningServer, garbage: bytes) -> None:
    good = START + b"Content-Length: 5\r\n\r\nhello"
    found = converse(own, good + good + garbage)
    assert re.findall(rb"HTTP/1\.1 (\d+)", found) == [b"200", b"200", b"400"]


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (START + b"Content-Length: 10\r\n\r\nhello", "after 5 bytes of the body"),
        (START + b"Content-Length: 10\r\n\r\n", "after 0 bytes of the body"),
        (CHUNKED + b"5\r\nhel", "after 3 bytes of the body"),
        (START + b"Content-Le", "in the middle of a request"),
        (b"GET /pi", "in the middle of a request"),
    ],
)
def test_a_request_that_is_cut_short_is_told_so(own: RunningServer, sent: bytes, says: str) -> None:
    status, body = the_one_reply(converse(own, sent, end=True))
    assert status == 400
    assert says in body.decode()
    assert serves(own)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"http://example.org/ping", 200),
        (b"http://example.org:80/ping?a=b", 200),
        (b"HTTP://x/ping#c", 200),
        (b"/ping?a=%zz", 200),
        (b"/p%69ng", 200),
        (b"/ping%", 404),
        (b"http://example.org", 405),  # it is /, which takes OPTIONS
        (b"/predictions/%ff%fe", 404),
        (b"/%2e%2e/etc/passwd", 404),
        (b"*", 404),
    ],
)
def test_every_form_of_a_target_is_understood(own: RunningServer, target: bytes, status: int) -> None:
    found = converse(own, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 %d " % status), found


def test_nobody_can_connect_through_it(own: RunningServer) -> None:
    found = converse(own, b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 404 "), found
