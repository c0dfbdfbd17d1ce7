"""The management API: models come, change and go while the server serves. In the form of TorchServe and MMS.

Rule 1: a web page of another origin is refused: a browser would let it ask a server that only listens to its own
        machine.
Rule 2: what is refused is said in the words of the server that is spoken.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from headrace.errors import HeadraceError
from headrace.server import managed
from headrace.server.asking import Asked
from headrace.server.changes import Changes
from headrace.server.compat import Compat, refused
from headrace.server.head import Head
from headrace.server.looks import Looks
from headrace.server.managed import Managed
from headrace.server.refusing import error_reply, refusal
from headrace.server.reply import Reply
from headrace.server.status import InvalidToken, MethodNotAllowed, NotFound, Status
from headrace.server.tokens import API, MANAGEMENT, Tokens
from headrace.serving.compile_options import CompileOptions
from headrace.serving.management import Management

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_log = logging.getLogger("headrace.server")


class OtherOrigin(Exception):
    """A page of another origin asks."""


class ManagementDoor:
    """Lives on one event loop; `close` it."""

    def __init__(
        self,
        management: Management,
        options: CompileOptions,
        *,
        compat: Compat = Compat.headrace,
        tokens: Tokens | None = None,
        model_api: bool = True,
        shared: bool = False,
    ) -> None:
        """`options`: what a model is compiled with where nothing else is said. `shared`: the inference API is on the
        same port."""
        self.compat = compat
        self._tokens, self._model_api = tokens, model_api
        self._changes = Changes(management, options, compat, model_api=model_api)
        self._looks = Looks(management, compat, shared=shared)

    def close(self, *, wait: bool = True) -> None:
        self._looks.close(wait=wait)

    # ---- a request

    def takes(self, path: str) -> bool:
        """Whether it is one of its paths."""
        return bool(managed.find(path))

    def check(self, head: Head, origin: str | None) -> tuple[Managed, dict[str, str]]:
        """What answers it, by its headers, and what its path names. NotFound, MethodNotAllowed, InvalidToken …"""
        if origin is not None and not _is_near(origin):
            raise OtherOrigin(f"a page of {origin:.100} asks, and may not: managers are no web pages")
        there = managed.find(head.path)
        if not there:
            raise NotFound(f"there is no {head.path!r:.200}; {managed.near(head.path)}")
        if self._tokens is not None and head.path not in managed.OPEN:
            self._tokens.check(API if head.path.rstrip("/") == "/token" else MANAGEMENT, head.authorization)
        verb = "GET" if head.method == "HEAD" else head.method
        closed = () if self._model_api else ("register", "unregister")
        found = next((each for each in there if each[0].method == verb and each[0].does not in closed), None)
        if found is None:
            allowed = [each.method for each, _ in there if each.does not in closed]
            raise MethodNotAllowed(
                head.method, head.path, ", ".join([*allowed, *(["HEAD"] if "GET" in allowed else [])])
            )
        return found

    async def answer(self, route: Managed, asked: Asked) -> Reply:
        return await self.what(route.does)(asked)

    def what(self, does: str) -> Callable[[Asked], Awaitable[Reply]]:
        """Answers the routes that say so."""
        if does == "token":
            return self._token
        found: Callable[[Asked], Awaitable[Reply]] = getattr(
            self._changes if hasattr(Changes, does) else self._looks, does
        )
        return found

    def refuse(self, error: BaseException, head: Head | None, path: str, request_id: str, asked: Asked | None) -> Reply:
        """In the words of the server that is spoken."""
        if isinstance(error, OtherOrigin):
            return error_reply(path, Status(403, "BadRequestException"), str(error))
        if not isinstance(error, HeadraceError | NotFound | MethodNotAllowed | InvalidToken):
            return refusal(error, path, request_id)
        setting_default = path.rstrip("/").endswith("/set-default")
        url = "" if asked is None or path.rstrip("/") != "/models" else str(asked.parameters.told("url") or "")
        status, message = refused(self.compat, error, setting_default=setting_default, url=url)
        if status.code >= 500:
            _log.warning("%r was answered with %d: %s", path, status.code, " ".join(message.split()))
        allow = error.allowed if isinstance(error, MethodNotAllowed) else None
        return error_reply(path, status, message, allow=allow)

    async def _token(self, asked: Asked) -> Reply:
        if self._tokens is None:
            raise NotFound("there are no tokens: the server was not started with --enable-token-auth")
        self._tokens.renew(asked.parameters.text("type"))
        return Reply()


def _is_near(origin: str) -> bool:
    """Whether a page may ask: one of this machine."""
    try:
        host = urlsplit(origin).hostname
    except ValueError:
        return False
    return host in _LOOPBACK
