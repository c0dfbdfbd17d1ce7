"""The management API of a server, as one thing with a life of its own: its port, its tokens, its threads."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from headrace.server.app import App
from headrace.server.compat import Compat
from headrace.server.limits import Limits
from headrace.server.listener import Listener
from headrace.server.management import ManagementDoor
from headrace.server.management_app import ManagementApp, ManagementPort
from headrace.server.options import Address, ServeOptions
from headrace.server.tokens import Tokens
from headrace.server.traffic import Traffic
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.management import Management
from headrace.serving.watcher import Watcher

LAST_WORDS = 1.0
_log = logging.getLogger("headrace.server")


class Managing:
    """Takes its port, and writes its keys, when it is made: SetupError says why it cannot. `close` it."""

    def __init__(self, options: ServeOptions, inference: Address, tls: ssl.SSLContext | None) -> None:
        """`inference`: where that API is. Where this one is at the same place, both are on one port."""
        address = Address.parse("--management-address", options.management_address, encrypted=tls is not None)
        self._options = options
        self._is_off = address is None
        self._shared = address == inference and inference.port != 0
        self._listener: Listener | None = None
        self._port: ManagementPort | None = None
        self._door: ManagementDoor | None = None
        self._management: Management | None = None
        self._watcher: Watcher | None = None
        scheme = "https" if tls is not None else "http"
        self.tokens: Tokens | None = None
        if address is not None and not self._shared:
            self._listener = Listener("--management-address", address, tls, options.header_timeout)
            self._url = f"{scheme}://{self._listener.address}"
        try:
            if options.enable_token_auth and not options.disable_token_auth:
                self.tokens = Tokens(Path(options.key_file), options.token_expiration)
                _log.info("tokens are wanted; the keys are in %s", options.key_file)
        except BaseException:
            self.close()
            raise

    def url(self, inference: str) -> str | None:
        """Where it is; `inference`: the URL of that API."""
        return None if self._is_off else inference if self._shared else self._url

    def begin(self, lifecycle: Lifecycle, app: App, traffic: Traffic | None) -> None:
        """What there is to manage has been loaded. On a shared port `app` has its routes from now on."""
        options = self._options
        self._management = Management(lifecycle, callables=options.manage_callables == "yes")
        if options.model_control == "poll":
            self._watcher = Watcher(self._management, lifecycle.sources.store, options.model_poll_seconds)
        if self._is_off:
            return
        self._door = ManagementDoor(
            self._management,
            lifecycle.options,
            compat=Compat(options.compat),
            tokens=self.tokens,
            model_api=options.model_control == "explicit" and not options.disable_model_api,
            shared=self._shared,
        )
        managing = ManagementApp(self._door, body_timeout=options.body_timeout, traffic=traffic)
        if self._listener is None:
            app.management = managing
        else:
            self._port = ManagementPort(managing, self._listener, Limits.of(options), self._url)

    def open(self) -> None:
        """On the loop of the server."""
        if self._watcher is not None:
            self._watcher.start()
        if self._port is not None:
            self._port.open()

    async def drain(self, timeout: float) -> None:
        """On the loop, beside the inference API: what was asked is answered, for at most so many seconds."""
        if self._port is not None:
            await self._port.drain(max(LAST_WORDS, timeout))

    def close(self, timeout: float = 0.0) -> None:
        """No more changes; one that goes on is waited for so many seconds."""
        if self._watcher is not None:
            self._watcher.close()
        if self._management is not None and not self._management.close(timeout):
            _log.warning("stopped: a change of a model did not end within %.0f s", timeout)
        if self._port is not None:
            self._port.close()
        elif self._listener is not None:
            self._listener.close()
        if self._door is not None:
            self._door.close(wait=False)
        if self.tokens is not None:
            self.tokens.remove()
