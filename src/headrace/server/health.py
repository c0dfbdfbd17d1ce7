"""`/ping`: whether models are well, in the words of each server. Pure, but for looking at the registry.

Rule 1: it is read off the states of models and the counts of their workers, never set.
"""

from __future__ import annotations

from headrace.server.compat import Compat
from headrace.server.reply import Reply
from headrace.serving.counting import workers_of
from headrace.serving.registry import Entry, State
from headrace.serving.served import Served
from headrace.serving.service import Service


def _said(status: str) -> bytes:
    return b'{\n  "status": "%b"\n}\n' % status.encode()


HEALTHY, PARTIAL, UNHEALTHY = _said("Healthy"), _said("Partial Healthy"), _said("Unhealthy")


def ping(service: Service, compat: Compat = Compat.headrace) -> Reply:
    """200 if no model has failed, else 500: load balancers read the status. TorchServe wants its least number of
    workers of each default version; Multi Model Server always says 200, and looks at all models together."""
    registry = service.registry
    if compat is Compat.mms:
        entries = list(registry)
        return Reply(of_all(sum(map(working, entries)), sum(map(wanted, entries))))
    if compat is Compat.torchserve:
        well = all(
            entry.state is not State.FAILED and (entry.state is State.LOADING or working(entry) >= wanted(entry))
            for entry in registry.defaults()
        )
    else:
        well = registry.is_healthy()
    return Reply(HEALTHY) if well else Reply(UNHEALTHY, status=500)


def of_all(working: int, wanted: int) -> bytes:
    """What Multi Model Server says of so many workers."""
    if not wanted or working >= wanted:
        return HEALTHY
    return PARTIAL if working else UNHEALTHY


def wanted(entry: Entry[Served]) -> int:
    """Workers it is to have at least."""
    return 0 if entry.about is None else int(entry.about.min_workers)


def working(entry: Entry[Served]) -> int:
    """Workers that run, or are about to once more: TorchServe counts those within the time it tries again."""
    crew = None if entry.served is None else entry.served.model.crew
    return workers_of(entry) if crew is None else crew.working
