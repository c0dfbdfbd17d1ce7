"""The management API: models come, change and go while the server serves. In the form of TorchServe and MMS.

Rule 1: what takes its time is done by `serving.management` on its threads; what reads processes or is long, on a
        thread for that: the event loop is the inference API's, too.
Rule 2: who asks with `synchronous=false` hears at once what is wrong with what was asked, and of what has begun where
        to look how it goes (202, `Location`).
Rule 3: a web page of another origin is refused: a browser would let it ask a server that only listens to its own
        machine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson

from headrace.archives.demands import RUNTIME, VERSION
from headrace.errors import HeadraceError, InvalidInput, InvalidOption, ModelNotFound, Overloaded, SourceNotFound
from headrace.model.compile import LONGEST_DELAY
from headrace.server import compat as says
from headrace.server import health, managed, patch, routes, v2_repository
from headrace.server.compat import Compat, refused
from headrace.server.custom import reply_of
from headrace.server.head import Head
from headrace.server.managed import Managed
from headrace.server.parameters import Parameters
from headrace.server.refusing import error_reply, refusal
from headrace.server.reply import Reply
from headrace.server.status import InvalidToken, MethodNotAllowed, NotFound, NoWorkerToAsk, Status
from headrace.server.tokens import API, MANAGEMENT, Tokens
from headrace.serving import describe, self_description, settings
from headrace.serving.counting import is_partly_up
from headrace.serving.lifecycle import UNLOAD_TIMEOUT
from headrace.serving.looking import look, url_of
from headrace.serving.management import Management
from headrace.serving.operations import RUNNING, Operation
from headrace.serving.registry import Entry, State
from headrace.serving.served import Served
from headrace.serving.sources import CompileOptions
from headrace.version import __version__

MOST_LOOKING = 64
"""Looks that may wait for the thread."""
LONG = 200
"""Models from which on a list is made on a thread."""
BATCH_DELAY = 0.1
"""Seconds: what the old servers have a batch wait, where a size is given and no delay."""
_RUNTIMES = ("python", "python2", "python3")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_log = logging.getLogger("headrace.server")
T = TypeVar("T")


class OtherOrigin(Exception):
    """A page of another origin asks."""


@dataclass(frozen=True)
class Asked:
    """One request: what it says, and who says it."""

    head: Head
    parameters: Parameters
    body: bytes
    named: dict[str, str]
    who: str

    @property
    def name(self) -> str:
        return self.named["model"]

    @property
    def version(self) -> str | None:
        return self.named.get("version")


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
        self.management, self.service, self.compat = management, management.service, compat
        self.registry = management.registry
        self._options, self._tokens, self._model_api, self._shared = options, tokens, model_api, shared
        self._looking = 0
        self._looker = ThreadPoolExecutor(1, thread_name_prefix="headrace-describe")

    def close(self, *, wait: bool = True) -> None:
        self._looker.shutdown(wait=wait)

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
        does: Callable[[Asked], Awaitable[Reply]] = getattr(self, route.does)
        return await does(asked)

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

    # ---- changes

    async def register(self, asked: Asked) -> Reply:
        given = asked.parameters
        url = given.text("url")
        if url is None and self.compat is Compat.torchserve and "url" in given:
            raise SourceNotFound("empty url", "")
        if url is None:
            raise InvalidInput("Parameter url is required.")
        runtime = given.text("runtime")
        if runtime is not None and runtime not in _RUNTIMES:
            raise InvalidInput(f"Invalid RuntimeType value: {runtime:.60}")
        workers = _count("initial_workers", given.integer("initial_workers")) or 0
        most = _count("max_workers", given.integer("max_workers", "max_worker"))
        if most is not None and most < workers:
            raise InvalidOption("max_worker cannot be less than min_worker.")
        waits = given.is_true("synchronous", True)
        operation = self.management.register(
            url,
            name=given.text("model_name"),
            version=given.text("model_version"),
            handler=given.text("handler"),
            options=self._options_of(given),
            workers=workers,
            max_workers=most,
            demands=self._demands(given),
            who=asked.who,
        )
        if workers and not waits:
            await _until(operation.known)
            if operation.state == RUNNING:
                return self._later(operation)
        entry: Entry[Served] = await _until(operation.future)
        return self._status(says.registered(self.compat, entry.name, entry.version, workers))

    def _demands(self, given: Parameters) -> frozenset[str]:
        """Of its archive: what is wanted, and not said here."""
        said = {VERSION: "model_version", RUNTIME: "runtime"}
        return frozenset(each for each in says.DEMANDS.get(self.compat, ()) if said.get(each, "") not in given)

    def _options_of(self, given: Parameters) -> CompileOptions:
        """What the old servers call them, in their units. InvalidOption for what cannot be."""
        options = replace(self._options, workers=1)
        size, delay = given.integer("batch_size"), given.integer("max_batch_delay")
        if size is not None:
            options = replace(options, max_batch_size=_at_least(1, "batch_size", size), max_batch_delay=BATCH_DELAY)
        if delay is not None:
            seconds = _at_least(0, "max_batch_delay", delay) / 1000
            options = replace(options, max_batch_delay=min(seconds, LONGEST_DELAY))
        response = given.integer("response_timeout")
        if response is not None:
            minutes = self.compat is Compat.mms and not given.is_in_body("response_timeout")
            seconds = _at_least(1, "response_timeout", response) * (60 if minutes else 1)
            options = replace(options, response_timeout=float(min(seconds, 1_000_000)), asked=("response_timeout",))
        startup = given.integer("startup_timeout")
        limit = options.start_timeout if startup is None else float(_at_least(0, "startup_timeout", startup))
        return replace(options, startup_timeout=min(limit, 1_000_000.0))

    async def scale(self, asked: Asked) -> Reply:
        given = asked.parameters
        version = asked.version or given.text("model_version")
        low = _count("min_worker", given.integer("min_worker", "min_workers"))
        high = _count("max_worker", given.integer("max_worker", "max_workers"))
        low = 1 if low is None else low
        high = low if high is None else high
        if high < low:
            raise InvalidOption("max_worker cannot be less than min_worker.")
        self.management.lifecycle.check_count(asked.name, version, low)
        seconds = given.integer("timeout")
        operation = self.management.scale(
            asked.name,
            version,
            min_workers=low,
            max_workers=high,
            timeout=float(seconds) if seconds is not None and seconds > 0 else UNLOAD_TIMEOUT,
            who=asked.who,
        )
        if not given.is_true("synchronous", False):
            return self._later(operation)
        entry: Entry[Served] = await _until(operation.future)
        return self._partly(entry) or self._status(says.scaled(self.compat, asked.name, version, low))

    async def change(self, asked: Asked) -> Reply:
        waits, timeout = asked.parameters.of_ours("synchronous", "timeout")
        wanted = settings.read(patch.read(asked.body))
        self.management.lifecycle.check_count(asked.name, asked.version, wanted.min_workers or 0)
        operation = self.management.change(
            asked.name,
            asked.version,
            wanted,
            timeout=UNLOAD_TIMEOUT if timeout is None else timeout,
            who=asked.who,
        )
        if not waits:
            return self._later(operation)
        entry: Entry[Served] = await _until(operation.future)
        partly = wanted.scales and is_partly_up(entry)
        status = says.SCALING if partly else says.changed(entry.name, entry.version)
        reply = written({"status": status, "changed": operation.changed})
        if partly:
            reply.status, reply.reason = says.partly_up(self.compat)
        return reply

    def _partly(self, entry: Entry[Served]) -> Reply | None:
        """What is told where the time was up before all of the workers were. None: they are."""
        if not is_partly_up(entry):
            return None
        reply = self._status(says.SCALING)
        reply.status, reply.reason = says.partly_up(self.compat)
        return reply

    async def set_default(self, asked: Asked) -> Reply:
        assert asked.version is not None
        operation = self.management.set_default(asked.name, asked.version, who=asked.who)
        await _until(operation.future)
        return self._status(says.default_set(asked.name, asked.version))

    async def unregister(self, asked: Asked) -> Reply:
        timeout = asked.parameters.seconds("timeout")
        operation = self.management.unregister(
            asked.name, asked.version, timeout=UNLOAD_TIMEOUT if timeout is None else timeout, who=asked.who
        )
        await _until(operation.future)
        return self._status(says.unregistered(asked.name))

    async def token(self, asked: Asked) -> Reply:
        if self._tokens is None:
            raise NotFound("there are no tokens: the server was not started with --enable-token-auth")
        self._tokens.renew(asked.parameters.text("type"))
        return Reply()

    # ---- looks

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
            reply = reply_of(await _until(outcome), reasons=not self.compat.is_old)
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

    # ---- the v2 repository

    async def index(self, asked: Asked) -> Reply:
        only_ready = v2_repository.wants_only_ready(asked.body)
        say = says.without_folders if self.compat.is_old else str
        return await self._look(lambda: v2_repository.index(self.management, only_ready, say), long=True)

    async def load(self, asked: Asked) -> Reply:
        v2_repository.check_load(asked.body)
        if not self._model_api:
            self.registry.find(asked.name)  # loading what is not known would register it
        await _until(self.management.load(asked.name, who=asked.who).future)
        return Reply()

    async def unload(self, asked: Asked) -> Reply:
        await _until(self.management.unload(asked.name, who=asked.who).future)
        return Reply()

    # ----

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

    def _status(self, text: str) -> Reply:
        return written({"status": text})

    def _later(self, operation: Operation) -> Reply:
        reply = written({"status": says.PROCESSING})
        reply.status, reply.headers = 202, ((b"location", f"/operations/{operation.id}".encode()),)
        return reply

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


def written(value: Any) -> Reply:
    """As the old servers write JSON."""
    return Reply(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


async def _until(future: Future[T]) -> T:
    return await asyncio.wrap_future(future)


def _count(name: str, value: int | None) -> int | None:
    if value is not None and value < 0:
        raise InvalidOption(f"{name} is counted from 0 up, not {value}")
    return value


def _at_least(low: int, name: str, value: int) -> int:
    if value < low:
        raise InvalidOption(f"{name} is at least {low}, not {value}")
    return value


def _is_near(origin: str) -> bool:
    """Whether a page may ask: one of this machine."""
    try:
        host = urlsplit(origin).hostname
    except ValueError:
        return False
    return host in _LOOPBACK


def _both(inference: dict[str, Any], management: dict[str, Any]) -> dict[str, Any]:
    """One document of both."""
    about = dict(inference["info"], title="Headrace inference and management API")
    components = {
        name: {**inference["components"][name], **management["components"][name]}
        for name in ("schemas", "headers", "responses")
    }
    paths = {**inference["paths"], **management["paths"]}
    return {**inference, "info": about, "paths": paths, "components": components}
