"""The server beside other model servers and the bare HTTP stack, each figure beside its gate.

    python benchmarks/server.py [--rounds 3] [--only noop,newcomers,resnet,json] [--secs 3] [--quick] [--out FOLDER]

    noop       a model that does nothing, at 1 to 1,000 keep-alive connections (5,000 for the fastest): rate, p50, p99,
               failures, CPU per request, idle CPU, memory of the process tree, start to first answer
    newcomers  200 connections that come while 200 others saturate the server: time to the first answer
    resnet     ResNet-18, a raw float32 tensor in, at 1 to 1,000 connections, beside the engine in one process and
               peers that serve the same file
    json       a tensor of 1x3x128x128 as JSON, beside `loads` and `np.array` alone

Headrace runs as `headrace serve` starts it, with its metrics door open. Peers that are not installed are named and left
out (benchmarks/peers/install.sh). The servers take turns in every round; those that come nowhere near the gates have
one turn, in the first. Prints medians and gates, appends every row to results/server.jsonl and writes
results/server.md. A missed gate is printed, and is no failure of the run. About 18 minutes with all peers; `--quick`
shows that it works.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the runtime is imported: no thread that sends usage data

from turns import Figure, Gate, Plan, line, run  # isort: skip - it knows where the peers are
import load
import machine
import measure
from measure import first_answer
from newcomers import storm
from processes import Server, free_port
from run import measuring_alone, one_turn, there
from servers import PEERS, Spec, ours, resnet_file, resnet_input, split
from table import markdown
from table import measured_on as of_peers

Row = dict[str, Any]
PACKAGES = ("headrace", "uvloop", "httptools", "orjson", "numpy", "onnxruntime")
OURS, FLOOR = "headrace:default", "proto-raw:default"
LEVELS, CROWD = (1, 10, 100, 200, 1000), 5000
FAST = ["headrace", "proto-raw", "mosec:tuned", "mosec:batch", "mms:tuned", "mms:batch"]
"""Those the gates are about: in every round."""
SLOW = [
    *("uvicorn-raw", "mosec:default", "mms:default", "torchserve:tuned", "torchserve:batch", "torchserve:default"),
    *("litserve:tuned", "litserve:batch", "mlserver:tuned", "mlserver:batch"),
]
"""In the first round only."""
CROWDED = {OURS, FLOOR, "mosec:batch"}
SCHEDULERS = ("single_stream", "multi_stream")
SHAPE = (1, 3, 128, 128)


def main() -> int:
    if sys.argv[1:2] == ["--engine"]:
        print(json.dumps(asyncio.run(engine_alone(sys.argv[2], sys.argv[3], float(sys.argv[4])))))
        return 0
    load.open_files()
    return run("server", "The server", FIGURES, PACKAGES, __doc__, rounds=3)


class Found:
    """The rows of one figure."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.absent: dict[str, str] = {}

    def at(self, server: str, connections: int) -> list[Row]:
        return [row for row in self.rows if (row["server"], row["connections"]) == (server, connections)]

    def middle(self, server: str, connections: int, key: str) -> float:
        """NaN where it was not measured: no gate holds then."""
        values = [row[key] for row in self.at(server, connections) if row[key] is not None]
        return median(values) if values else float("nan")

    def failed(self, server: str, connections: int) -> int:
        return sum(row["failed"] for row in self.at(server, connections))

    def peers(self, prefix: str = "") -> list[str]:
        """Other model servers, of those that were measured."""
        names = dict.fromkeys(row["server"] for row in self.rows)
        return [name for name in names if not name.startswith(("headrace", "proto-raw", "uvicorn-raw"))
                and name.startswith(prefix)]  # fmt: skip

    def best(
        self, connections: int, key: str, *, least: bool, prefix: str = "", whole: bool = False
    ) -> tuple[str, float]:
        """(the peer, its median). `whole`: of those that failed nobody, since a refusal is quick."""
        found = [
            (self.middle(name, connections, key), name)
            for name in self.peers(prefix)
            if self.at(name, connections) and not (whole and self.failed(name, connections))
        ]
        if not found:
            return "no peer", float("inf" if least else "nan")
        value, name = min(found) if least else max(found)
        return name, value

    def notes(self) -> str:
        left_out = [f"{name}: {why}" for name, why in self.absent.items()]
        said = [of_peers(self.rows)] if self.rows else []
        return "\n\n".join([*said, *(["Left out: " + "; ".join(left_out)] if left_out else [])])


