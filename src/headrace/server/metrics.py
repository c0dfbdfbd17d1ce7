"""Every metric the server exports: declared once, and read from plain counters when somebody asks.

Rule 1: what is not declared is not exported, and what is declared is: the page in docs is made from the declarations.
        But for what handlers of models tell of their own: that has the names they gave it (`handler_metrics`).
Rule 2: labels have values of ours alone (names of models, kinds of errors, statuses): no client can make up new ones.
        What handlers tell is bounded where it is counted (`workers.told`).
Rule 3: units are Prometheus's base units, seconds and bytes, except under the names that MMS and TorchServe gave.
"""

from __future__ import annotations

import platform
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from headrace.log import lost_lines
from headrace.model.model import Model
from headrace.server.handler_metrics import COUNTER, GAUGE, Told, Value, told_of
from headrace.server.lag import LoopLag
from headrace.server.system import System
from headrace.server.traffic import LEFT, Traffic
from headrace.serving.measures import Measures
from headrace.serving.registry import State
from headrace.serving.service import Service
from headrace.version import __version__
from headrace.workers.pool import ENDINGS
from headrace.workers.supervision import State as WorkerState

Sample = tuple[str, dict[str, str], Value]
HISTOGRAM, UNTYPED = "histogram", "untyped"


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    """Of a counter: with its `_total`."""
    kind: str
    labels: tuple[str, ...]
    unit: str
    meaning: str


