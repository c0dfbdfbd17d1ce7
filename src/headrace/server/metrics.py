"""Reads the metrics that are `declared` from plain counters, when somebody asks.

Rule 1: but for what is declared there is what handlers of models tell of their own: that has the names they gave it
        (`handler_metrics`), and is bounded where it is counted (`workers.told`).
"""

from __future__ import annotations

import platform
import socket
from collections import Counter
from collections.abc import Callable, Iterator

from headrace.log import lost_lines
from headrace.model.model import Model
from headrace.server.declared import DECLARED
from headrace.server.handler_metrics import Told, Value, told_of
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