def take_turns(
    plan: Plan, figure: str, found: Found, names: Iterable[str], how: Callable[[str], measure.Plan], number: int
) -> None:
    """One round. A server that fails is named, and the others go on."""
    for name in names:
        try:
            for row in one_turn(name, number, how(name), rounds=plan.rounds):
                found.rows.append(row)
                keep(plan, {"figure": figure, **row})
        except RuntimeError as error:
            found.absent[name] = f"failed, {str(error).splitlines()[0]}"
            print(f"{name}: FAILED, {error}", flush=True)


def keep(plan: Plan, row: Row) -> None:
    with (plan.out / f"{plan.name}.jsonl").open("a") as file:
        file.write(json.dumps({**row, "quick": plan.quick}) + "\n")


def present(names: list[str], found: Found) -> list[str]:
    here, absent = there(names)
    found.absent |= absent
    return here


def secs_of(plan: Plan, usual: int) -> int:
    return max(1, round(plan.asked_secs or (1 if plan.quick else usual)))


# ---- noop


def noop(plan: Plan) -> Figure:
    found, secs = Found(), secs_of(plan, 3)
    fast, slow = present(FAST, found), present(SLOW, found)

    def how(name: str) -> measure.Plan:
        levels = (*LEVELS, CROWD) if name in CROWDED else LEVELS
        rest = {"settle_secs": 0.5, "idle_secs": 0.5} if plan.quick else {"settle_secs": 1.0, "idle_secs": 2.0}
        return measure.Plan(levels, secs, warm_secs=1 if plan.quick else 2, tries=1 if plan.quick else 2, **rest)

    for number in range(1, plan.rounds + 1):
        take_turns(plan, "noop", found, fast if number > 1 or plan.quick else [*fast, *slow], how, number)
    return Figure("No-op", markdown(found.rows), list(noop_gates(found)), found.notes())


def noop_gates(found: Found) -> Iterator[Gate]:
    for at in (100, 200, 1000):
        mine = found.middle(OURS, at, "requests_per_s")
        name, best = found.best(at, "requests_per_s", least=False)
        _, mosec = found.best(at, "requests_per_s", least=False, prefix="mosec")
        yield Gate(
            f"no-op, {at:,} connections, requests/s", f"above {best:,.0f} ({name})", f"{mine:,.0f}", mine > best,
            f"{1.5 * mosec:,.0f}", mine >= 1.5 * mosec,
        )  # fmt: skip
    mine = found.middle(OURS, 1, "p50_ms")
    name, best = found.best(1, "p50_ms", least=True)
    yield Gate(
        "no-op, 1 connection, p50", f"below {best:.2f} ms ({name})", f"{mine:.2f} ms", mine < best,
        "0.12 ms", mine <= 0.12,
    )  # fmt: skip
    times = found.middle(OURS, 100, "cpu_us_per_request") / found.middle(FLOOR, 100, "cpu_us_per_request")
    yield Gate(
        "CPU per request of the bare echo's, 100 connections", "3x", f"{times:.2f}x", times <= 3, "2x", times <= 2
    )
    failed, crowd = sum(found.failed(OURS, at) for at in LEVELS), found.at(OURS, CROWD)
    yield Gate(
        "failed requests, 1 to 1,000 connections", "0", f"{failed}", not failed,
        f"0 at {CROWD:,}", bool(crowd) and not found.failed(OURS, CROWD),
    )  # fmt: skip
    for at in (10, 100, 200, 1000):
        mine = found.middle(OURS, at, "p99_ms")
        name, best = found.best(at, "p99_ms", least=True, whole=True)
        yield Gate(f"p99, {at:,} connections", f"below {best:.2f} ms ({name})", f"{mine:.2f} ms", mine < best)
    for at in (100, 200, 1000, CROWD):
        if found.at(OURS, at):
            mine, floor = (found.middle(who, at, "p99_ms") / found.middle(who, at, "p50_ms") for who in (OURS, FLOOR))
            yield Gate(
                f"p99/p50 of the bare echo's ({floor:.2f}), {at:,} connections" + (" (an aim)" if at == CROWD else ""),
                "1.3x", f"{mine / floor:.2f}x ({mine:.2f})", mine <= 1.3 * floor,
            )  # fmt: skip
    for what, key, unit in (
        ("start to first answer", "cold_s", "s"),
        ("memory of the process tree after 1,000 connections, PSS", "pss_mib", "MiB"),
    ):
        mine = found.middle(OURS, 1000, key)
        _, mms = found.best(1000, key, least=True, prefix="mms")
        _, mosec = found.best(1000, key, least=True, prefix="mosec")
        yield Gate(
            what, f"below {mms:,.2f} {unit} (mms)", f"{mine:,.2f} {unit}", mine < mms,
            f"below {mosec:,.2f} {unit} (mosec)", mine < mosec,
        )  # fmt: skip


