"""`hr.manage(url)`: a server's models from Python: listed, shown, registered, scaled, given a default, unregistered.

Rule 1: what takes its time is asked for with `synchronous=false` and followed: no answer is waited for longer than
        `timeout`, and whoever stops waiting stops nothing on the server.
Rule 2: what is refused is the error the server had (ModelNotFound, AlreadyRegistered, CannotLoad, StillBusy ...).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from ssl import SSLContext
from typing import Any, Literal, overload
from urllib.parse import quote, urlencode

from headrace.client.asked import count, path, settings, whole
from headrace.client.refused import NOTHING, Subject
from headrace.client.told import DONE, ModelSeen, Operation, models_of, operation_of, with_default
from headrace.client.wire import Wire
from headrace.errors import ModelNotFound, NoAnswer

TIMEOUT = 10.0
"""Seconds for one answer."""
DRAIN_TIMEOUT = 120.0
"""Seconds the server gives what is inside, where nothing else is said."""
FIRST_LOOK, LAST_LOOK = 0.02, 0.5
"""Seconds between two looks at a change: the first ones, and at most."""
FETCH_TIMEOUT = 600.0
"""Seconds the server has for finding, fetching and unpacking a model, before it says that it loads it."""
PAGE = 100


def manage(
    url: str = "http://127.0.0.1:8081",
    token: str | None = None,
    *,
    timeout: float = TIMEOUT,
    ssl_context: SSLContext | None = None,
) -> Manager:
    """The management API at `url`. Nothing is sent yet.

    `token`: the server's `management` key, where it wants one. `timeout`: seconds for one answer (NoAnswer).
    `ssl_context`: for https; else the system's certificates are trusted. InvalidOption for what is no such
    URL or token.
    """
    return Manager(Wire(url, token, timeout, ssl_context))


class Manager:
    """Of one server. Safe from any thread; close it, or use it in a `with`.

    Everything may raise Unreachable, NoAnswer, AccessDenied, Overloaded and Closed; each says what else.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._wire, self._now, self._sleep = wire, now, sleep

    @property
    def url(self) -> str:
        return self._wire.url

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<manager of {self.url}>"

    def close(self) -> None:
        self._wire.close()

    # ---- looks

    def names(self) -> list[str]:
        """Of all models, in order."""
        return list(self._listed())

    def models(self) -> list[ModelSeen]:
        """Every version of every model. A request for each hundred, so of a hundred all of one moment; older servers
        are asked for each model."""
        found = []
        for name, told in self._listed(detail="true").items():
            if "versions" in told:
                found += with_default(models_of(told["versions"]), str(told["defaultVersion"]))
                continue
            try:
                found += self.versions(name)
            except ModelNotFound:
                continue  # it has gone meanwhile
        return found

    def _listed(self, **asked: str) -> dict[str, Any]:
        """What is told of each model in a list, by its name. One that came meanwhile may move another to the next page:
        what is told last counts."""
        found: dict[str, Any] = {}
        token = "0"
        while token:
            told = self._wire.look(f"/models?{urlencode({'limit': PAGE, 'next_page_token': token, **asked})}")
            found |= {str(each["modelName"]): each for each in told["models"]}
            token = told.get("nextPageToken")
        return found

    def versions(self, name: str) -> list[ModelSeen]:
        """Every version of one model. ModelNotFound."""
        try:
            all_of_them = models_of(self._wire.look(path(name, "all"), Subject(name)))
        except ModelNotFound:
            all_of_them = []  # Multi Model Server knows no `all`
        if len(all_of_them) != 1:
            default = self.show(name)
            all_of_them = with_default(all_of_them or [default], default.version)
        return all_of_them

    def show(self, name: str, version: str | None = None) -> ModelSeen:
        """One version; without one, the default. ModelNotFound."""
        seen = models_of(self._wire.look(path(name, version), Subject(name, version or "")))[0]
        if version is None:
            return seen
        (default,) = models_of(self._wire.look(path(name, None), Subject(name)))
        return with_default([seen], default.version)[0]

    def operations(self) -> list[Operation]:
        """The last changes, the newest first."""
        return [operation_of(each) for each in self._wire.look("/operations")["operations"]]

    def operation(self, id: str) -> Operation:
        """RequestError if there is no such change; the oldest are forgotten."""
        return operation_of(self._wire.look(f"/operations/{quote(id, safe='')}"))

    def follow(
        self, operation: Operation, *, timeout: float | None = None, subject: Subject = NOTHING
    ) -> Iterator[Operation]:
        """`operation`, and how it is from then on, look by look, until it has ended. It raises what made it fail.

        NoAnswer after `timeout` seconds; it goes on all the same. Without: until it has ended, as a server sees to
        (`startup_timeout` of a load, `drain_timeout` of what is inside).
        """
        return self._follow(operation, self._now(), timeout, subject)

    def _follow(
        self, operation: Operation, began: float, timeout: float | None, subject: Subject
    ) -> Iterator[Operation]:
        pause = FIRST_LOOK
        while True:
            yield operation
            if operation.error is not None:
                raise operation.error
            if not operation.running:
                return
            if timeout is not None and self._now() - began >= timeout:
                what = f"{operation.kind} {operation.model or ''}".strip()
                raise NoAnswer(f"{what} (operation {operation.id})", timeout)
            self._sleep(pause)
            pause = min(LAST_LOOK, pause * 1.5)
            told = self._wire.look(f"/operations/{quote(operation.id, safe='')}")
            operation = operation_of(told, subject)

    # ---- changes

    @overload
    def register(
        self, url: str, *, name: str | None = ..., version: str | None = ..., handler: str | None = ...,
        workers: int = ..., max_workers: int | None = ..., batch_size: int | None = ...,
        max_batch_delay: float | None = ...,
        response_timeout: float | None = ..., startup_timeout: float | None = ..., wait: Literal[True] = ...,
        timeout: float | None = ...,
    ) -> ModelSeen: ...  # fmt: skip

    @overload
    def register(
        self, url: str, *, name: str | None = ..., version: str | None = ..., handler: str | None = ...,
        workers: int = ..., max_workers: int | None = ..., batch_size: int | None = ...,
        max_batch_delay: float | None = ...,
        response_timeout: float | None = ..., startup_timeout: float | None = ..., wait: Literal[False],
        timeout: float | None = ...,
    ) -> Operation: ...  # fmt: skip

    def register(
        self,
        url: str,
        *,
        name: str | None = None,
        version: str | None = None,
        handler: str | None = None,
        workers: int = 1,
        max_workers: int | None = None,
        batch_size: int | None = None,
        max_batch_delay: float | None = None,
        response_timeout: float | None = None,
        startup_timeout: float | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> ModelSeen | Operation:
        """Register the model at `url` (a name in the server's model store, a path there, or a URL it may fetch).

        `workers`: 0 makes it known, and loads nothing; up to `max_workers`, their number follows the load.
        `max_batch_delay`, in seconds, to the millisecond; the timeouts
        in whole seconds. `wait`: until its workers are ready, at most `timeout` seconds (then NoAnswer, and it goes
        on); with False it is an Operation to follow. SourceNotFound, UrlNotAllowed, DownloadFailed, InvalidModel,
        AlreadyRegistered, CannotLoad, InvalidOption.
        """
        said: dict[str, Any] = {
            "url": url,
            "model_name": name,
            "model_version": version,
            "handler": handler,
            "initial_workers": count("workers", workers),
            "max_workers": None if max_workers is None else count("max_workers", max_workers),
            "synchronous": False,
            "batch_size": batch_size,
            "max_batch_delay": whole("max_batch_delay", max_batch_delay, 1000, "milliseconds"),
            "response_timeout": whole("response_timeout", response_timeout, 1, "seconds"),
            "startup_timeout": whole("startup_timeout", startup_timeout, 1, "seconds"),
        }
        said = {key: value for key, value in said.items() if value is not None}
        began = self._now()
        answered = max(self._wire.timeout, FETCH_TIMEOUT if timeout is None else timeout)
        subject = Subject(name or "", version or "", url)
        told, where = self._wire.change("POST", "/models", said, subject, timeout=answered)
        operation = self._begun("register", told, where, subject)
        if not wait:
            return operation
        ended = self._until_done(operation, began, timeout, subject)
        return self.show(ended.model or name or _named(told), ended.version or version)

    @overload
    def scale(
        self, name: str, workers: int, *, max_workers: int | None = ..., version: str | None = ...,
        drain_timeout: float = ..., wait: Literal[True] = ..., timeout: float | None = ...,
    ) -> ModelSeen: ...  # fmt: skip

    @overload
    def scale(
        self, name: str, workers: int, *, max_workers: int | None = ..., version: str | None = ...,
        drain_timeout: float = ..., wait: Literal[False], timeout: float | None = ...,
    ) -> Operation: ...  # fmt: skip

    def scale(
        self,
        name: str,
        workers: int,
        *,
        max_workers: int | None = None,
        version: str | None = None,
        drain_timeout: float = DRAIN_TIMEOUT,
        wait: bool = True,
        timeout: float | None = None,
    ) -> ModelSeen | Operation:
        """Have so many workers; up to `max_workers`, their number follows the load. 0 parks the model.

        `drain_timeout`: whole seconds for what is inside the workers that go. `wait` and `timeout` as for `register`.
        ModelNotFound, InvalidOption, CannotLoad, StillBusy.
        """
        said: dict[str, Any] = {"min_worker": count("workers", workers), "synchronous": False}
        if max_workers is not None:
            said["max_worker"] = count("max_workers", max_workers)
        said["timeout"] = whole("drain_timeout", drain_timeout, 1, "seconds", low=1)
        began, subject = self._now(), Subject(name, version or "", timeout=drain_timeout)
        told, where = self._wire.change("PUT", path(name, version), said, subject)
        operation = self._begun("scale", told, where, subject)
        if not wait:
            return operation
        self._until_done(operation, began, timeout, subject)
        return self.show(name, version)

    def change(
        self,
        name: str,
        version: str | None = None,
        *,
        batch_size: int | None = None,
        max_batch_delay: float | None = None,
        queue: int | None = None,
        response_timeout: float | None = None,
        priority_levels: int | None = None,
        default_priority_level: int | None = None,
        min_workers: int | None = None,
        max_workers: int | None = None,
        reset: Collection[str] = (),
        timeout: float = DRAIN_TIMEOUT,
    ) -> dict[str, tuple[Any, Any]]:
        """Change how it serves, without a pause: all of it or nothing. None leaves a setting as it is; `reset` names
        those that are to be as if they had never been set (queue, priority_levels, default_priority_level).

        Seconds, and counts; `queue`: requests it may have inside. `timeout`: how long workers that come or go are
        waited for. What has changed, by name: from what, to what; delays in milliseconds, as the server tells them.
        ModelNotFound, InvalidOption, CannotLoad, StillBusy.
        """
        said = settings(
            reset,
            batch_size=batch_size,
            max_batch_delay=None if max_batch_delay is None else max_batch_delay * 1000,
            queue=queue,
            response_timeout=response_timeout,
            priority_levels=priority_levels,
            default_priority_level=default_priority_level,
            min_workers=min_workers,
            max_workers=max_workers,
        )
        subject = Subject(name, version or "", timeout=timeout)
        told, _ = self._wire.change(
            "PATCH", f"{path(name, version)}?timeout={timeout:g}", said, subject, timeout=self._wire.timeout + timeout
        )
        changed = told.get("changed", {}) if isinstance(told, dict) else {}
        return {name: (each.get("from"), each.get("to")) for name, each in changed.items()}

    def set_default(self, name: str, version: str) -> ModelSeen:
        """Requests that name no version go to this one from now on. ModelNotFound."""
        subject = Subject(name, version)
        self._wire.change("PUT", f"{path(name, version)}/set-default", {}, subject)
        return self.show(name, version)

    def unregister(self, name: str, version: str | None = None, *, drain_timeout: float = DRAIN_TIMEOUT) -> None:
        """Let a version go; without one, the default. What is inside ends first, for at most `drain_timeout` seconds
        (then StillBusy, and it serves on). ModelNotFound, IsDefaultVersion while there are others."""
        subject = Subject(name, version or "", timeout=drain_timeout)
        seconds = min(1e6, self._wire.timeout + max(0.0, drain_timeout))
        self._wire.change("DELETE", path(name, version), {"timeout": drain_timeout}, subject, timeout=seconds)

    # ----

    def _begun(self, kind: str, told: Any, where: str | None, subject: Subject) -> Operation:
        """Without `where` it is done: there was nothing to load."""
        if where is None:
            return Operation("", kind, subject.name or _named(told) or None, subject.version or None, DONE)
        return operation_of(self._wire.look(f"/operations/{quote(where.rpartition('/')[2], safe='')}"), subject)

    def _until_done(self, operation: Operation, began: float, timeout: float | None, subject: Subject) -> Operation:
        *_, last = self._follow(operation, began, timeout, subject)
        return last


def _named(told: Any) -> str:
    """`Model "N" Version: ...` of what was registered without a name."""
    parts = str(told.get("status", "") if isinstance(told, dict) else "").split('"')
    return parts[1] if len(parts) > 2 else ""
