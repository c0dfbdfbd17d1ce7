"""What managers have done: models are registered, scaled, changed, given a default version, unregistered.

Rule 1: what takes its time is done by `serving.management` on its threads.
Rule 2: who asks with `synchronous=false` hears at once what is wrong with what was asked, and of what has begun where
        to look how it goes (202, `Location`).
"""

from __future__ import annotations

from headrace.errors import InvalidInput, InvalidOption, SourceNotFound
from headrace.server import compat as says
from headrace.server import patch, v2_repository
from headrace.server.asking import Asked, until, written
from headrace.server.compat import Compat
from headrace.server.options_asked import count, demands_of, options_of
from headrace.server.reply import Reply
from headrace.serving import settings
from headrace.serving.compile_options import CompileOptions
from headrace.serving.counting import is_partly_up
from headrace.serving.lifecycle import UNLOAD_TIMEOUT
from headrace.serving.management import Management
from headrace.serving.operations import RUNNING, Operation
from headrace.serving.registry import Entry
from headrace.serving.served import Served

_RUNTIMES = ("python", "python2", "python3")


class Changes:
    def __init__(self, management: Management, options: CompileOptions, compat: Compat, *, model_api: bool) -> None:
        """`options`: what a model is compiled with where nothing else is said."""
        self.management, self.compat = management, compat
        self._options, self._model_api = options, model_api

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
        workers = count("initial_workers", given.integer("initial_workers")) or 0
        most = count("max_workers", given.integer("max_workers", "max_worker"))
        if most is not None and most < workers:
            raise InvalidOption("max_worker cannot be less than min_worker.")
        waits = given.is_true("synchronous", True)
        operation = self.management.register(
            url,
            name=given.text("model_name"),
            version=given.text("model_version"),
            handler=given.text("handler"),
            options=options_of(given, self._options, self.compat),
            workers=workers,
            max_workers=most,
            demands=demands_of(given, self.compat),
            who=asked.who,
        )
        if workers and not waits:
            await until(operation.known)
            if operation.state == RUNNING:
                return _later(operation)
        entry: Entry[Served] = await until(operation.future)
        return _status(says.registered(self.compat, entry.name, entry.version, workers))

    async def scale(self, asked: Asked) -> Reply:
        given = asked.parameters
        version = asked.version or given.text("model_version")
        low = count("min_worker", given.integer("min_worker", "min_workers"))
        high = count("max_worker", given.integer("max_worker", "max_workers"))
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
            return _later(operation)
        entry: Entry[Served] = await until(operation.future)
        return self._partly(entry) or _status(says.scaled(self.compat, asked.name, version, low))

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
            return _later(operation)
        entry: Entry[Served] = await until(operation.future)
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
        reply = _status(says.SCALING)
        reply.status, reply.reason = says.partly_up(self.compat)
        return reply

    async def set_default(self, asked: Asked) -> Reply:
        assert asked.version is not None
        operation = self.management.set_default(asked.name, asked.version, who=asked.who)
        await until(operation.future)
        return _status(says.default_set(asked.name, asked.version))

    async def unregister(self, asked: Asked) -> Reply:
        timeout = asked.parameters.seconds("timeout")
        operation = self.management.unregister(
            asked.name, asked.version, timeout=UNLOAD_TIMEOUT if timeout is None else timeout, who=asked.who
        )
        await until(operation.future)
        return _status(says.unregistered(asked.name))

    async def load(self, asked: Asked) -> Reply:
        v2_repository.check_load(asked.body)
        if not self._model_api:
            self.management.registry.find(asked.name)  # loading what is not known would register it
        await until(self.management.load(asked.name, who=asked.who).future)
        return Reply()

    async def unload(self, asked: Asked) -> Reply:
        await until(self.management.unload(asked.name, who=asked.who).future)
        return Reply()


def _status(text: str) -> Reply:
    return written({"status": text})


def _later(operation: Operation) -> Reply:
    reply = written({"status": says.PROCESSING})
    reply.status, reply.headers = 202, ((b"location", f"/operations/{operation.id}".encode()),)
    return reply