# ---- newcomers

SATURATING, NEWCOMERS, STORMS = 200, 200, 5


def newcomers(plan: Plan) -> Figure:
    found = Found()
    names = present(["headrace", "proto-raw", "uvicorn-raw", "mosec:batch", "mms:batch"], found)
    waits: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(1, plan.rounds + 1):
        for name in names:
            try:
                values = newcomers_of(name, 1 if plan.quick else STORMS)
            except RuntimeError as error:
                found.absent[name] = f"failed, {str(error).splitlines()[0]}"
                print(f"{name}: FAILED, {error}", flush=True)
                continue
            waits[name].append(values)
            print(f"[{number}/{plan.rounds}] newcomers {name:18s} {said(values)}", flush=True)
            keep(plan, {"figure": "newcomers", "server": name, "round": number, **values, **machine.surroundings()})
    waits = {name: values for name, values in waits.items() if values}
    p99 = median(each["p99_ms"] for each in waits.get(OURS, [{"p99_ms": float("nan")}]))
    answered = all(each["answered"] == 1 for each in waits.get(OURS, []))
    gate = Gate(
        f"{NEWCOMERS} newcomers while {SATURATING} connections saturate, p99 to the first answer", "100 ms",
        f"{p99:.0f} ms" + ("" if answered else ", not all answered"), p99 <= 100 and answered, "60 ms", p99 <= 60,
    )  # fmt: skip
    columns = {"p50_ms": ".0f", "p99_ms": ".0f", "max_ms": ".0f", "answered": ".1%", "requests_per_s": ",.0f"}
    headings = ("", "p50 ms", "p99 ms", "longest ms", "answered", "requests/s of the others")
    return Figure("Newcomers", medians(headings, columns, waits), [gate], left_out(found))


