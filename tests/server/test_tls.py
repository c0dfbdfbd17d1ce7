"""https, with a certificate of our own making."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from headrace.errors import InvalidOption
from headrace.server.options import ServeOptions
from headrace.server.run import serve
from headrace.testing import run_server

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    (folder / "for_tls.py").write_text("def same(x):\n    return x\n")
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"))
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1")
    subprocess.run(["openssl", "req", "-x509", *kind, *files, *name], check=True, capture_output=True)
    return folder


def test_the_inference_api_speaks_https(folder: Path) -> None:
    flags = (f"--tls-cert={folder / 'cert.pem'}", f"--tls-key={folder / 'key.pem'}", "--header-timeout=1")
    with run_server("for_tls:same", *flags, cwd=folder) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
        with httpx.Client(base_url=server.url, verify=context, trust_env=False) as client:
            for size in (0, 5, 300_000):
                body = b"x" * size
                assert client.post("/predictions/same", content=body).content == body
            assert client.get("/ping").json() == {"status": "Healthy"}
        # Who speaks no TLS, or nothing at all, is cut off, and costs the others nothing.
        for sent in (b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n", b""):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as plain:
                plain.sendall(sent)
                with contextlib.suppress(ConnectionResetError):
                    assert b"HTTP" not in plain.recv(1000)
        assert server.stop() == 0, server.log()
        assert "Traceback" not in server.log()


@pytest.mark.parametrize(
    ("cert", "key", "says"),
    [
        (None, "key.pem", "--tls-key needs --tls-cert"),
        ("nowhere.pem", None, "No such file"),
        ("cert.pem", "for_tls.py", "cannot be used"),
        ("cert.pem", None, "cannot be used"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_told_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cert: str | None, key: str | None, says: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(InvalidOption, match=says):
        serve(ServeOptions(models=("for_tls:same",), inference_address="127.0.0.1:0", tls_cert=cert, tls_key=key))


def test_silent_handshakes_are_connections_and_do_not_spoil_the_stop(folder: Path) -> None:
    flags = (f"--tls-cert={folder / 'cert.pem'}", f"--tls-key={folder / 'key.pem'}", "--max-connections=3")
    with run_server("for_tls:same", *flags, "--drain-timeout=3600", "--header-timeout=3600", cwd=folder) as server:
        context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
        with contextlib.ExitStack() as open_ones:

            def connect() -> socket.socket:
                plain = socket.create_connection(("127.0.0.1", server.port), timeout=30)
                return open_ones.enter_context(plain)

            busy = open_ones.enter_context(context.wrap_socket(connect(), server_hostname="127.0.0.1"))
            head = b"POST /predictions/same HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
            busy.sendall(head + b"x")
            assert busy.recv(1000).startswith(b"HTTP/1.1 200 ")
            silent = [connect() for _ in range(3)]
            with contextlib.suppress(ConnectionResetError):
                assert silent[2].recv(1) == b"", "the fourth connection was taken"
            server.signal(signal.SIGTERM)
            for one in (*silent[:2], busy):
                with contextlib.suppress(ConnectionResetError):
                    assert one.recv(1000) == b""
            assert server.process.wait(30) == 0, server.log()
