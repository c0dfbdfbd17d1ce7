"""Every metric the server exports, declared once; the page in docs is made from this.

Rule 1: what is not declared here is not exported (but what handlers of models tell of their own), and what is declared
        is.
Rule 2: labels have values of ours alone (names of models, kinds of errors, statuses): no client can make up new ones.
Rule 3: units are Prometheus's base units, seconds and bytes, except under the names that MMS and TorchServe gave.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

COUNTER, GAUGE, HISTOGRAM, UNTYPED = "counter", "gauge", "histogram", "untyped"


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
