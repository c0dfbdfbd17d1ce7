"""The metrics API: what is declared, documented, drawn and exported is the same; and the numbers are true."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from headrace.errors import InvalidInput, WorkerDied
from headrace.server.app import App
from headrace.server.declared import COUNTER, DECLARED, HISTOGRAM, OURS, UNTYPED, page
from headrace.server.lag import EVERY, LoopLag
from headrace.server.metrics import Metrics
from headrace.server.metrics_api import MOST_WAITING, MetricsApp, write
from headrace.server.system import System
from headrace.server.traffic import LEFT, Traffic
from headrace.serving.compile_options import CompileOptions
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.service import Service
from headrace.serving.wanted import Wanted
from headrace.testing import Gate

ROOT = Path(__file__).resolve().parents[2]
MODULE = """
from headrace.errors import InvalidInput

def same(x):
    return x

def fail(x):
    raise ValueError("no")

def refuse(x):
    raise InvalidInput("not this")
"""


class Bench:
    """A service with its app and its metrics, in this process."""

    def __init__(self, service: Service, measured: bool) -> None:
        self.service, self.traffic, self.lag = service, Traffic(), LoopLag()
        self.app = App(service, max_body_size=1000, traffic=self.traffic if measured else None)
        self.metrics = Metrics(service, self.traffic, self.lag, lambda: self.app.unanswered)
        self.door = MetricsApp(self.metrics)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(asked(self.app, method, path, **options))

    def scrape(self, path: str = "/metrics", method: str = "GET", **options: Any) -> httpx.Response:
        return asyncio.run(asked(self.door, method, path, **options))

    def value(self, name: str, **labels: str) -> float:
        """Of one sample."""
        for family in parse(self.scrape().text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        raise AssertionError(f"{name} {labels} is not there")


async def asked(app: Any, method: str, path: str, **options: Any) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
        return await client.request(method, path, **options)


@pytest.fixture(params=[True], ids=["measured"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    name = f"served_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    service = Service(max_requests=100, max_bytes=1_000_000)
    lifecycle = Lifecycle(service, CompileOptions(measured=request.param, max_batch_size=1))
    for function in "same", "fail", "refuse":
        lifecycle.load(Wanted.parse(f"{function}={name}:{function}"))
    bench = Bench(service, request.param)
    yield bench
    assert service.stop(timeout=30)
    bench.app.close()
    bench.door.close()


def exported(text: str, openmetrics: bool = False) -> dict[str, Any]:
    """Families by the names they are declared under."""
    found = {}
    for family in (parse_openmetrics if openmetrics else parse)(text):
        name = f"{family.name}_total" if family.type == COUNTER else family.name
        found[name] = family
    return found


# ---- the same names everywhere


@pytest.mark.parametrize("openmetrics", [False, True])
def test_what_is_declared_is_what_is_exported(bench: Bench, openmetrics: bool) -> None:
    bench.ask("POST", "/predictions/same", content=b"x")
    bench.ask("POST", "/predictions/nobody", content=b"x")
    headers = {"accept": "application/openmetrics-text; version=1.0.0"} if openmetrics else {}
    found = exported(bench.scrape(headers=headers).text, openmetrics)
    assert set(found) == set(DECLARED)
    for name, family in found.items():
        declared = DECLARED[name]
        assert family.documentation == declared.meaning
        assert family.type == {UNTYPED: "unknown"}.get(declared.kind, declared.kind)
        assert family.samples, name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(declared.labels), name


def test_the_documentation_is_made_from_the_declarations() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == page(), "run: make settings"
    for metric in DECLARED.values():
        assert f"| `{metric.name}` | {metric.kind} |" in page()
        assert "|" not in metric.meaning


@pytest.mark.parametrize("metric", OURS, ids=lambda metric: metric.name)
def test_our_names_say_their_unit(metric: Any) -> None:
    assert metric.name.startswith("headrace_")
    assert (metric.kind == COUNTER) == metric.name.endswith("_total")
    if metric.unit in ("seconds", "bytes"):
        assert metric.unit in metric.name
    if metric.kind == HISTOGRAM:
        assert metric.unit in metric.name


def test_the_dashboard_draws_what_is_exported_and_is_whole() -> None:
    board = json.loads((ROOT / "deploy/grafana/headrace.json").read_text())
    assert board["schemaVersion"] >= 38  # Grafana 10
    names = {sample for metric in DECLARED.values() for sample in samples_of(metric)}
    ids, places, drawn = set(), set(), set()
    for panel in board["panels"]:
        ids.add(panel["id"])
        places.add(tuple(panel["gridPos"].values()))
        for target in panel.get("targets", ()):
            expression = re.sub(r'"[^"]*"|\$\w+', "", target["expr"])
            words = set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*(?=\{)", expression))
            assert words, target["expr"]
            assert words <= names, target["expr"]
            assert target["expr"].count("(") == target["expr"].count(")")
            drawn |= words
    assert len(ids) == len(places) == len(board["panels"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            assert re.findall(r"label_values\((\w+),", variable["definition"])[0] in names
    for stage in "decode", "queue", "run", "encode":
        assert f"headrace_{stage}_seconds_bucket" in drawn


def samples_of(metric: Any) -> list[str]:
    if metric.kind == HISTOGRAM:
        return [f"{metric.name}_{end}" for end in ("bucket", "count", "sum")]
    return [metric.name]


# ---- true numbers


def test_requests_are_counted_by_model_version_and_status(bench: Bench) -> None:
    for _ in range(3):
        assert bench.ask("POST", "/predictions/same", content=b"12345").status_code == 200
    assert bench.ask("POST", "/predictions/fail", content=b"1").status_code == 500
    assert bench.ask("POST", "/predictions/refuse", content=b"1").status_code == 400
    assert bench.ask("POST", "/predictions/nobody", content=b"1").status_code == 404
    assert bench.ask("HEAD", "/ping").status_code == 200
    count = "headrace_requests_total"
    assert bench.value(count, model="same", version="1", code="200") == 3
    assert bench.value(count, model="fail", version="1", code="500") == 1
    assert bench.value(count, model="refuse", version="1", code="400") == 1
    assert bench.value(count, model="", version="", code="404") == 1
    assert bench.value(count, model="", version="", code="200") == 1
    assert bench.value("headrace_request_body_bytes_total", model="same") == 15
    assert bench.value("headrace_response_body_bytes_total", model="same") == 15
    assert bench.value("Requests2XX") == 4
    assert bench.value("Requests4XX") == 2
    assert bench.value("Requests5XX") == 1
    assert bench.value("ts_inference_requests_total", model_name="same", model_version="1") == 3
    assert bench.value("headrace_outcomes_total", model="fail", outcome="failed") == 1
    assert bench.value("headrace_refusals_total", reason="BackendError") == 1
    assert bench.value("headrace_refusals_total", reason="InvalidInput") == 1
    assert bench.value("headrace_refusals_total", reason="ModelNotFound") == 1


@pytest.mark.parametrize("stage", ["request", "decode", "queue", "run", "encode"])
def test_each_stage_is_observed_once_for_each_request(bench: Bench, stage: str) -> None:
    v2 = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}]}
    for _ in range(3):
        assert bench.ask("POST", "/predictions/same", content=b"x").status_code == 200
        assert bench.ask("POST", "/v2/models/same/infer", json=v2).status_code == 200
    assert bench.value(f"headrace_{stage}_seconds_count", model="same") == 6
    assert bench.value(f"headrace_{stage}_seconds_bucket", model="same", le="+Inf") == 6
    assert 0 < bench.value(f"headrace_{stage}_seconds_sum", model="same") < 30


def test_too_large_too_many_and_unready_have_reasons_of_their_own(bench: Bench) -> None:
    bench.ask("POST", "/predictions/same", content=b"x" * 1001)
    permits = [bench.service.budget.admit(1) for _ in range(100)]
    bench.ask("POST", "/predictions/same", content=b"x")
    assert bench.value("headrace_in_flight") == 100
    for permit in permits:
        permit.release()
    assert bench.value("headrace_in_flight") == 0
    assert bench.value("headrace_in_flight_limit") == 100
    assert bench.value("headrace_refusals_total", reason="TooLarge") == 1
    assert bench.value("headrace_refusals_total", reason="Overloaded") == 1


def test_a_refusal_by_the_headers_is_of_the_model_it_was_for(bench: Bench) -> None:
    assert bench.ask("POST", "/predictions/same", content=b"x" * 1001).status_code == 413
    assert bench.value("headrace_requests_total", model="same", code="413") == 1


def test_a_client_that_left_has_had_no_answer_of_4xx(bench: Bench) -> None:
    bench.traffic.answered(None, LEFT, 0, 0, bench.traffic.now(), None)
    bench.ask("GET", "/nowhere")
    assert bench.value("headrace_requests_total", model="", code="499") == 1
    assert bench.value("Requests4XX") == 1


def test_there_are_refusals_to_draw_before_the_first(bench: Bench) -> None:
    assert "# TYPE headrace_refusals_total counter" in bench.scrape().text
    assert bench.value("headrace_refusals_total") == 0


def test_no_client_can_make_up_a_label(bench: Bench) -> None:
    before = len(bench.scrape().text.splitlines())
    bench.ask("POST", "/predictions/nobody", content=b"x")
    once = len(bench.scrape().text.splitlines())
    for number in range(20):
        bench.ask("POST", f"/predictions/nobody{number}", content=b"x")
        bench.ask("GET", f"/nowhere/{number}")
    again = len(bench.scrape().text.splitlines())
    assert before <= once
    assert again <= once + 1  # NotFound beside ModelNotFound


# ---- the door


def test_workers_and_their_restarts_are_counted_by_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ends.py").write_text("import os\ndef f(x):\n    os._exit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    service = Service(max_requests=100, max_bytes=1_000_000)
    lifecycle = Lifecycle(service, CompileOptions(measured=True, isolation="process", workers=2, idempotent=False))
    model = lifecycle.load(Wanted.parse("ends=ends:f")).served.model
    bench, why = Bench(service, True), "headrace_worker_restarts_total"
    assert bench.value("headrace_workers", model="ends", version="1", state="ready") == 2
    assert bench.value("headrace_workers", model="ends", version="1", state="busy") == 0
    assert bench.value(why, model="ends", version="1", why="died") == 0
    with pytest.raises(WorkerDied):
        model(1)
    wait_for(lambda: bench.value(why, model="ends", version="1", why="died") == 1)
    assert bench.value(why, model="ends", version="1", why="hung") == 0
    assert service.stop(timeout=30)
    bench.app.close()
    bench.door.close()


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come about")


def test_prometheus_and_openmetrics_each_get_their_own_form(bench: Bench) -> None:
    plain = bench.scrape(headers={"accept": "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"})
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    both = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,*/*;q=0.1"
    other = bench.scrape(headers={"accept": both})
    assert other.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert other.text.endswith("# EOF\n")
    assert "# EOF" not in plain.text


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("name[]=headrace_queue_seconds", {"headrace_queue_seconds"}),
        ("name[]=headrace_queue_seconds_count", {"headrace_queue_seconds"}),
        ("name[]=Requests2XX&name[]=ts_inference_requests_total", {"Requests2XX", "ts_inference_requests_total"}),
        ("name%5B%5D=process_open_fds", {"process_open_fds"}),
        ("name[]=nothing", set()),
    ],
)
def test_only_what_is_asked_for_is_told(bench: Bench, query: str, names: set[str]) -> None:
    assert set(exported(bench.scrape(f"/metrics?{query}").text)) == names


def test_other_paths_and_verbs_are_refused(bench: Bench) -> None:
    assert bench.scrape("/").status_code == 404
    assert bench.scrape("/metricsx").status_code == 404
    posted = bench.scrape(method="POST")
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")
    assert bench.scrape("/metrics/").status_code == 200
    head = bench.scrape(method="HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 1000


def test_scrapes_do_not_hold_up_the_loop_and_too_many_are_told_so(bench: Bench) -> None:
    gate, read, threads = Gate(), bench.metrics.read, set()

    def waiting() -> Any:
        threads.add(threading.get_ident())
        gate()
        return read()

    bench.metrics.read = waiting  # type: ignore[method-assign]

    async def many() -> list[int]:
        scrapes = [asyncio.create_task(asked(bench.door, "GET", "/metrics")) for _ in range(MOST_WAITING)]
        await asyncio.get_running_loop().run_in_executor(None, gate.wait)  # which lets the others get there too
        assert bench.door._waiting == MOST_WAITING
        one_more = await asked(bench.door, "GET", "/metrics")
        gate.open()
        return [one_more.status_code, *[scrape.status_code for scrape in await asyncio.gather(*scrapes)]]

    assert asyncio.run(many()) == [503] + [200] * MOST_WAITING
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_a_sample_that_was_not_declared_is_not_exported(bench: Bench) -> None:
    bench.metrics.read = lambda: iter([("headrace_streams", {"models": "x"}, 1.0)])  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="headrace_streams has the labels"):
        write(bench.metrics, "")


# ---- off


@pytest.mark.parametrize("bench", [False], indirect=True, ids=["not measured"])
def test_where_nobody_wants_to_know_nothing_is_kept(bench: Bench) -> None:
    assert bench.ask("POST", "/predictions/same", content=b"x").status_code == 200
    (same, *_) = list(bench.service.registry)
    assert same.served is not None
    assert same.served.measures is None
    assert same.served.model.measures() is None
    assert not bench.traffic.others.statuses


# ---- the loop and the machine


def test_a_loop_that_is_late_is_seen_to_be() -> None:
    lag = LoopLag()

    class Loop:
        now, due = 100.0, 0.0

        def time(self) -> float:
            return self.now

        def call_at(self, when: float, callback: Any, *arguments: Any) -> asyncio.TimerHandle:
            self.due, self.callback, self.arguments = when, callback, arguments
            return None  # type: ignore[return-value]

    loop: Any = Loop()
    lag._next(loop)
    for late in 0.0, 0.3:
        assert loop.due == loop.now + EVERY
        loop.now = loop.due + late
        loop.callback(*loop.arguments)
    read = lag.seconds.read()
    assert read.count == 2
    assert read.total == pytest.approx(0.3)


def test_a_timer_of_the_loop_ends_with_it() -> None:
    async def main() -> bool:
        lag = LoopLag()
        lag.begin()
        timer = lag._timer
        assert timer is not None
        lag.end()
        return timer.cancelled()

    assert asyncio.run(main())


def test_the_machine_is_not_asked_again_within_a_second() -> None:
    system = System()
    first = system.usage()
    assert system.usage() is first
    assert 0 <= first.memory_percent <= 100
    assert first.memory_used > 0
    assert first.disk_available > 0
    system._at -= 10
    assert system.usage() is not first


def test_a_refusal_has_the_reason_of_its_nearest_kin_in_the_table() -> None:
    from headrace.server.status import reason_of

    class Special(InvalidInput):
        pass

    assert reason_of(Special("x")) == "InvalidInput"
    assert reason_of(KeyError("x")) == "Unexpected"
