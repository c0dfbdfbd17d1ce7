"""What managers are shown: models, how they are, operations, the document of it all.

Rule 1: what reads processes, or is long, is done on a thread for that: the event loop is the inference API's, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from headrace.errors import HeadraceError, ModelNotFound, Overloaded
from headrace.server import compat as says
from headrace.server import health, managed, routes, v2_repository
from headrace.server.asking import Asked, until, written
from headrace.server.compat import Compat, refused
from headrace.server.custom import reply_of
from headrace.server.reply import Reply
from headrace.server.status import NotFound, NoWorkerToAsk
from headrace.serving import describe, self_description
from headrace.serving.looking import look, url_of
from headrace.serving.management import Management
from headrace.serving.operations import Operation
from headrace.serving.registry import State
from headrace.version import __version__

MOST_LOOKING = 64
"""Looks that may wait for the thread."""
LONG = 200
"""Models from which on a list is made on a thread."""


class Looks:
    """Lives on one event loop; `close` it."""

    def __init__(self, management: Management, compat: Compat, *, shared: bool) -> None:
        """`shared`: the inference API is on the same port."""
        self.management, self.service, self.compat = management, management.service, compat
        self.registry = management.registry
        self._shared = shared
        self._looking = 0
        self._looker = ThreadPoolExecutor(1, thread_name_prefix="headrace-describe")

    def close(self, *, wait: bool = True) -> None:
        self._looker.shutdown(wait=wait)

    async def list(self, asked: Asked) -> Reply:
        limit, token = asked.parameters.integer("limit"), asked.parameters.integer("next_page_token")
        detail = asked.parameters.is_true("detail", False)

        def look_at() -> Reply:
            models = [(entry.name, url_of(entry)) for entry in self.registry.defaults()]
            page = describe.page(models, describe.MOST_LISTED if limit is None else limit, token or 0)
            if detail:
                page["models"] = [one | self._detail(one["modelName"]) for one in page["models"]]
            return written(page)

        return await self._look(look_at, long=detail or len(self.registry) > LONG)

    def _detail(self, name: str) -> dict[str, Any]:
        """Every version of a model of a page. Nothing of one that has gone meanwhile."""
        try:
            default, entries = self.registry.find(name), self.registry.entries(name)
        except ModelNotFound:
            return {}
        seen = [describe.torchserve(look(entry, self.service)) for entry in entries]
        return {"defaultVersion": default.version, "versions": seen}

    async def describe(self, asked: Asked) -> Reply:
        every = asked.version == "all" and self.compat is not Compat.mms
        entries = self.registry.entries(asked.name) if every else [self.registry.find(asked.name, asked.version)]
        about: list[str | None] = [None] * len(entries)
        if asked.parameters.is_true("customized", False) and not every and self.compat is not Compat.mms:
            told = await self._customized(asked)
            if isinstance(told, Reply):
                return told
            about = [told]

        def look_at() -> Reply:
            seen = [look(entry, self.service) for entry in entries]
            if self.compat is Compat.mms:
                return written(describe.mms(seen[0]))
            ours = not self.compat.is_old
            return written([describe.torchserve(facts, each, ours=ours) for facts, each in zip(seen, about)])

        long = len(entries) > LONG or any(entry.served is not None for entry in entries)
        return await self._look(look_at, long=long)

    async def _customized(self, asked: Asked) -> Reply | str | None:
        """What its handler says of itself, as text, as in TorchServe; or the answer that refuses to. Of what cannot be
        asked, nothing. Where nobody waits any more it is withdrawn."""
        entry = self.registry.find(asked.name, asked.version)
        if entry.served is None or entry.state is not State.READY:
            raise NoWorkerToAsk(entry.name, entry.version, entry.state, entry.reason)
        begun = self_description.ask(self.service, asked.name, asked.version, asked.who)
        if begun is None:
            return None
        inside, outcome = begun
        try:
            reply = reply_of(await until(outcome), reasons=not self.compat.is_old)
        finally:
            inside.depart()
        return reply.body.decode(errors="replace") if reply.status < 300 else reply

    async def v1_ready(self, asked: Asked) -> Reply:
        entry = self.registry.find(asked.name)
        return written({"name": entry.name, "ready": entry.state is State.READY})

    async def operation(self, asked: Asked) -> Reply:
        found = self.management.operations.find(asked.named["operation"])
        if found is None:
            raise NotFound(f"there is no operation {asked.named['operation']!r:.80}; the oldest are forgotten")
        return written(self.told(found))

    async def operations(self, asked: Asked) -> Reply:
        def look_at() -> Reply:
            return written(
                {"operations": [self.told(each) for each in self.management.operations.newest_first()[:LONG]]}
            )

        return await self._look(look_at, long=True)

    async def ping(self, asked: Asked) -> Reply:
        return health.ping(self.service, self.compat)

    async def api(self, asked: Asked) -> Reply:
        document = managed.document(__version__)
        if self._shared:
            document = _both(routes.document(self.service), document)
        return written(document)

    async def describe_api(self, asked: Asked) -> Reply:
        self.registry.find(asked.name)
        return written(managed.document(__version__, model=asked.name))

    async def index(self, asked: Asked) -> Reply:
        only_ready = v2_repository.wants_only_ready(asked.body)
        say = says.without_folders if self.compat.is_old else str
        return await self._look(lambda: v2_repository.index(self.management, only_ready, say), long=True)

    def told(self, operation: Operation) -> dict[str, Any]:
        told: dict[str, Any] = {"id": operation.id, "kind": operation.kind}
        if operation.model is not None:
            told["model"] = operation.model
        if operation.version is not None:
            told["version"] = operation.version
        told |= {"state": operation.state, "started": describe.moment(operation.started)}
        if operation.ended is not None:
            told["ended"] = describe.moment(operation.ended)
        if operation.changed is not None:
            told["changed"] = operation.changed
        error = operation.error
        if error is not None:
            status, message = refused(self.compat, error, setting_default=operation.kind == "set-default")
            ours = isinstance(error, HeadraceError)
            told["error"] = {
                "code": status.code, "type": status.type, "message": message if ours else "internal error: see the log"
            }  # fmt: skip
        return told

    async def _look(self, look_at: Callable[[], Reply], *, long: bool) -> Reply:
        if not long:
            return look_at()
        if self._looking >= MOST_LOOKING:
            raise Overloaded(self._looking, MOST_LOOKING, "looks at models")
        self._looking += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._looker, look_at)
        finally:
            self._looking -= 1


def _both(inference: dict[str, Any], management: dict[str, Any]) -> dict[str, Any]:
    """One document of both."""
    about = dict(inference["info"], title="Headrace inference and management API")
    components = {
        name: {**inference["components"][name], **management["components"][name]}
        for name in ("schemas", "headers", "responses")
    }
    paths = {**inference["paths"], **management["paths"]}
    return {**inference, "info": about, "paths": paths, "components": components}
