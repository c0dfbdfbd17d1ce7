"""Requests to a management API over http or https, with the standard library alone.

Rule 1: a connection that has answered is kept for the next look. A change gets one of its own: on a kept one that the
        server has just closed nobody could say whether it was done, so it could not be sent again.
Rule 2: no proxy, no redirect: a management API is near, and a token goes to nobody else.
Rule 3: what comes back is bounded, in time for each piece of it and in size.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from typing import Any
from urllib.parse import urlsplit

from headrace.client.refused import NOTHING, Subject, error_of
from headrace.errors import Closed, InvalidOption, NoAnswer, Unavailable, Unreachable
from headrace.version import __version__

MOST = 64 << 20
"""Bytes of an answer."""
KEPT = 4
"""Connections."""
LIST = "/models?"
NO_ROUTE = ("ResourceNotFoundException", "MethodNotAllowedException")
OTHER_API = (
    "what answers there has no models to manage; is it the inference API? The management API has an address of its own "
    "(--management-address, by default port 8081)"
)


class Wire:
    """Safe from any thread. `close` it."""

    def __init__(self, url: str, token: str | None, timeout: float, context: ssl.SSLContext | None) -> None:
        """InvalidOption for what is no URL of a server, or no token."""
        self._scheme, self._host, self._port, self._prefix = _parsed(url)
        self.url = f"{self._scheme}://{self._shown()}{self._prefix}"
        if not 0 < timeout <= 1e6:
            raise InvalidOption(f"timeout is in seconds, above 0 and at most 1,000,000, not {timeout!r:.40}")
        self.timeout, self._context = timeout, context
        self._headers = {"Accept": "application/json", "User-Agent": f"headrace/{__version__}"}
        if token is not None:
            if not token.isascii() or not token.isprintable() or not token.strip():
                raise InvalidOption("a token is a line of printable ASCII; this one is not")
            self._headers["Authorization"] = f"Bearer {token.strip()}"
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._closed = False

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def look(self, path: str, subject: Subject = NOTHING) -> Any:
        """What is told there. Our errors for what is refused."""
        connection = self._take()
        if connection is not None:
            try:
                return self._ask(connection, "GET", path, None, self.timeout, subject)[0]
            except Unreachable:
                pass  # it was kept too long: a look can be had again
        return self._ask(self._new(self.timeout), "GET", path, None, self.timeout, subject)[0]

    def change(
        self, method: str, path: str, said: dict[str, Any], subject: Subject, *, timeout: float | None = None
    ) -> tuple[Any, str | None]:
        """What is told of it, and where to look how it goes on, if it does."""
        seconds = self.timeout if timeout is None else timeout
        body = json.dumps(said).encode() if said else None
        return self._ask(self._new(seconds), method, path, body, seconds, subject)

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        seconds: float,
        subject: Subject,
    ) -> tuple[Any, str | None]:
        status, told, where = self._exchange(connection, method, path, body, seconds)
        if status < 400:
            return told, where
        kind = str(told.get("type", ""))
        if kind in NO_ROUTE and (path.startswith(LIST) or self._lacks_models()):
            raise Unreachable(self.url, OTHER_API)
        raise error_of(status, kind, told["message"], subject)

    def _lacks_models(self) -> bool:
        """Whether what has no route that was asked for has none of a management API at all."""
        try:
            _, told, _ = self._exchange(self._new(self.timeout), "GET", f"{LIST}limit=1", None, self.timeout)
        except Unavailable:
            return False
        return str(told.get("type", "")) in NO_ROUTE

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, seconds: float
    ) -> tuple[int, Any, str | None]:
        """The status, what was told, and where to look on. An error is told as one of a management API, or it is
        Unreachable."""
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        kept = False
        try:
            connection.request(method, f"{self._prefix}{path}", body, headers)
            answer = connection.getresponse()
            content = answer.read(MOST + 1)
            kept = len(content) <= MOST and not answer.will_close and method == "GET"
        except TimeoutError as error:
            raise NoAnswer(f"{method} {self.url}{path}", seconds) from error
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(self.url, _why(error)) from error
        finally:
            if not kept or not self._keep(connection):
                connection.close()
        if len(content) > MOST:
            raise Unreachable(self.url, f"what it answers has more than {MOST:,} bytes")
        told = self._read(answer, content)
        if answer.status >= 400 and (not isinstance(told, dict) or not isinstance(told.get("message"), str)):
            raise Unreachable(self.url, f"{answer.status} in a form that is none of a management API")
        return answer.status, told, answer.getheader("location")

    def _read(self, answer: http.client.HTTPResponse, content: bytes) -> Any:
        if answer.status >= 300 and answer.status < 400:
            raise Unreachable(self.url, f"it answers {answer.status}, and leads elsewhere")
        try:
            return json.loads(content) if content.strip() else None
        except ValueError:
            kind = answer.getheader("content-type", "no type")
            raise Unreachable(self.url, f"it answers {answer.status} with {kind:.60}, not JSON") from None

    def _new(self, timeout: float) -> http.client.HTTPConnection:
        if self._closed:
            raise Closed("this manager was closed")
        if self._scheme == "http":
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        context = self._context or ssl.create_default_context()
        return http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=context)

    def _take(self) -> http.client.HTTPConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _keep(self, connection: http.client.HTTPConnection) -> bool:
        with self._lock:
            if self._closed or len(self._idle) >= KEPT:
                return False
            self._idle.append(connection)
            return True

    def _shown(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return host if self._port is None else f"{host}:{self._port}"


def _parsed(url: str) -> tuple[str, str, int | None, str]:
    wanted = f"a management API is at a URL as http://127.0.0.1:8081, not {url!r:.200}"
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidOption(wanted) from error
    clean = not (parts.query or parts.fragment or parts.username) and url.isascii() and url.strip().isprintable()
    if parts.scheme not in ("http", "https") or not host or not clean or " " in url.strip():
        raise InvalidOption(wanted)
    return parts.scheme, host, port, parts.path.rstrip("/")


def _why(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused; is the server running, with its management door open (--management-address)?"
    if isinstance(error, ssl.SSLError):
        return f"no TLS that can be trusted: {error.reason or error}"
    said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(said.split())
