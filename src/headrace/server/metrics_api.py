"""The metrics API: `GET /metrics`. A plain ASGI app, and a thread that writes the page.

Rule 1: a scrape never holds up the event loop: reading and writing happen on one thread, one after the other.
Rule 2: who comes while too many wait is told 503.
Rule 3: prometheus-client writes the text, and is imported by the first scrape: a server nobody scrapes does without.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from headrace.counters import Buckets
from headrace.server.asgi import Receive, Scope, Send
from headrace.server.declared import COUNTER, DECLARED, UNTYPED
from headrace.server.metrics import Metrics

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

MOST_WAITING = 16
_TEXT = b"text/plain; charset=utf-8"


class MetricsApp:
    """`close` it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._waiting = 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="headrace-metrics")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the metrics API speaks HTTP, not {scope['type']}")
        method, path = scope["method"], scope["path"]
        headers: tuple[tuple[bytes, bytes], ...] = ()
        if path.rstrip("/") != "/metrics":
            status, content_type, body = 404, _TEXT, b"there is nothing here but /metrics\n"
        elif method not in ("GET", "HEAD"):
            status, content_type, body = 405, _TEXT, b"/metrics takes GET\n"
            headers = ((b"allow", b"GET, HEAD"),)
        elif self._waiting >= MOST_WAITING:
            status, content_type, body = 503, _TEXT, b"too many scrapes at once\n"
            headers = ((b"retry-after", b"1"),)
        else:
            status = 200
            content_type, body = await self._page(scope)
        headers = ((b"content-type", content_type), (b"content-length", str(len(body)).encode()), *headers)
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})

    def close(self) -> None:
        self._writer.shutdown(wait=True)

    async def _page(self, scope: Scope) -> tuple[bytes, bytes]:
        accepts = b", ".join(value for name, value in scope["headers"] if name == b"accept").decode("latin-1")
        asked = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        names = frozenset((*asked.get("name[]", ()), *asked.get("name", ())))
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._writer, write, self._metrics, accepts, names)
        finally:
            self._waiting -= 1


def write(metrics: Metrics, accepts: str, names: frozenset[str] = frozenset()) -> tuple[bytes, bytes]:
    """(content type, page). `names`: of metrics that are wanted, or of samples of theirs; none: all."""
    from prometheus_client.exposition import choose_encoder

    encode, content_type = choose_encoder(accepts)
    return content_type.encode(), encode(_Collected(_wanted(families(metrics), names)))


def families(metrics: Metrics) -> Iterator[Family]:
    """What prometheus-client writes: each metric with all its samples."""
    from prometheus_client import ProcessCollector
    from prometheus_client.core import Metric as Family

    found: dict[str, Family] = {}
    for name, labels, value in metrics.read():
        declared = DECLARED[name]
        if tuple(labels) != declared.labels:
            raise ValueError(f"{name} has the labels {declared.labels}, not {tuple(labels)}")
        family = found.get(name)
        if family is None:
            kind = "unknown" if declared.kind == UNTYPED else declared.kind
            family = found[name] = Family(name.removesuffix("_total"), declared.meaning, kind)
        _add(family, name, labels, value)
    for told in metrics.of_handlers():
        family = found.get(told.name)
        if family is None:
            unit = f", in {told.unit}" if told.unit else ""
            family = found[told.name] = Family(told.name, f"told by a model's handler{unit}", told.kind)
        _add(family, f"{told.name}_total" if told.kind == COUNTER else told.name, told.labels, told.value)
    yield from found.values()
    for family in ProcessCollector(registry=None).collect():
        declared = DECLARED[f"{family.name}_total" if family.type == COUNTER else family.name]
        family.documentation = declared.meaning
        yield family


def _add(family: Family, name: str, labels: dict[str, str], value: float | Buckets) -> None:
    if not isinstance(value, Buckets):
        family.add_sample(name, labels, value)
        return
    bounds = [*map(_bound, value.bounds), "+Inf"]
    for bound, count in zip(bounds, value.cumulative()):
        family.add_sample(f"{name}_bucket", {**labels, "le": bound}, count)
    family.add_sample(f"{name}_count", labels, value.count)
    family.add_sample(f"{name}_sum", labels, value.total)


class _Collected:
    """As much of a registry as an encoder asks for."""

    def __init__(self, families: Iterator[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Family]:
        return self._families


def _wanted(families: Iterator[Family], names: frozenset[str]) -> Iterator[Family]:
    """Whole metrics: half a histogram is none. TorchServe's clients name samples, ours may name either."""
    for family in families:
        if not names or not names.isdisjoint((family.name, *(sample.name for sample in family.samples))):
            yield family


def _bound(bound: float) -> str:
    return repr(float(bound))