_MODEL = ("model", "version")
_TORCHSERVE = ("model_name", "model_version", "hostname")
_HOST = ("Level", "Hostname")
OURS = (
    Metric("headrace_info", GAUGE, ("version", "python"), "", "1; the labels say which version runs on which Python"),
    Metric(
        "headrace_requests_total", COUNTER, (*_MODEL, "code"), "requests",
        "answered requests by HTTP status; 499: the client left before its answer. Without a model: health, metadata, "
        "paths that lead nowhere, refusals for no model that is there",
    ),
    Metric(
        "headrace_request_body_bytes_total", COUNTER, _MODEL, "bytes", "bodies of requests",
    ),
    Metric("headrace_response_body_bytes_total", COUNTER, _MODEL, "bytes", "bodies of answers"),
    Metric(
        "headrace_request_seconds", HISTOGRAM, _MODEL, "seconds",
        "from the end of a request's headers to its answer; the coming in of its body is in it",
    ),
    Metric(
        "headrace_decode_seconds", HISTOGRAM, _MODEL, "seconds",
        "stage 1 of a request: from its body to the model's inputs; a wait for the codec thread is in it",
    ),
    Metric(
        "headrace_queue_seconds", HISTOGRAM, _MODEL, "seconds",
        "stage 2 of a request: from there to the start of its run. One that never ran is not counted",
    ),
    Metric("headrace_run_seconds", HISTOGRAM, _MODEL, "seconds", "stage 3: one run of the model, of a batch or of one"),
    Metric(
        "headrace_encode_seconds", HISTOGRAM, _MODEL, "seconds",
        "stage 4 of a request: from the model's outputs to the body of the answer",
    ),
    Metric("headrace_batch_rows", HISTOGRAM, _MODEL, "rows", "rows in one run; requests, for a callable"),
    Metric("headrace_queue_depth", GAUGE, _MODEL, "requests", "requests that wait for a stream now"),
    Metric(
        "headrace_outcomes_total", COUNTER, (*_MODEL, "outcome"), "requests",
        "what became of requests inside the model: completed, failed, cancelled (before it ran), late (its deadline "
        "passed first), refused (the model was closed)",
    ),
    Metric("headrace_model_ready", GAUGE, _MODEL, "", "1 if the model is READY, else 0"),
    Metric("headrace_streams", GAUGE, _MODEL, "streams", "runs of the model that can go on at once"),
    Metric("headrace_streams_busy", GAUGE, _MODEL, "streams", "runs of the model that go on now"),
    Metric(
        "headrace_workers", GAUGE, (*_MODEL, "state"), "processes",
        "worker processes by state: ready, busy, starting, backing_off (it failed, and is started soon), broken (it "
        "fails again and again), stopping, stopped",
    ),
    Metric(
        "headrace_worker_restarts_total", COUNTER, (*_MODEL, "why"), "processes",
        "worker processes that took the place of another one, by what became of that: died, hung (no answer within its "
        "time), not loaded, replaced (it was asked for)",
    ),
    Metric(
        "headrace_refusals_total", COUNTER, ("reason",), "requests",
        "requests that got no good answer, by reason: the kind of error (Overloaded, InvalidInput, ModelNotFound, …), "
        "or ClientLeft",
    ),
    Metric("headrace_in_flight", GAUGE, (), "requests", "requests that hold a permit now"),
    Metric("headrace_in_flight_limit", GAUGE, (), "requests", "the bound on these: --max-requests"),
    Metric("headrace_in_flight_bytes", GAUGE, (), "bytes", "what their bodies hold"),
    Metric("headrace_in_flight_bytes_limit", GAUGE, (), "bytes", "the bound on these: --max-bytes"),
    Metric(
        "headrace_unanswered_total", COUNTER, (), "requests",
        "requests that had come in whole and were told, at the stop, that there was no time left",
    ),
    Metric("headrace_loop_lag_seconds", HISTOGRAM, (), "seconds", "how late the event loop called a timer, 4 a second"),
    Metric("headrace_engine_cores", GAUGE, (), "cores", "cores the engine may use"),
    Metric("headrace_engine_cores_leased", GAUGE, (), "cores", "cores that are leased to runs now"),
    Metric("headrace_engine_streams", GAUGE, (), "streams", "streams of all models"),
    Metric("headrace_engine_streams_busy", GAUGE, (), "streams", "streams that run now"),
    Metric("headrace_engine_inside", GAUGE, (), "operations", "inside the engine, past the doors' own permits"),
    Metric("headrace_engine_inside_limit", GAUGE, (), "operations", "the bound on these"),
    Metric("headrace_engine_bytes", GAUGE, (), "bytes", "what the engine's budget has charged for these"),
    Metric("headrace_engine_waiting", GAUGE, (), "callers", "who stands in line for room in the engine"),
    Metric("headrace_access_log_lines_total", COUNTER, (), "lines", "lines written to the access log"),
    Metric("headrace_access_log_lost_total", COUNTER, (), "lines", "lines that did not fit, or could not be written"),
    Metric(
        "headrace_handler_metrics_dropped_total", COUNTER, _MODEL, "values",
        "values of metrics that a model's own handler told, and that could not be kept: too many, or of another kind",
    ),
    Metric("headrace_log_lost_total", COUNTER, (), "lines", "lines of the log that nobody took from stderr in time"),
)  # fmt: skip
THEIRS = (
    Metric("ts_inference_requests_total", COUNTER, _TORCHSERVE, "requests", "requests to a model (TorchServe)"),
    Metric(
        "ts_inference_latency_microseconds", UNTYPED, _TORCHSERVE, "microseconds",
        "a counter: the sum of `headrace_request_seconds` (TorchServe)",
    ),
    Metric(
        "ts_queue_latency_microseconds", UNTYPED, _TORCHSERVE, "microseconds",
        "a counter: the sum of `headrace_queue_seconds` (TorchServe)",
    ),
    Metric("Requests2XX", UNTYPED, _HOST, "requests", "a counter: answers with a status from 200 to 299 (MMS)"),
    Metric("Requests4XX", UNTYPED, _HOST, "requests", "a counter: the same, from 400 to 499 (MMS)"),
    Metric("Requests5XX", UNTYPED, _HOST, "requests", "a counter: the same, from 500 to 599 (MMS)"),
    Metric("CPUUtilization", GAUGE, _HOST, "percent", "of all CPUs, since the scrape before (MMS)"),
    Metric("MemoryUsed", GAUGE, _HOST, "MiB", "of the machine (MMS)"),
    Metric("MemoryAvailable", GAUGE, _HOST, "MiB", "of the machine (MMS)"),
    Metric("MemoryUtilization", GAUGE, _HOST, "percent", "of the machine (MMS)"),
    Metric("DiskUsage", GAUGE, _HOST, "GiB", "of the file system of `/` (MMS)"),
    Metric("DiskAvailable", GAUGE, _HOST, "GiB", "of the file system of `/` (MMS)"),
    Metric("DiskUtilization", GAUGE, _HOST, "percent", "of the file system of `/` (MMS)"),
)  # fmt: skip
PROCESS = (
    Metric("process_virtual_memory_bytes", GAUGE, (), "bytes", "address space of the server's process"),
    Metric("process_resident_memory_bytes", GAUGE, (), "bytes", "memory of the server's process"),
    Metric("process_start_time_seconds", GAUGE, (), "seconds", "when it started, since 1970"),
    Metric("process_cpu_seconds_total", COUNTER, (), "seconds", "CPU it has used, all threads"),
    Metric("process_open_fds", GAUGE, (), "files", "files and connections it has open"),
    Metric("process_max_fds", GAUGE, (), "files", "how many it may have"),
)
DECLARED = {metric.name: metric for metric in (*OURS, *THEIRS, *PROCESS)}