def newcomers_of(name: str, storms: int) -> dict[str, float]:
    times: list[float | None] = []
    with measuring_alone(), started(PEERS[split(name)[0]].build, split(name)[1]) as (server, spec, _):
        load.wrk(spec.url, connections=32, seconds=1, body=spec.body)
        command = load.command(spec.url, connections=SATURATING, seconds=2 + storms)
        environment = load.environment(spec.body, spec.content_type)
        busy = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            time.sleep(1.0)
            for _ in range(storms):
                times += storm(spec.url, spec.body.read_bytes(), NEWCOMERS)
                time.sleep(0.3)
            others = load.counted(busy.communicate(timeout=60)[0])
        finally:
            busy.kill()
            busy.wait()
        if server.exited():
            raise RuntimeError(f"ended: {server.log_tail()}")
    ordered = sorted(each * 1e3 for each in times if each is not None)
    if not ordered:
        raise RuntimeError("no newcomer was answered")
    return {
        "p50_ms": ordered[len(ordered) // 2],
        "p99_ms": ordered[len(ordered) * 99 // 100],
        "max_ms": ordered[-1],
        "answered": len(ordered) / len(times),
        "requests_per_s": others["requests_per_s"],
    }


@contextlib.contextmanager
def started(build: Callable[[Path, str], Spec], variant: str) -> Iterator[tuple[Server, Spec, float]]:
    """(a server that has answered, its spec, the seconds until then)."""
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        spec = build(folder, variant)
        server = Server(spec.argv, env={**spec.env, "DO_NOT_TRACK": "1"}, cwd=folder, log=folder / "server.log")
        try:
            yield server, spec, first_answer(server, spec)
        finally:
            server.stop(spec.grace)


# ---- resnet


def resnet(plan: Plan) -> Figure:
    found, engine, secs = Found(), {name: [] for name in SCHEDULERS}, secs_of(plan, 4)
    mine = [f"headrace-resnet:{name}" for name in SCHEDULERS]
    others = [f"{name}-resnet:{how}" for name in ("mosec", "mms", "torchserve") for how in ("wide", "narrow")]
    mine, others = present(mine, found), present(others, found)
    levels = (1, 100) if plan.quick else (1, 10, 100, 1000)
    # With a thousand in line each waits for seconds: long enough for two of its answers, and nobody is given up.
    how = measure.Plan(
        levels, secs, warm_secs=1 if plan.quick else 2, settle_secs=0, idle_secs=0.2, tries=1,
        secs_at={1: max(1, secs // 2), 1000: max(secs, 20)}, timeout=60,
    )  # fmt: skip
    for number in range(1, plan.rounds + 1):
        for name in SCHEDULERS:
            with measuring_alone():
                values = engine_in_a_process(name, secs)
            engine[name].append(values)
            print(f"[{number}/{plan.rounds}] engine, {name}: {said(values)}", flush=True)
            keep(plan, {"figure": "resnet", "server": f"engine, {name}", "round": number, **values})
        take_turns(plan, "resnet", found, mine if number > 1 else [*mine, *others], lambda _: how, number)
    alone = max(median(each["requests_per_s"] for each in engine[name]) for name in SCHEDULERS)
    gates = list(resnet_gates(found, mine, alone, levels))
    table = medians(
        ("100 callers in one process, no server", "requests/s", "p50 ms", "p99 ms"),
        {"requests_per_s": ".1f", "p50_ms": ".1f", "p99_ms": ".1f"},
        {f"engine, {name}": values for name, values in engine.items()},
    )
    note = "wide: one worker with a thread for each core; narrow: a worker with one thread for each core. None spins."
    return Figure(
        "ResNet-18, 128x128, raw float32", f"{markdown(found.rows)}\n\n{table}", gates, f"{note}\n\n{found.notes()}"
    )


def resnet_gates(found: Found, mine: list[str], alone: float, levels: tuple[int, ...]) -> Iterator[Gate]:
    failed = sum(found.failed(name, at) for name in mine for at in levels)
    yield Gate(f"ResNet-18, failed requests, {levels[0]} to {levels[-1]:,} connections", "0", f"{failed}", not failed)
    for at in levels:
        name, rate = max(((name, found.middle(name, at, "requests_per_s")) for name in mine), key=lambda each: each[1])
        if at == 100:
            share = rate / alone
            yield Gate(
                "ResNet-18, 100 connections, rate of the engine's in one process", "0.95", f"{share:.3f} ({name})",
                share >= 0.95, "0.98", share >= 0.98,
            )  # fmt: skip
        peer, best = found.best(at, "requests_per_s", least=False)
        yield Gate(
            f"ResNet-18, {at:,} connections, requests/s", f"{best:.1f} ({peer})", f"{rate:.1f} ({name})", rate >= best
        )


def engine_in_a_process(scheduler: str, secs: float) -> dict[str, float]:
    argv = [sys.executable, __file__, "--engine", scheduler, str(resnet_file()), str(secs)]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    if ran.returncode:
        raise RuntimeError(ran.stderr[-1000:])
    return json.loads(ran.stdout)


async def engine_alone(scheduler: str, path: str, secs: float) -> dict[str, float]:
    """100 callers of the library, back to back."""
    import headrace as hr

    times: list[float] = []
    x = resnet_input()
    with hr.compile_model(path, scheduler=scheduler) as model:
        begun = time.perf_counter() + 1.0  # the first second warms up

        async def caller() -> None:
            while (since := time.perf_counter()) < begun + secs:
                await model.asubmit(x)
                if begun <= time.perf_counter() < begun + secs:
                    times.append(time.perf_counter() - since)

        await asyncio.gather(*(caller() for _ in range(100)))
    ordered = sorted(each * 1e3 for each in times)
    return {
        "requests_per_s": len(times) / secs,
        "p50_ms": ordered[len(ordered) // 2],
        "p99_ms": ordered[len(ordered) * 99 // 100],
    }


# ---- json


def json_in(plan: Plan) -> Figure:
    import numpy as np
    import orjson

    secs = secs_of(plan, 3)
    # float32 as Python writes it: 17 digits, about a megabyte.
    body = orjson.dumps(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32).tolist())
    kinds = {"loads + np.array": bare_decoding, "the server's codec": own_decoding, "the server": in_the_server}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "body.json").write_bytes(body)
        write_mean(path / "mean.onnx")
        for number in range(1, plan.rounds + 1):
            for name, turn in kinds.items():
                with measuring_alone():
                    values = turn(path, secs)
                turns[name].append(values)
                print(f"[{number}/{plan.rounds}] json {name}: {said(values)}", flush=True)
                keep(plan, {"figure": "json", "server": name, "round": number, **values, **machine.surroundings()})
    bare, codec = ([each["decode_ms"] for each in turns[name]] for name in list(turns)[:2])
    times = median(ours / theirs for ours, theirs in zip(codec, bare))
    cpu = median(each["cpu_ms"] / theirs for each, theirs in zip(turns["the server"], bare))
    gate = Gate(
        "JSON tensor 1x3x128x128 in, of `loads` + `np.array` alone", "1.2x",
        f"{times:.2f}x (all of the request's CPU {cpu:.2f}x)", times <= 1.2,
    )  # fmt: skip
    columns = {"decode_ms": ".2f", "p50_ms": ".2f", "cpu_ms": ".2f", "requests_per_s": ",.0f"}
    headings = ("", "body to inputs ms", "p50 ms", "CPU ms", "requests/s")
    note = (
        f"{len(body):,} bytes, one connection, a model that takes the mean. Body to inputs: of the server what its "
        "own metrics say of its decode stage. p50 and CPU are of the whole request, with the reading of the body."
    )
    return Figure("A tensor as JSON", medians(headings, columns, turns), [gate], note)


def write_mean(path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2, 3], keepdims=0)],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def bare_decoding(folder: Path, secs: float) -> dict[str, float]:
    import numpy as np
    import orjson

    return again(lambda body: np.array(orjson.loads(body), np.float32), folder, secs)


def own_decoding(folder: Path, secs: float) -> dict[str, float]:
    """What the door does with the body, with all its checks."""
    import numpy as np

    from headrace.codecs import torchserve
    from headrace.tensor import TensorSpec

    specs = (TensorSpec("x", np.dtype(np.float32), (None, *SHAPE[1:])),)

    def decode(body: bytes) -> object:
        return torchserve.tensors_from_json(torchserve.decode_body(body, load.JSON), specs)

    return again(decode, folder, secs)


def again(decode: Callable[[bytes], object], folder: Path, secs: float) -> dict[str, float]:
    body, times = (folder / "body.json").read_bytes(), []
    until = time.perf_counter() + secs
    while (since := time.perf_counter()) < until:
        decode(body)
        times.append(time.perf_counter() - since)
    return {"decode_ms": median(times) * 1e3}


def in_the_server(folder: Path, secs: int) -> dict[str, float]:
    port = free_port()

    def build(_: Path, __: str) -> Spec:
        return ours(f"mean={folder / 'mean.onnx'}", metrics=f"127.0.0.1:{port}", body=folder / "body.json", must=b"[")

    with started(build, "") as (server, spec, _):
        load.wrk(spec.url, connections=1, seconds=1, body=spec.body)
        before, cpu = decoded(port), server.cpu_seconds()
        found = load.wrk(spec.url, connections=1, seconds=secs, body=spec.body)
        cpu = server.cpu_seconds() - cpu
        total, count = (after - then for after, then in zip(decoded(port), before))
    if found["failed"]:
        raise RuntimeError(f"{found['failed']} requests failed")
    return {
        "decode_ms": total / count * 1e3,
        "p50_ms": found["p50_ms"],
        "cpu_ms": cpu / found["good"] * 1e3,
        "requests_per_s": found["requests_per_s"],
    }


def decoded(port: int) -> tuple[float, float]:
    """(seconds, bodies) of the decode stage so far, by the server's own metrics."""
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    page = opener.open(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    found = dict(each.rpartition(" ")[::2] for each in page.splitlines() if each.startswith("headrace_decode_seconds_"))
    return tuple(
        sum(float(value) for name, value in found.items() if name.startswith(f"headrace_decode_seconds_{what}"))
        for what in ("sum", "count")
    )  # type: ignore[return-value]


# ---- pages


def medians(headings: Iterable[str], columns: dict[str, str], rounds: dict[str, list[dict[str, float]]]) -> str:
    headings = list(headings)
    lines = [line(headings), line(["---", *["---:"] * (len(headings) - 1)])]
    for name, values in rounds.items():
        found = [[each[key] for each in values if key in each] for key in columns]
        lines.append(line([name, *(format(median(f), form) if f else "" for f, form in zip(found, columns.values()))]))
    return "\n".join(lines)


def said(values: dict[str, float]) -> str:
    return "  ".join(f"{key} {value:,.4g}" for key, value in values.items())


def left_out(found: Found) -> str:
    return "Left out: " + "; ".join(f"{name}: {why}" for name, why in found.absent.items()) if found.absent else ""


FIGURES = {"noop": noop, "newcomers": newcomers, "resnet": resnet, "json": json_in}

if __name__ == "__main__":
    sys.exit(main())