class Metrics:
    """Reads what the server has counted. Called on any thread, one at a time."""

    def __init__(
        self, service: Service, traffic: Traffic, lag: LoopLag, unanswered: Callable[[], int] = lambda: 0
    ) -> None:
        self._service, self._traffic, self._lag, self._unanswered = service, traffic, lag, unanswered
        self._system = System()
        self._hostname = socket.gethostname()

    def read(self) -> Iterator[Sample]:
        """Everything but `PROCESS`."""
        yield "headrace_info", {"version": __version__, "python": platform.python_version()}, 1
        yield from self._of_models()
        yield from self._of_the_server()
        yield from self._of_engines()
        yield from self._of_the_machine()

    def of_handlers(self) -> Iterator[Told]:
        """What handlers of models tell of their own, in TorchServe's form: the model's name, the level and the host are
        labels, as ModelName, Level and Hostname; and the version, as ModelVersion."""
        crews = [
            (entry.name, entry.version, entry.served.model.crew)
            for entry in list(self._service.registry)
            if entry.served is not None
        ]
        told = ((name, version, crew.told.read()) for name, version, crew in crews if crew is not None)
        return told_of(told, self._hostname, DECLARED)

    def _of_models(self) -> Iterator[Sample]:
        yield from _of_measures(self._traffic.others, {"model": "", "version": ""})
        for entry in list(self._service.registry):
            labels = {"model": entry.name, "version": entry.version}
            yield "headrace_model_ready", labels, float(entry.state is State.READY)
            served = entry.served
            if served is None:
                continue
            yield from _of_model(served.model, labels)
            crew = served.model.crew
            yield "headrace_handler_metrics_dropped_total", labels, 0 if crew is None else crew.told.dropped
            for why, count in (crew.restarts() if crew is not None else dict.fromkeys(ENDINGS, 0)).items():
                yield "headrace_worker_restarts_total", {**labels, "why": why}, count
            for state, count in (crew.states() if crew is not None else dict.fromkeys(WorkerState, 0)).items():
                yield "headrace_workers", {**labels, "state": state.lower()}, count
            if served.measures is not None:
                yield from _of_measures(served.measures, labels)
                for stage in "decode", "encode":
                    yield f"headrace_{stage}_seconds", labels, getattr(served.measures, f"{stage}_seconds").read()
                theirs = {"model_name": entry.name, "model_version": entry.version, "hostname": self._hostname}
                requests = served.measures.request_seconds.read()
                yield "ts_inference_requests_total", theirs, requests.count
                yield "ts_inference_latency_microseconds", theirs, round(requests.total * 1e6)
                measures = served.model.measures()
                queued = measures.queue_seconds.total if measures is not None else 0.0
                yield "ts_queue_latency_microseconds", theirs, round(queued * 1e6)

    def _of_the_server(self) -> Iterator[Sample]:
        # The one that matters most is there from the start: an alert on its rate needs a zero to begin with.
        for reason, count in sorted({"Overloaded": 0, **self._traffic.refused}.items()):
            yield "headrace_refusals_total", {"reason": reason}, count
        inside = self._service.statistics()
        yield "headrace_in_flight", {}, inside.inside
        yield "headrace_in_flight_limit", {}, inside.max_count
        yield "headrace_in_flight_bytes", {}, inside.nbytes
        yield "headrace_in_flight_bytes_limit", {}, float("inf") if inside.max_bytes is None else inside.max_bytes
        yield "headrace_unanswered_total", {}, self._unanswered()
        yield "headrace_loop_lag_seconds", {}, self._lag.seconds.read()
        access = self._traffic.access
        yield "headrace_access_log_lines_total", {}, access.written if access is not None else 0
        yield "headrace_access_log_lost_total", {}, access.dropped if access is not None else 0
        yield "headrace_log_lost_total", {}, lost_lines()

    def _of_engines(self) -> Iterator[Sample]:
        models = [entry.served.model for entry in list(self._service.registry) if entry.served is not None]
        engines = {id(model.engine): model.engine for model in models if model.engine is not None}
        each = [engine.statistics() for engine in engines.values()]
        for name, value in (
            ("cores", sum(one.cores for one in each)),
            ("cores_leased", sum(one.cores_leased for one in each)),
            ("streams", sum(one.streams for one in each)),
            ("streams_busy", sum(one.streams_running for one in each)),
            ("inside", sum(one.budget.inside for one in each)),
            ("inside_limit", sum(one.budget.max_count for one in each)),
            ("bytes", sum(one.budget.nbytes for one in each)),
            ("waiting", sum(one.budget.waiting for one in each)),
        ):
            yield f"headrace_engine_{name}", {}, value

    def _of_the_machine(self) -> Iterator[Sample]:
        host = {"Level": "Host", "Hostname": self._hostname}
        served = [entry.served for entry in list(self._service.registry) if entry.served is not None]
        classes: Counter[int] = Counter()
        for measures in (self._traffic.others, *(one.measures for one in served if one.measures is not None)):
            for status, count in dict(measures.statuses).items():
                if status != LEFT:  # which was never sent
                    classes[status // 100] += count
        for each in 2, 4, 5:
            yield f"Requests{each}XX", host, classes[each]
        usage = self._system.usage()
        yield "CPUUtilization", host, usage.cpu_percent
        yield "MemoryUsed", host, usage.memory_used
        yield "MemoryAvailable", host, usage.memory_available
        yield "MemoryUtilization", host, usage.memory_percent
        yield "DiskUsage", host, usage.disk_used
        yield "DiskAvailable", host, usage.disk_available
        yield "DiskUtilization", host, usage.disk_percent


def _of_measures(measures: Measures, labels: dict[str, str]) -> Iterator[Sample]:
    for status, count in sorted(dict(measures.statuses).items()):
        yield "headrace_requests_total", {**labels, "code": str(status)}, count
    yield "headrace_request_body_bytes_total", labels, measures.bytes_in
    yield "headrace_response_body_bytes_total", labels, measures.bytes_out
    yield "headrace_request_seconds", labels, measures.request_seconds.read()


def _of_model(model: Model, labels: dict[str, str]) -> Iterator[Sample]:
    counted = model.statistics()
    yield "headrace_queue_depth", labels, counted.waiting
    for outcome in "completed", "failed", "cancelled", "late", "refused":
        yield "headrace_outcomes_total", {**labels, "outcome": outcome}, getattr(counted, outcome)
    yield "headrace_streams", labels, counted.streams
    yield "headrace_streams_busy", labels, model.port.group.running if model.port is not None else 0
    measures = model.measures()
    if measures is not None:
        yield "headrace_queue_seconds", labels, measures.queue_seconds
        yield "headrace_run_seconds", labels, measures.run_seconds
        yield "headrace_batch_rows", labels, measures.rows


def page() -> str:
    """docs/metrics.md, which `make settings` writes."""
    parts = [_HEAD]
    for title, metrics in (("Headrace", OURS), ("MMS and TorchServe", THEIRS), ("The process", PROCESS)):
        parts += [f"## {title}\n", "| name | type | labels | unit | meaning |", "|---|---|---|---|---|"]
        for one in metrics:
            labels = ", ".join(f"`{label}`" for label in one.labels)
            parts.append(f"| `{one.name}` | {one.kind} | {labels} | {one.unit} | {one.meaning} |")
        parts.append("")
    return "\n".join(parts)


_HEAD = """\
# Metrics

`GET http://127.0.0.1:8082/metrics` (`--metrics-address`; `off` closes the door), as Prometheus text, or as OpenMetrics
to who asks for it. `?name[]=A&name[]=B` gives only these. Pages are written one after the other: who comes while 16
wait is told 503 with `Retry-After`. Counting costs a request about 4 microseconds of CPU
(`make bench-overhead EXTRA="headrace headrace:quiet"`); with the door off, nothing.
[deploy/grafana/headrace.json](../deploy/grafana/headrace.json) is a dashboard of them, for Grafana 10 and later.

```yaml
scrape_configs:
  - job_name: headrace
    static_configs: [{targets: ["127.0.0.1:8082"]}]
```

Histograms have buckets, so that quantiles can be asked for, of each stage and over several servers:
`histogram_quantile(0.99, sum by (le) (rate(headrace_queue_seconds_bucket[1m])))`. TorchServe's `QueueTime`,
`WorkerThreadTime`, `PredictionTime` and `HandlerTime` are the last request's alone; the stages take their place.

What handlers of models tell themselves (`context.metrics`) is here too, under the names and dimensions they give, with
the labels `ModelName`, `ModelVersion`, `Level` and `Hostname`; counters end in `_total`. A name of the server's own
gets `handler_` in front, and so does a dimension that has the name of one of these labels (or `le`) and says something
else; `Level` is the handler's where it gives one. Several workers' counts add up. A model may have 1,000 series; what
is over that, or changes its kind, is dropped and counted.
"""


if __name__ == "__main__":
    sys.stdout.write(page())
